"""Keys: made once, kept hashed, known to a running server at once; scopes, allow-lists, limits, budgets, tenants."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from core.cli import main
from core.errors import ConfigError
from core.types import Source
from core.workspace import Workspace
from rag.filters import matches
from serve.access import scopes_for
from serve.app import create_app
from serve.asked import Asked, Watched, asking, tenant_filter
from serve.buckets import Bucket, KeyLimits, duration
from serve.catalog import Catalog
from serve.commands.keys import command as keys_command
from serve.keys import ApiKey, KeyStore
from serve.services import Options
from serve.usage import Prices
from tests.serve.conftest import EchoEngine, Server, declare, wait_until

Serve = Callable[..., Server]


@pytest.fixture
def store(workspace: Workspace) -> KeyStore:
    return KeyStore(workspace.path)


def headers(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def ask(server: Server, secret: str, model: str = "faq", text: str = "hi") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers(secret))


def test_secret_is_shown_once_and_only_its_hash_is_kept(home: Path) -> None:
    made = CliRunner().invoke(keys_command, ["create", "--name", "ci", "--json"], catch_exceptions=False)
    secret = json.loads(made.stdout)["key"]
    assert len(secret) > 40
    for path in home.rglob("server/*"):
        assert secret not in path.read_text(encoding="utf-8")
    listed = CliRunner().invoke(keys_command, ["list", "--json"], catch_exceptions=False).stdout
    assert secret not in listed
    assert "sha256" not in listed
    assert (home / "server" / "keys.json").stat().st_mode & 0o077 == 0
    found = KeyStore(home).find(secret)
    assert found is not None
    assert found.name == "ci"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--scope", "chta"], "did you mean chat?"),
        (["--use-case", "nobody"], "unknown use case 'nobody'"),
        (["--tenant", "acme"], "write KEY=VALUE"),
        (["--tenant", "org=a", "--tenant", "org=b"], "given twice"),
        (["--tenant", "org=a", "--scope", "chat,ingest"], "scope chat only"),
        (["--expires", "2020-01-01"], "in the past"),
        (["--expires", "soon"], "as in 30d"),
    ],
)
def test_wrong_option_is_one_line_and_exit_2(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["keys", "create", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_without_keys_everybody_may_and_the_first_key_closes_the_door(
    serve: Serve, workspace: Workspace, store: KeyStore
) -> None:
    declare(workspace, "faq")
    server = serve()
    assert ask(server, "whatever").status_code == 200
    key, secret = store.create()
    assert ask(server, "whatever").status_code == 401
    assert ask(server, secret).status_code == 200
    store.revoke(key.id)
    refused = ask(server, secret)
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert secret not in refused.text


def test_keys_given_to_the_server_stay_valid_beside_those_of_the_workspace(
    serve: Serve, workspace: Workspace, store: KeyStore
) -> None:
    declare(workspace, "faq")
    server = serve(api_keys=["old"])
    _, secret = store.create()
    assert ask(server, "old").status_code == 200
    assert ask(server, secret).status_code == 200
    assert httpx.get(f"{server.url}/metrics", headers=headers("old")).status_code == 200
    assert httpx.get(f"{server.url}/metrics", headers=headers(secret)).status_code == 403


def test_expired_key_is_no_key(store: KeyStore) -> None:
    _, secret = store.create(expires=datetime.now(UTC) + timedelta(hours=1))
    key = store.find(secret)
    assert key is not None
    assert not key.usable(datetime.now(UTC) + timedelta(hours=2))


def test_damaged_list_of_keys_lets_nobody_in(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    server = serve()
    store.create()
    store.path.write_text('{"keys": [{"id": 1}]}', encoding="utf-8")
    answer = ask(server, "x")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "keys_unreadable")
    assert str(workspace.path) not in answer.text


def test_scope_is_checked_by_route(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    server = serve()
    _, ingest = store.create(scopes=["ingest"])
    refused = ask(server, ingest)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
    assert httpx.get(f"{server.url}/v1/models", headers=headers(ingest)).status_code == 200


def test_every_route_of_the_app_has_a_scope_rule(workspace: Workspace) -> None:
    app = create_app(Catalog(workspace, EchoEngine))
    routes = [(method, path) for path, item in app.openapi()["paths"].items() for method in item]
    assert ("post", "/v1/chat/completions") in routes
    for method, path in routes:
        if path.startswith("/v1") and "{request_id}" not in path:
            scopes = scopes_for(method.upper(), path)
            admin_only = path.endswith(("/verdict", "/report"))
            assert (scopes == ("admin",)) is admin_only, (method, path)


def test_route_without_a_rule_is_closed() -> None:
    assert scopes_for("POST", "/v1/new_thing") == ("admin",)
    assert scopes_for("POST", "/v1/models") == ("admin",)


def test_allow_list_hides_every_other_name(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    declare(workspace, "secret-project")
    server = serve()
    _, secret = store.create(use_cases=["faq"])
    client = server.client(api_key=secret)
    assert {model.id for model in client.models.list()} == {"faq", "faq:base"}
    assert client.chat.completions.create(model="faq:base", messages=[{"role": "user", "content": "x"}])
    hidden = ask(server, secret, "secret-project")
    absent = ask(server, secret, "secret-projects")
    assert hidden.status_code == absent.status_code == 404
    assert hidden.json()["error"]["message"].replace("secret-project", "") == absent.json()["error"]["message"].replace(
        "secret-projects", ""
    )
    for name in ("secret-project", "faq:secret-project"):
        # Not even as a name near to one that is asked for.
        assert "secret" not in ask(server, secret, name).json()["error"]["message"].replace(name, "")
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve(name)
        assert "secret" not in refused.value.message.replace(name, "")
        with pytest.raises(openai.NotFoundError) as refused:
            client.responses.create(model=name, input="x")
        assert "secret" not in refused.value.message.replace(name, "")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "x"}])


def test_allow_list_holds_for_what_jobs_and_stores_are_made_of(
    serve: Serve, workspace: Workspace, store: KeyStore
) -> None:
    declare(workspace, "faq")
    declare(workspace, "secret-project")
    server = serve()
    _, secret = store.create(scopes=["ingest", "tune"], use_cases=["faq"])
    client = server.client(api_key=secret)
    said = []
    for name in ("secret-project", "secret-projects"):
        with pytest.raises(openai.NotFoundError) as refused:
            client.fine_tuning.jobs.create(model=name, training_file="file-1")
        said.append(refused.value.message.replace(name, "NAME"))
    assert said[0] == said[1]
    assert "secret" not in said[0]
    with pytest.raises(openai.PermissionDeniedError):
        client.vector_stores.create(name="unseen")
    assert server.app.state.services.stores.rows() == []


def test_request_limit_is_429_with_openais_headers(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    server = serve()
    _, secret = store.create(requests_per_minute=2)
    first = ask(server, secret)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"].endswith("s")
    assert "x-ratelimit-limit-tokens" not in first.headers
    ask(server, secret)
    refused = ask(server, secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError):
        server.client(api_key=secret).models.list()


def test_tokens_of_an_answer_are_charged_to_its_key_alone(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    server = serve()
    _, secret = store.create(tokens_per_minute=60)
    _, other = store.create(tokens_per_minute=60)
    assert ask(server, secret, text="word " * 50).status_code == 200
    refused = ask(server, secret)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
    assert ask(server, other).status_code == 200


def test_streamed_tokens_are_charged_too(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    server = serve()
    _, secret = store.create(tokens_per_minute=60)
    client = server.client(api_key=secret)
    messages: Any = [{"role": "user", "content": "word " * 50}]
    assert len(list(client.chat.completions.create(model="faq", messages=messages, stream=True))) > 10
    wait_until(lambda: ask(server, secret).status_code == 429)


def test_spent_budget_is_insufficient_quota(serve: Serve, workspace: Workspace, store: KeyStore) -> None:
    declare(workspace, "faq")
    server = serve(options=Options(prices=Prices(input_usd_per_1m=1e6)))
    _, secret = store.create(budget_usd=3)
    assert ask(server, secret, text="four words cost four").status_code == 200
    wait_until(lambda: ask(server, secret).status_code == 429)
    assert ask(server, secret).json()["error"]["code"] == "insufficient_quota"


class FakeRetriever:
    """Passes filters on, as `rag.retrieve.Retriever` does, over passages known here."""

    passages = ({"org": "acme", "n": 1}, {"org": "other", "n": 2}, {"org": 42}, {})

    def search(self, texts: Sequence[str], top_k: int, settings: Any = None, filter: Any = None) -> list[list[Source]]:
        kept = [m for m in self.passages if filter is None or matches(filter, m)]
        return [[Source(i, "d", "", "", 1.0, m) for i, m in enumerate(kept, start=1)] for _ in texts]


@pytest.mark.parametrize(
    ("tenant", "seen"),
    [({}, 4), ({"org": "acme"}, 1), ({"org": "42"}, 1), ({"org": "acme", "n": "2"}, 0), ({"team": "x"}, 0)],
)
def test_tenant_sees_only_passages_of_its_own(tenant: dict[str, str], seen: int) -> None:
    asked = Asked(tenant=tenant)
    with asking(asked):
        (found,) = Watched(FakeRetriever()).search(["q"], 10)
    assert len(found) == seen
    assert asked.retrieval_s is not None


@pytest.mark.usefixtures("encoder_folder")
def test_keys_of_two_tenants_get_answers_from_their_own_documents(
    serve: Serve, workspace: Workspace, store: KeyStore, tmp_path: Path
) -> None:
    from rag.ingest import ingest

    rows = [
        {"id": f"{org}-{n}", "text": f"The door code of {org} is {n}{len(org)}7.", "org": org}
        for org in ("acme", "globex")
        for n in range(3)
    ]
    corpus = tmp_path / "codes.jsonl"
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    declare(workspace, "codes", route="rag", top_k=6)
    folder = workspace.use_case("codes")
    ingest(folder, folder.settings(), workspace, [corpus])
    server = serve()
    question: Any = [{"role": "user", "content": "What is the door code of globex?"}]

    def seen(secret: str, **options: Any) -> set[str]:
        client = server.client(api_key=secret)
        answer = client.chat.completions.create(model="codes", messages=question, **options)
        sources = answer.choices[0].message.model_extra["sources"]  # type: ignore[index]
        return {source["document_id"].partition("-")[0] for source in sources}

    for org in ("acme", "globex"):
        _, secret = store.create(tenant={"org": org})
        assert seen(secret) == {org}
    _, secret = store.create(tenant={"org": "nobody"})
    answer = server.client(api_key=secret).chat.completions.create(model="codes", messages=question)
    assert "sources" not in (answer.choices[0].message.model_extra or {})
    _, everybody = store.create()
    assert seen(everybody) == {"acme", "globex"}
    figures = httpx.get(f"{server.url}/metrics", headers=headers(store.create(scopes=["admin"])[1])).text
    assert 'tunefork_retrieval_seconds_count{use_case="codes"} 4.0' in figures


@given(st.dictionaries(st.sampled_from("abc"), st.text(max_size=4), min_size=1), st.data())
def test_tenant_filter_passes_exactly_what_has_all_its_values(tenant: dict[str, str], data: st.DataObject) -> None:
    passage = data.draw(st.dictionaries(st.sampled_from("abc"), st.sampled_from([*tenant.values(), "other"])))
    condition = tenant_filter(tenant)
    assert condition is not None
    assert matches(condition, passage) is all(passage.get(key) == value for key, value in tenant.items())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 500), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 50)), max_size=40))
def test_bucket_never_gives_more_than_its_limit_and_the_refill(limit: int, asks: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket, taken = Bucket(limit, clock), 0
    for wait, amount in asks:
        clock.now += wait
        seconds = bucket.take(amount)
        if seconds == 0:
            taken += amount
        else:
            assert bucket.remaining() < min(amount, limit)
        largest_debt = max(0, max((a for _, a in asks), default=0) - limit)
        assert taken <= limit + limit * clock.now / 60 + largest_debt + 1e-6


def test_debt_is_waited_for() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.charge(90)
    assert bucket.remaining() == 0
    assert bucket.take(1) == pytest.approx(31)
    clock.now = 31
    assert bucket.take(1) == 0


def test_limit_that_is_changed_takes_effect() -> None:
    limits = KeyLimits(Clock())
    key = ApiKey(id="k", sha256="", created="", requests_per_minute=1)
    assert limits.admit(key, 0) is None
    assert limits.admit(key, 0) is not None
    assert limits.admit(key.model_copy(update={"requests_per_minute": 2}), 0) is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.02, "20ms"), (1, "1s"), (59.2, "1m0s"), (361, "6m1s")])
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_pages_of_other_origins_may_ask_only_when_told(serve: Serve) -> None:
    asked = {"Origin": "https://app.example.org"}
    closed = httpx.get(f"{serve().url}/v1/models", headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    opened = serve(options=Options(cors_origins=("https://app.example.org",)))
    assert httpx.get(f"{opened.url}/v1/models", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]


def test_tenant_with_more_than_chat_is_refused(store: KeyStore) -> None:
    with pytest.raises(ConfigError, match="chat only"):
        store.create(scopes=["admin"], tenant={"org": "a"})
