"""Names follow the workspace without a restart; what is in use stays open until it is not."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from core.errors import ArtifactError, Locked
from core.types import Message, Request
from core.workspace import Workspace
from serve.catalog import Catalog
from serve.served import UnknownModel, public_name
from tests.serve.conftest import EchoEngine, declare
from tuning.adapters import Origin, save_origin

HELLO = Request((Message("user", "hello"),))


@pytest.fixture
def opened() -> list[EchoEngine]:
    return []


@pytest.fixture
def catalog(workspace: Workspace, opened: list[EchoEngine]) -> Catalog:
    def open_base(model: str) -> EchoEngine:
        opened.append(EchoEngine(model))
        return opened[-1]

    return Catalog(workspace, open_base)


def prompt_of(catalog: Catalog, name: str, engine: EchoEngine) -> str:
    """The system prompt that `name` puts around a request."""
    with catalog.lease(name) as served:
        list(served.engine.stream(HELLO))
    first = engine.requests[-1].messages[0]
    return first.content if first.role == "system" else ""


def test_new_remedy_goes_live_without_restart(catalog: Catalog, workspace: Workspace, opened: list[EchoEngine]) -> None:
    declare(workspace, "faq", instruction="old")
    with catalog.lease("faq") as old:
        declare(workspace, "faq", route="prompt", instruction="new", answer_format="One word.")
        assert prompt_of(catalog, "faq", opened[0]) == "new\n\nOne word."
        list(old.engine.stream(HELLO))
        assert opened[0].requests[-1].messages[0].content == "old"
    assert len(opened) == 1


def test_fingerprint_changes_only_with_what_is_behind_the_name(catalog: Catalog, workspace: Workspace) -> None:
    declare(workspace, "faq", instruction="a")
    with catalog.lease("faq") as first, catalog.lease("faq") as again:
        assert first.fingerprint == again.fingerprint
    declare(workspace, "faq", instruction="b")
    with catalog.lease("faq") as second:
        assert second.fingerprint != first.fingerprint


def test_use_case_without_a_remedy_is_its_bare_base_model(
    catalog: Catalog, workspace: Workspace, opened: list[EchoEngine]
) -> None:
    workspace.declare("young", {"base_model": "echo", "instruction": "Be kind.", "max_tokens": 9})
    assert [e.name for e in catalog.entries()] == ["young", "young:base", "echo"]
    with catalog.lease("young") as served:
        assert served.max_tokens == 9
    assert prompt_of(catalog, "young", opened[0]) == "Be kind."


def test_new_and_deleted_use_cases_come_and_go(catalog: Catalog, workspace: Workspace) -> None:
    declare(workspace, "faq")
    with catalog.lease("faq"):
        pass
    workspace.delete("faq")
    with pytest.raises(UnknownModel):
        catalog.entry("faq")
    declare(workspace, "faq2")
    assert catalog.entry("faq2").use_case == "faq2"


def test_two_names_of_one_starter_share_an_engine(
    catalog: Catalog, workspace: Workspace, opened: list[EchoEngine]
) -> None:
    declare(workspace, "a", base_model="smollm2-135m-instruct")
    declare(workspace, "b", base_model="HuggingFaceTB/SmolLM2-135M-Instruct")
    for name in ("a", "b"):
        with catalog.lease(name):
            pass
    assert len(opened) == 1


def test_simultaneous_first_leases_open_the_model_once(
    catalog: Catalog, workspace: Workspace, opened: list[EchoEngine]
) -> None:
    declare(workspace, "a")
    declare(workspace, "b")

    def lease(name: str) -> None:
        with catalog.lease(name):
            pass

    threads = [Thread(target=lease, args=(name,)) for name in ("a", "b", "a:base", "echo") * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def test_engine_that_cannot_be_opened_is_tried_again(workspace: Workspace) -> None:
    attempts = []

    def open_base(model: str) -> EchoEngine:
        attempts.append(model)
        if len(attempts) == 1:
            raise ArtifactError("not now")
        return EchoEngine(model)

    declare(workspace, "faq")
    catalog = Catalog(workspace, open_base)
    with pytest.raises(ArtifactError), catalog.lease("faq"):
        pass
    with catalog.lease("faq") as served:
        assert served.engine.model == "echo"


def test_closed_catalog_closes_its_engines(catalog: Catalog, workspace: Workspace, opened: list[EchoEngine]) -> None:
    declare(workspace, "faq")
    with catalog.lease("faq"):
        pass
    catalog.close()
    catalog.close()
    assert opened[0].closed


def test_public_name_hides_addresses_and_folders(tmp_path: Path) -> None:
    assert public_name("gpt-x@https://host/v1") == "gpt-x"
    assert public_name("org/model") == "org/model"
    assert public_name(str(tmp_path / "my-model")) == "my-model"
    assert public_name("./my-model") == "my-model"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "bees.txt").write_text("Bees make honey from nectar.", encoding="utf-8")
    (folder / "ships.txt").write_text("Ships sail the sea with cargo.", encoding="utf-8")
    return folder


@pytest.mark.usefixtures("encoder_folder")
def test_ingested_documents_go_live_while_an_answer_ends_on_the_old_ones(
    catalog: Catalog, workspace: Workspace, documents: Path
) -> None:
    from rag.ingest import ingest

    declare(workspace, "faq", route="rag", top_k=1)
    folder = workspace.use_case("faq")
    ingest(folder, folder.settings(), workspace, [documents])
    old_version = folder.index.active()
    assert old_version is not None
    assert [e.name for e in catalog.entries()] == ["faq", "faq:rag", "faq:base", "echo"]
    ask = Request((Message("user", "Who makes honey?"),))
    with catalog.lease("faq") as old, catalog.lease("faq:rag"):
        (documents / "bees.txt").write_text("Bees make wax, and honey too.", encoding="utf-8")
        ingest(folder, folder.settings(), workspace, [documents])
        with catalog.lease("faq") as new:
            assert [s.text for s in sources(new.engine, ask)] == ["Bees make wax, and honey too."]
        assert [s.text for s in sources(old.engine, ask)] == ["Bees make honey from nectar."]
        assert old_version.is_dir()
    assert not old_version.exists(), "the last answer on the old index releases and removes it"
    with catalog.lease("faq:base") as base:
        assert sources(base.engine, ask) == ()
    catalog.close()


@pytest.mark.usefixtures("encoder_folder")
def test_use_case_made_anew_does_not_answer_from_the_deleted_ones_documents(
    catalog: Catalog, workspace: Workspace, documents: Path
) -> None:
    from rag.ingest import ingest

    declare(workspace, "faq", route="rag", top_k=1)
    ingest(workspace.use_case("faq"), workspace.use_case("faq").settings(), workspace, [documents])
    ask = Request((Message("user", "Who makes honey?"),))
    with catalog.lease("faq") as old:
        workspace.delete("faq")
        (documents / "bees.txt").write_text("Honey comes from the shop.", encoding="utf-8")
        declare(workspace, "faq", route="rag", top_k=1)
        ingest(workspace.use_case("faq"), workspace.use_case("faq").settings(), workspace, [documents])
        with catalog.lease("faq") as new:
            assert [s.text for s in sources(new.engine, ask)] == ["Honey comes from the shop."]
        del old
    catalog.close()


@pytest.mark.usefixtures("encoder_folder")
def test_closing_releases_the_index(catalog: Catalog, workspace: Workspace, documents: Path) -> None:
    from rag.ingest import ingest
    from rag.open import open_retriever

    declare(workspace, "faq", route="rag")
    folder = workspace.use_case("faq")
    ingest(folder, folder.settings(), workspace, [documents])
    with catalog.lease("faq"):
        pass
    with pytest.raises(Locked):
        open_retriever(folder, folder.settings(), workspace)
    catalog.close()
    open_retriever(folder, folder.settings(), workspace).close()


def sources(engine, request):  # type: ignore[no-untyped-def]
    *_, last = engine.stream(request)
    return last.completion.sources


def test_a_full_model_is_opened_from_its_version_and_closed_when_another_is_in_force(workspace: Workspace) -> None:
    opened: list[EchoEngine] = []
    models: list[str] = []

    def open_base(model: str) -> EchoEngine:
        models.append(model)
        opened.append(EchoEngine("echo"))
        return opened[-1]

    catalog = Catalog(workspace, open_base)
    values = {
        "method": "full",
        "base_model": "echo",
        "base_fingerprint": "f",
        "instruction": "Learned.",
        "train_s": 1.0,
    }
    empty: dict[str, object] = {"data": {"rows": 2, "dev_rows": 0}, "recipe": {}, "scores": {}, "versions": {}}
    origin = Origin.model_validate({**values, **empty, "created": "2026-01-01T00:00:00+00:00"})
    declare(workspace, "faq", base_model="echo", instruction="Declared.")
    adapters = workspace.use_case("faq").adapters
    for _ in range(2):
        with adapters.build() as staging:
            save_origin(staging, origin)
    adapters.activate("v0001")
    with catalog.lease("faq:tune") as served:
        assert served.engine_kind == "echo"
    assert models == [str(adapters.folder / "v0001")]
    assert prompt_of(catalog, "faq:tune", opened[0]) == "Learned."
    assert opened[0].requests[-1].adapter is None
    adapters.activate("v0002")
    with catalog.lease("faq:tune"):
        pass
    assert models == [str(adapters.folder / version) for version in ("v0001", "v0002")]
    assert opened[0].closed
    assert not opened[1].closed
    catalog.close()
    assert opened[1].closed
