"""The report on training data, before anything is trained: what is wrong, what is odd, how much there is, what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from core import fact_teaching
from core.errors import DataError
from core.label_lists import listed
from core.labels import closed_labels, head_task
from core.models import local_folder, remote
from core.records import read_records
from core.remedy import Method
from core.rows import Fault, Row, read_rows, sift_rows
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from tuning.chat_check import chat_findings, is_chat, lines_of
from tuning.cost import Cost, earlier_speed, training_cost
from tuning.findings import Finding, finding, languages, one_label, row_findings
from tuning.recipe import FullRecipe, HeadRecipe, LoraRecipe, settle


@dataclass(frozen=True)
class Tokens:
    """Lengths of the rows by the model's own template (lora) or the encoder's tokenizer (head)."""

    total: int
    supervised: int
    """0 for a head, which learns no tokens."""
    median: int
    p95: int
    longest: int
    context: int | None
    over: int
    """Rows longer than the context."""


@dataclass(frozen=True)
class DataReport:
    file: str
    form: Literal["chat", "rows"]
    method: Method
    rows: int
    """Usable ones."""
    findings: tuple[Finding, ...]
    tokens: Tokens | None
    """None where no row is usable, or the base model is remote."""
    labels: dict[str, int] | None
    """Rows a label, most frequent first; None for free text."""
    languages: dict[str, float]
    fact_teaching: float | None
    """Share of the rows whose answer cannot be derived from what they show (core.fact_teaching); None: a head."""
    cost: Cost | None
    """Of training a language model; a head takes seconds to a minute."""

    @property
    def errors(self) -> list[Finding]:
        return [found for found in self.findings if found.severity == "error"]

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, "ready": not self.errors, **asdict(self)}


def check_training_data(
    path: Path,
    folder: UseCaseFolder,
    settings: UseCase,
    workspace: Workspace,
    recipe: LoraRecipe | FullRecipe | HeadRecipe | None,
    shown: Callable[[list[Row]], list[Row]] | None = None,
) -> tuple[DataReport, list[Row]]:
    """The report on the training rows in `path`, and the usable rows as they will be trained on.

    Args:
        recipe: how they will be trained on; None: a head for a closed label set, else a LoRA adapter.
        shown: what is made of the usable rows before they are trained on (passages put before their questions); tokens
            and cost are those of what comes out.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    records = read_records(path)
    rows, faults = sift_rows(path, "training")
    form: Literal["chat", "rows"] = "chat" if is_chat(records) else "rows"
    refused = {fault.line for fault in faults}
    # What our reader can use is no reason to stop: an empty system prompt, a plain row among chats.
    found = [
        f if refused.intersection(lines_of(records, f.code)) else replace(f, severity="warning")
        for f in (chat_findings(records) if form == "chat" else [])
    ]
    labels = closed_labels(rows)
    if recipe is None:
        asked = head_task(rows)
        recipe = LoraRecipe(seed=settings.seed) if asked is None else HeadRecipe(task=asked, seed=settings.seed)
    method: Method = {HeadRecipe: "head", FullRecipe: "full", LoraRecipe: "lora"}[type(recipe)]  # type: ignore[assignment]
    # What the chat check has named already is not told again in the reader's words.
    named = {line for f in found if f.severity == "error" for line in lines_of(records, f.code)}
    found += _unusable([fault for fault in faults if fault.line not in named], len(records))
    task = recipe.task if isinstance(recipe, HeadRecipe) else "single"
    labels_in = listed if task == "multi" else one_label
    counts = Counter(label for row in rows for label in dict.fromkeys(labels_in(row.output)))
    if task == "multi":
        labels = tuple(sorted(counts))
    elif task == "number":
        labels = None
    tokens = cost = None
    spoken: dict[str, float] = {}
    teaching: float | None = None
    if len(rows) < 2:
        count = "one training row" if rows else "no training rows"
        text = f"{count} that can be used; tuning needs two at the very least, and 50 to say anything"
        found.append(finding("too_few_rows", text, [], error=True))
    else:
        evaluation = read_rows(settings.eval, "evaluation") if settings.eval is not None else []
        found += row_findings(rows, labels, evaluation, labels_in)
        spoken = languages(rows)
        if shown is not None:
            rows = shown(rows)
        # A head chooses among what it has seen, or measures: nothing it learns could be mistaken for a fact.
        teaching, more = (None, []) if isinstance(recipe, HeadRecipe) else _facts(rows)
        found += more
        if isinstance(recipe, HeadRecipe):
            tokens, more = _head_tokens(rows, settings, workspace)
        elif remote(settings.base_model) is None:
            tokens, cost, more = _lora_tokens(rows, folder, settings, workspace, recipe)
        else:
            more = []
        found += more
    order = {"error": 0, "warning": 1}
    report = DataReport(
        file=path.name,
        form=form,
        method=method,
        rows=len(rows),
        findings=tuple(sorted(found, key=lambda f: order[f.severity])),
        tokens=tokens,
        labels=None if labels is None else dict(counts.most_common()),
        languages=spoken,
        fact_teaching=teaching,
        cost=cost,
    )
    return report, rows


