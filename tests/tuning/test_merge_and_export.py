"""Adapters taken out of Tunefork: merged they answer the same, as GGUF they answer the same, and the template travels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.cli import main
from core.errors import ArtifactError, ConfigError
from core.files import sha256_text
from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tuning.adapters import load_origin
from tuning.examples import TrainingTokenizer
from tuning.gguf_export import export_adapter, export_model, interleaved
from tuning.lint import lint_adapter
from tuning.merge import merge_adapter
from tuning.recipe import LoraRecipe
from tuning.train import train_lora

RECIPE = LoraRecipe(epochs=3, learning_rate=0.02, batch_rows=4, rank=4, harm_check=False)
IDS = torch.tensor([[1, 520, 3521, 640, 28, 1201, 99, 17]])


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits[0].float()
    return logits


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tuning.conftest import card_rows

    workspace = Workspace(tmp_path_factory.mktemp("home"))
    settings = UseCase(name="tiny", base_model=str(tiny_base))
    return train_lora(workspace.path / "adapter", settings, workspace, card_rows.__wrapped__(), RECIPE).folder


@pytest.fixture(scope="module")
def exported(tiny_base: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the merged model and its GGUF, m.gguf."""
    folder = tmp_path_factory.mktemp("exported")
    report = merge_adapter(adapter, str(tiny_base), tiny_base, folder / "merged")
    assert report.merged_difference < 1e-3
    assert report.same_next_token > 0.95
    export_model(folder / "merged", folder / "m.gguf", "tiny")
    return folder


def _pair(tiny_base: Path, adapter: Path) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    return PeftModel.from_pretrained(base, adapter)


def test_a_merged_model_answers_as_base_and_adapter(tiny_base: Path, adapter: Path, exported: Path) -> None:
    from transformers import AutoModelForCausalLM

    merged = AutoModelForCausalLM.from_pretrained(exported / "merged", dtype=torch.float32)
    expected = _logits(_pair(tiny_base, adapter))
    assert torch.allclose(_logits(merged), expected, atol=0.02 * float(expected.abs().max()))
    assert TrainingTokenizer(exported / "merged").template == TrainingTokenizer(tiny_base).template


