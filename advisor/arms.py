"""The arms: the same items, asked under different conditions.

Each builder turns the bench (rows, engine, passages, pilots) into the exact requests
of one arm. The words come from core.prompts, so what is measured is what is served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from advisor.answers import AnswerCache
from advisor.arm_names import context_of, family, shots_of
from advisor.few_shot import MOST_EXAMPLES, demonstrations, similar_demonstrations, store_examples
from advisor.passages import OraclePassages, Retrieves, numbered, oracle_passages, wrong_passages
from advisor.pilots import Pilot, head_pilot, lora_pilot
from core.engines.base import Engine, Result
from core.engines.prompted import Choose, PromptedEngine
from core.prompts import Demonstration, grounded
from core.rows import Row
from core.search_settings import Place
from core.settings import UseCase
from core.types import Message, Request, Sampling, Source
from core.workspace import UseCaseFolder, Workspace


@dataclass
class Bench:
    """What all arms of one run share."""

    folder: UseCaseFolder
    workspace: Workspace
    settings: UseCase
    rows: Sequence[Row]
    train: Sequence[Row]
    labels: bool
    engine: Engine
    model_identity: str
    cache: AnswerCache
    retriever: Retrieves | None
    index_identity: str
    max_tokens: int
    answer_format: str
    """The answer-format line, "" when none could be learnt: in every arm that prompts, in neither the bare base
    nor the tuned arms, which learn the shape."""
    notes: dict[str, str] = field(default_factory=dict)
    """What a reader must know about an arm, by arm."""
    pilots: dict[str, Pilot] = field(default_factory=dict)
    _oracle: OraclePassages | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.max_tokens, temperature=0.0, seed=self.settings.seed)

    def oracle(self) -> OraclePassages:
        if self._oracle is None:
            self._oracle = oracle_passages(self.rows, self.retriever, self.settings.top_k, self.settings.seed)
        return self._oracle


@dataclass(frozen=True)
class ArmRun:
    """One arm's answers, in the order of `rows`."""

    name: str
    rows: tuple[Row, ...]
    """The bench's rows that the arm was asked; a run that stops early asks some arms about a part of them."""
    results: tuple[Result, ...]
    requests: tuple[Request, ...]
    elapsed_s: float
    cached: int
    build_s: float
    """What had to be built for the arm alone: the pilot's training."""


@dataclass(frozen=True)
class Asked:
    """One arm, ready to be asked: a request for each row of the bench."""

    engine: Engine
    identity: str
    requests: tuple[Request, ...]
    build_s: float = 0.0


def prepare(bench: Bench, arm: str) -> Asked:
    """Every row's request in the way of `arm`; what the arm needs (a pilot, passages, demonstrations) is made now."""
    return _BUILDERS[family(arm)](bench, arm)


def _closed(bench: Bench, _arm: str) -> Asked:
    return _plain(bench, formatted=False)


def _prompt(bench: Bench, arm: str) -> Asked:
    return _plain(bench, context=context_of(arm))


def _few_shot(bench: Bench, arm: str) -> Asked:
    named = shots_of(arm)
    assert named is not None
    if not named.similar:
        return _plain(bench, shots=_shots(bench, named.k))
    started = time.monotonic()
    home = bench.folder.demonstrations
    _, store = store_examples(
        home, bench.train, bench.settings.seed, bench.settings.embedding_model, bench.workspace.models
    )
    build_s = time.monotonic() - started
    asked = [row.input for row in bench.rows]
    chosen = dict(zip(asked, similar_demonstrations(store, asked, named.k), strict=True))
    bench.notes[arm] = f"chosen for each question from {min(len(bench.train), MOST_EXAMPLES)} training rows by likeness"
    return replace(_plain(bench, choose=chosen.__getitem__), build_s=build_s)


def _oracle(bench: Bench, arm: str) -> Asked:
    passages = bench.oracle()
    _note_oracle(bench, arm, passages)
    return _grounded(bench, passages.per_row, context=context_of(arm))


def _oracle_few_shot(bench: Bench, arm: str) -> Asked:
    passages = bench.oracle()
    _note_oracle(bench, arm, passages)
    return _grounded(bench, passages.per_row, shots=_shots(bench, 3))


def _retrieved(bench: Bench, arm: str) -> Asked:
    return _grounded(bench, _search(bench, bench.rows), context=context_of(arm))


def _wrong_passage(bench: Bench, _arm: str) -> Asked:
    assert bench.retriever is not None
    return _grounded(bench, wrong_passages(bench.rows, bench.retriever, bench.settings.top_k))


def _tune(bench: Bench, arm: str) -> Asked:
    if arm == "tune:head":
        from tuning.head_engine import load_head

        pilot = head_pilot(bench.folder, bench.settings, bench.workspace, bench.train)
        requests = tuple(Request(row.messages, bench.sampling) for row in bench.rows)
        asked = Asked(load_head(pilot.folder, bench.workspace.models), pilot.identity, requests, pilot.train_s)
    else:
        pilot = lora_pilot(bench.folder, bench.settings, bench.workspace, bench.train, "plain")
        plain = _plain(bench, formatted=False, pilot=pilot)
        asked = replace(plain, build_s=pilot.train_s)
    bench.pilots[arm] = pilot
    bench.notes[arm] = f"pilot on {pilot.rows} training rows, {pilot.train_s:.0f} s"
    return asked