def refuse_errors(report: DataReport, path: Path) -> None:
    """Raises DataError when a finding forbids training; names the first and how many there are."""
    if report.errors:
        first, others = report.errors[0], len(report.errors) - 1
        more = f", and {_count(others, 'more kind')} of fault; --check lists all" if others else ""
        raise DataError(f"{first.text} ({first.code}{more})", path, first.lines[0] if first.lines else None)


def summary(report: DataReport) -> str:
    """The report as a few lines for a terminal."""
    warnings = len(report.findings) - len(report.errors)
    rows = _count(report.rows, "usable chat" if report.form == "chat" else "usable row")
    lines = [f"{report.file}: {rows}, {_count(len(report.errors), 'error')}, {_count(warnings, 'warning')}"]
    for found in report.findings:
        where = (
            f"  (line {', '.join(map(str, found.lines))}{', ...' if found.count > len(found.lines) else ''})"
            if found.lines
            else ""
        )
        lines.append(f"  {found.severity:<8} {found.code}: {found.text}{where}")
    if (t := report.tokens) is not None:
        share = f", {t.supervised / t.total:.0%} of them supervised" if t.supervised else ""
        room = "no stated limit" if t.context is None else f"context {t.context}"
        lines.append(
            f"  tokens   {t.total:,}{share}; a row has {t.median} (median), {t.p95} (95 %), {t.longest} (longest); {room}"
        )
    if report.labels is not None:
        (top, most), (rarest, least) = next(iter(report.labels.items())), list(report.labels.items())[-1]
        each = (
            f"{_count(most, 'row')} each" if most == least else f"from {most} rows ({top}) down to {least} ({rarest})"
        )
        lines.append(f"  labels   {len(report.labels)}, {each}")
    if report.languages:
        lines.append("  language " + ", ".join(f"{code} {share:.0%}" for code, share in report.languages.items()))
    if report.fact_teaching is not None:
        lines.append(f"  facts    {report.fact_teaching:.0%} of the answers cannot be derived from what the row shows")
    if (c := report.cost) is not None:
        free = "" if c.available_bytes is None else f" of {c.available_bytes / 1e9:.1f} free"
        lines.append(
            f"  cost     {c.epochs:.3g} epochs, {c.steps} steps, {c.tokens:,} tokens: about {_duration(c.seconds)} at"
            f" {c.tokens_per_s:.0f} tokens/s (from {c.speed_from}), {c.memory_bytes / 1e9:.1f} GB{free}; no money on"
            " your own machine"
        )
    return "\n".join(lines)