def test_an_adapter_of_another_base_is_not_merged(starter_folder: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot be used with"):
        merge_adapter(adapter, "smollm2-135m-instruct", starter_folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_gguf_of_the_merged_model_loads_back_with_the_same_logits_and_template(
    tiny_base: Path, exported: Path
) -> None:
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    back = AutoModelForCausalLM.from_pretrained(exported, gguf_file="m.gguf", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(exported / "merged", dtype=torch.float32)
    expected = _logits(merged)
    assert torch.allclose(_logits(back), expected, atol=2e-3 * float(expected.abs().max()))
    fields = GGUFReader(exported / "m.gguf").fields
    template = TrainingTokenizer(tiny_base).template
    assert fields["tokenizer.chat_template"].contents() == template
    assert fields["tunefork.template_sha256"].contents() == sha256_text(template)


def test_a_gguf_adapter_is_the_same_change_to_the_gguf_base(
    tiny_base: Path, adapter: Path, exported: Path, tmp_path: Path
) -> None:
    from gguf import GGUFReader

    export_adapter(adapter, str(tiny_base), tiny_base, tmp_path / "a.gguf")
    export_model(tiny_base, tmp_path / "base.gguf", "tiny")

    def tensors(path: Path) -> dict[str, torch.Tensor]:
        return {t.name: torch.tensor(t.data).float() for t in GGUFReader(path).tensors}

    base, merged = tensors(tmp_path / "base.gguf"), tensors(exported / "m.gguf")
    change = tensors(tmp_path / "a.gguf")
    reader = GGUFReader(tmp_path / "a.gguf")
    assert reader.fields["adapter.lora.alpha"].contents() == 4.0
    stems = sorted(name.removesuffix(".lora_a") for name in change if name.endswith(".lora_a"))
    assert len(stems) == 2 * 7
    for stem in stems:
        expected = base[stem] + change[f"{stem}.lora_b"] @ change[f"{stem}.lora_a"]
        assert torch.allclose(expected, merged[stem], atol=4e-3 * float(merged[stem].abs().max())), stem


@given(st.integers(1, 6), st.integers(1, 8))
def test_rows_are_interleaved_within_each_head(heads: int, half: int) -> None:
    rows = torch.arange(heads * 2 * half)[:, None]
    found = interleaved(rows, heads)[:, 0].tolist()
    assert found == [h * 2 * half + part * half + i for h in range(heads) for i in range(half) for part in (0, 1)]


def test_a_model_that_is_no_llama_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="type 'gpt2' are not exported"):
        export_model(tmp_path / "gpt2", tmp_path / "x.gguf", "x")
    assert not (tmp_path / "x.gguf").exists()


def test_dora_can_be_merged_and_is_said_not_to_be_servable(
    workspace: Workspace, tiny: UseCase, tiny_base: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"dora": True})
    report = train_lora(tmp_path / "dora", tiny, workspace, card_rows, recipe)
    assert any("DoRA" in warning and "tunefork export NAME --merge" in warning for warning in report.warnings)
    assert merge_adapter(report.folder, str(tiny_base), tiny_base, tmp_path / "merged").merged_difference < 1e-3


def test_a_plain_adapter_has_nothing_against_it(adapter: Path) -> None:
    assert lint_adapter(adapter) == []


def test_what_vllm_refuses_is_named(adapter: Path, tmp_path: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(config | {"r": 1024, "modules_to_save": ["lm_head"]}))
    assert len(lint_adapter(tmp_path)) == 2


@pytest.fixture
def tuned(workspace: Workspace, tiny_base: Path, card_rows: list[Row], tmp_path: Path) -> Workspace:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    flags = ["--method", "lora", "--epochs", "0.5", "--rank", "2", "--base-model", str(tiny_base)]
    for _ in range(2):
        assert main(["tune", "bank", "--train", str(train), *flags]) == 0
    return workspace


def test_rollback_goes_to_the_version_before_and_to_a_named_one(
    tuned: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tuned.use_case("bank")
    assert main(["rollback", "bank"]) == 0
    active = folder.adapters.active()
    assert active is not None and active.name == "v0001"
    assert main(["rollback", "bank"]) == 2
    assert "v0001 is the first version" in capsys.readouterr().err
    assert main(["rollback", "bank", "v0002", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["before"] == "v0001"
    assert main(["rollback", "bank", "v0009"]) == 2
    assert "there are v0001, v0002" in capsys.readouterr().err


def test_rollback_moves_what_was_built(tuned: Workspace) -> None:
    from core.remedy import Remedy, load_remedy, save_remedy

    folder = tuned.use_case("bank")
    made = Remedy(
        use_case="bank", route="tune", method="lora", base_model="b", embedding_model="e", adapter_version="v0002"
    )
    save_remedy(folder.remedy_path, made)
    assert main(["rollback", "bank", "v0001"]) == 0
    after = load_remedy(folder.remedy_path)
    assert after is not None and after.adapter_version == "v0001"


def test_export_writes_both_forms_and_nothing_twice(
    tuned: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    target, file = tmp_path / "out", tmp_path / "out.gguf"
    assert main(["export", "bank", "--merge", str(target), "--gguf", str(file), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["merge"]["positions"] > 20
    assert document["gguf"]["size_bytes"] == file.stat().st_size
    assert (target / "model.safetensors").is_file()
    assert main(["export", "bank", "--gguf", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["export", "bank", "--gguf", str(tmp_path / "a.gguf"), "--adapter-only"]) == 0
    active = tuned.use_case("bank").adapters.active()
    assert active is not None
    assert load_origin(active).template_sha256 is not None


@pytest.mark.slow
def test_llama_cpp_says_the_same_as_the_merged_model(
    workspace: Workspace, starter_folder: Path, card_rows: list[Row], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    from core.engines.llamacpp import LlamaCppEngine
    from core.engines.transformers import TransformersEngine
    from core.types import Completion, Message, Request, Sampling

    recipe = LoraRecipe(epochs=0.7, batch_rows=4, rank=4, harm_check=False)
    report = train_lora(tmp_path / "a", UseCase(name="t"), workspace, card_rows, recipe)
    merge_adapter(report.folder, "smollm2-135m-instruct", starter_folder, tmp_path / "merged")
    export_model(tmp_path / "merged", tmp_path / "m.gguf", "t")
    asked = [Request((Message("user", r.input),), Sampling(max_tokens=8)) for r in card_rows[::8]]
    said = []
    for engine in (
        TransformersEngine(tmp_path / "merged", "merged", dtype=torch.float32),
        LlamaCppEngine(tmp_path / "m.gguf", "gguf"),
    ):
        said.append([r.text if isinstance(r, Completion) else r for r in engine.complete(asked)])
        engine.close()
    assert said[0] == said[1]