def _tune_retrieved(bench: Bench, arm: str) -> Asked:
    """The adapter is trained WITH passages, the way it is asked (RAFT); gold is in where the retriever finds it."""
    pilot = _pilot_with(bench, arm, "retrieved", _search(bench, bench.train))
    bench.notes[arm] = f"pilot on {pilot.rows} training rows with passages, {pilot.train_s:.0f} s"
    asked = _grounded(bench, _search(bench, bench.rows), formatted=False, pilot=pilot)
    return replace(asked, build_s=pilot.train_s)


def _tune_oracle(bench: Bench, arm: str) -> Asked:
    """As `tune_retrieved`, trained and asked with gold passages: what tuning for passages could reach at best."""
    passages = oracle_passages(bench.train, bench.retriever, bench.settings.top_k, bench.settings.seed).per_row
    pilot = _pilot_with(bench, arm, "oracle", passages)
    _note_oracle(bench, arm, bench.oracle())
    trained = f"pilot on {pilot.rows} training rows with gold passages, {pilot.train_s:.0f} s"
    bench.notes[arm] = "; ".join(filter(None, (trained, bench.notes.get(arm, ""))))
    asked = _grounded(bench, bench.oracle().per_row, formatted=False, pilot=pilot)
    return replace(asked, build_s=pilot.train_s)


def _pilot_with(bench: Bench, arm: str, kind: str, passages: Sequence[Sequence[Source]]) -> Pilot:
    """The pilot trained on the training rows with `passages`, one list a row."""
    rows = [
        replace(row, messages=grounded(row.messages, p, bench.settings.grounding))
        for row, p in zip(bench.train, passages, strict=True)
    ]
    identity = f"{kind}/{bench.index_identity}/{bench.settings.top_k}"
    pilot = bench.pilots[arm] = lora_pilot(bench.folder, bench.settings, bench.workspace, rows, identity)
    return pilot


_BUILDERS: dict[str, Callable[[Bench, str], Asked]] = {
    "closed": _closed,
    "prompt": _prompt,
    "few_shot": _few_shot,
    "oracle": _oracle,
    "oracle_few_shot": _oracle_few_shot,
    "retrieved": _retrieved,
    "wrong_passage": _wrong_passage,
    "tune": _tune,
    "tune_retrieved": _tune_retrieved,
    "tune_oracle": _tune_oracle,
}


def _plain(
    bench: Bench,
    *,
    shots: tuple[Demonstration, ...] = (),
    formatted: bool = True,
    pilot: Pilot | None = None,
    choose: Choose | None = None,
    context: Place | None = None,
) -> Asked:
    return _asked(bench, [row.messages for row in bench.rows], shots, formatted, pilot, choose, context)


def _grounded(
    bench: Bench,
    passages: Sequence[Sequence[Source]],
    *,
    shots: tuple[Demonstration, ...] = (),
    formatted: bool = True,
    pilot: Pilot | None = None,
    context: Place | None = None,
) -> Asked:
    grounding = bench.settings.grounding.placed(context)
    chats = [grounded(row.messages, sources, grounding) for row, sources in zip(bench.rows, passages, strict=True)]
    return _asked(bench, chats, shots, formatted, pilot)


def _asked(
    bench: Bench,
    chats: Sequence[tuple[Message, ...]],
    shots: tuple[Demonstration, ...],
    formatted: bool,
    pilot: Pilot | None,
    choose: Choose | None = None,
    context: Place | None = None,
) -> Asked:
    words = PromptedEngine(
        bench.engine,
        bench.settings.instruction,
        bench.answer_format if formatted else "",
        shots,
        adapter=None if pilot is None else str(pilot.folder),
        choose=choose,
        context=context,
    )
    identity = bench.model_identity + ("" if pilot is None else f"+{pilot.identity}")
    requests = tuple(words.prompted(Request(chat, bench.sampling)) for chat in chats)
    return Asked(bench.engine, identity, requests)


def _shots(bench: Bench, k: int) -> tuple[Demonstration, ...]:
    return demonstrations(bench.train, k, bench.settings.seed, bench.labels)


def _search(bench: Bench, rows: Sequence[Row]) -> list[list[Source]]:
    assert bench.retriever is not None
    found = bench.retriever.search([row.input for row in rows], bench.settings.top_k)
    return [numbered(sources) for sources in found]


def _note_oracle(bench: Bench, arm: str, passages: OraclePassages) -> None:
    n = len(passages.per_row)
    if passages.proxy:
        bench.notes[arm] = (
            f"proxy oracle: {passages.proxy} of {n} items have no marked gold passage; a retrieved passage that holds"
            " the gold answer stands in"
        )
    if passages.missing:
        text = f"{passages.missing} of {n} items have no passage that holds the answer"
        bench.notes[arm] = "; ".join(filter(None, (bench.notes.get(arm, ""), text)))