def _facts(rows: Sequence[Row]) -> tuple[float | None, list[Finding]]:
    """The share of fact-teaching rows, and the warning where it is large."""
    judged = fact_teaching.judged(rows)
    if not judged:
        return None, []
    taught = set(fact_teaching.taught_facts(judged))
    share = len(taught) / len(judged)
    if share < fact_teaching.SHARE:
        return share, []
    text = (
        f"the answers of {len(taught)} of {len(judged)} rows cannot be derived from their input: tuning learns their"
        " wording, not the facts; put the facts into documents"
    )
    return share, [finding("fact_teaching", text, [row.line for row in judged if row.id in taught])]


def _unusable(faults: Sequence[Fault], total: int) -> list[Finding]:
    """The reader's own complaints, alike ones together."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault("empty_answer" if fault.text.startswith("the output is empty") else "unusable_row", []).append(
            fault
        )
    return [
        finding(code, f"{len(some)} of {total} rows cannot be used: {some[0].text}", [f.line for f in some], error=True)
        for code, some in kinds.items()
    ]


def _lora_tokens(
    rows: Sequence[Row], folder: UseCaseFolder, settings: UseCase, workspace: Workspace, recipe: LoraRecipe | FullRecipe
) -> tuple[Tokens, Cost, list[Finding]]:
    from transformers import AutoConfig

    from tuning.adapters import base_fingerprint
    from tuning.examples import TrainingTokenizer, make_example
    from tuning.processes import started

    base = local_folder(settings.base_model, workspace.models)
    tokenizer = TrainingTokenizer(base)
    config = AutoConfig.from_pretrained(base).get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    examples = [make_example(row, tokenizer, settings.instruction) for row in rows]
    lengths = [len(example.ids) for example in examples]
    over = [row for row, length in zip(rows, lengths, strict=True) if context is not None and length > context]
    found = []
    if over:
        fate = "are left out" if recipe.skip_long else "stop the training (--skip-long leaves them out)"
        text = f"{len(over)} of {len(rows)} rows are longer than the context of {context} tokens and {fate}"
        found.append(finding("too_long", text, [row.line for row in over], error=not recipe.skip_long))
    fitting = [e for e in examples if context is None or len(e.ids) <= context] or examples
    used = fitting[: recipe.max_rows] if recipe.max_rows is not None else fitting
    cost = training_cost(
        base,
        [len(e.ids) for e in used],
        [e.supervised for e in used],
        settle(recipe, len(used), int(config.hidden_size), started()),
        earlier_speed(folder.adapters, base_fingerprint(base), "lora" if isinstance(recipe, LoraRecipe) else "full"),
    )
    supervised = sum(example.supervised for example in examples)
    return _tokens(lengths, supervised, context, len(over)), cost, found


def _head_tokens(rows: Sequence[Row], settings: UseCase, workspace: Workspace) -> tuple[Tokens, list[Finding]]:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    base = local_folder(settings.embedding_model, workspace.models)
    tokenizer = AutoTokenizer.from_pretrained(base)
    window = SentenceTransformer(str(base), device="cpu").max_seq_length
    # Without truncation the tokenizer warns of texts that a model could not take; they are counted here, not run.
    ids = tokenizer([row.input for row in rows], truncation=False, verbose=False)["input_ids"]
    lengths = [len(each) for each in ids]
    over = [row for row, length in zip(rows, lengths, strict=True) if window is not None and length > window]
    found = []
    if over:
        text = f"{len(over)} of {len(rows)} inputs are longer than the {window} tokens that the encoder reads; the rest is not seen"
        found.append(finding("too_long", text, [row.line for row in over]))
    return _tokens(lengths, 0, window, len(over)), found


def _tokens(lengths: Sequence[int], supervised: int, context: int | None, over: int) -> Tokens:
    median, p95 = (int(value) for value in np.quantile(lengths, (0.5, 0.95)))
    return Tokens(sum(lengths), supervised, median, p95, max(lengths), context, over)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 180
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
