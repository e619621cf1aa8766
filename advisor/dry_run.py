"""`advise --dry-run`: the calls, tokens, time and money of a run before any of it is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advisor.arm_names import WITH_PASSAGES, family, shots_of, tuning_method
from advisor.budget import Budget, Cost, budget_of
from advisor.cost import Prices
from advisor.few_shot import MOST_EXAMPLES
from advisor.labelled import lacking
from advisor.learning_curve import pilots_of
from advisor.materials import Materials, gather
from advisor.pilots import HEAD_ROWS, PILOT_ROWS
from advisor.plan import Absent, absent_lines, plan_arms
from core.settings import UseCase

CHARS_PER_TOKEN = 4.0
"""English text under a byte-pair vocabulary of 32-150 thousand; a dry run loads no tokenizer."""
PASSAGE_TOKENS = 250
"""A passage in the prompt, with its title: rag's chunks hold up to about this."""
PREFILL_TOKENS_PER_S = 600.0
"""The starter model on 2 AVX-512 cores in bf16; bigger models are slower in proportion to their size."""
DECODE_TOKENS_PER_S = 200.0
"""The same, in batches."""
TRAIN_TOKENS_PER_S = 350.0
"""LoRA on the same."""
TRAIN_EPOCHS = 3
EMBEDDED_PER_S = 150.0
"""Short texts that the starter encoder embeds on the same."""
JUDGE_TOKENS = 190
"""Of a judge's prompt, beside question, gold and answer."""
CURVE = " learning curve"
"""What stands behind an arm's name where its learning curve is a line of its own."""


def dry_run(
    settings: UseCase,
    wanted: Sequence[str],
    prices: Prices,
    budget_usd: float | None = None,
    budget_calls: int | None = None,
    lora_curve: bool = False,
    engine: str = "auto",
) -> dict[str, Any]:
    """What `advise` would do at most, arm by arm; it stops earlier where the verdict stands. Estimates: see the constants.

    The arguments are those of `advise`.

    Raises:
        UserError: the data or settings cannot be used, or a budget cannot be.
    """
    limits = budget_of(settings, engine, prices, budget_usd, budget_calls)
    materials = gather(settings)
    plan = plan_arms(materials.means(settings), wanted)
    arms = [_arm(arm, settings, materials, prices, limits.base.remote) for arm in plan.arms]
    arms += [
        _curve(row, settings, materials, limits)
        for row in arms
        if family(row["arm"]) == "tune" and (lora_curve or tuning_method(row["arm"]) == "head")
        if pilots_of(tuning_method(row["arm"]), len(materials.train))
    ]
    if settings.judge is not None and not lacking(materials.labelled):
        arms.append(_judge(settings, materials, sum(row["calls"] for row in arms), limits))
    total = {key: sum(arm[key] for arm in arms) for key in ("calls", "input_tokens", "output_tokens", "time_s", "usd")}
    return {
        "use_case": settings.name,
        "base_model": settings.base_model,
        "rows": {"eval": len(materials.rows), "train": len(materials.train)},
        "scorer": {"name": materials.scorer.name, "why": materials.scorer.why},
        "arms": arms,
        "absent": [absent._asdict() for absent in plan.absent],
        "total": total,
        "budget": _budget(limits, total["usd"], sum(row["calls"] for row in arms if not _free(row["arm"]))),
    }


def _free(arm: str) -> bool:
    """A head is no model that calls are paid for."""
    return family(arm) == "tune" and tuning_method(arm.removesuffix(CURVE)) == "head"


def _curve(row: dict[str, Any], settings: UseCase, materials: Materials, limits: Budget) -> dict[str, Any]:
    """The pilots of a learning curve as one more line; `row` is that of the arm, whose pilot has all rows."""
    method = tuning_method(row["arm"])
    pilots = pilots_of(method, len(materials.train))
    trained = sum(rows for rows, _ in pilots)
    time_s = len(pilots) * _asking_s(row, limits.base.remote) + _training_s(settings, materials, method, trained, False)
    return {
        "arm": row["arm"] + CURVE,
        **{key: len(pilots) * row[key] for key in ("calls", "input_tokens", "output_tokens")},
        "time_s": round(time_s, 1),
        "usd": round(limits.base.seconds_usd(time_s), 5),
    }


def _judge(settings: UseCase, materials: Materials, answers: int, limits: Budget) -> dict[str, Any]:
    """The judge's calls as one more line: every vote on the labelled answers, two an answer after that.

    Args:
        answers: of all arms and curves; those to rows without a gold answer are not judged.
    """
    judge, payee = settings.judge, limits.judge
    assert judge is not None
    assert payee is not None
    rows = [row for row in materials.rows if row.answers]
    calls = len(materials.labelled) * judge.votes + 2 * answers * len(rows) // max(1, len(materials.rows))
    a_case = sum(len(row.input) + 2 * len(row.output) for row in rows) / max(1, len(rows)) + len(judge.criteria)
    tokens_in, tokens_out = int(calls * (a_case / CHARS_PER_TOKEN + JUDGE_TOKENS)), calls * 4
    time_s = 0.0 if payee.remote else tokens_in / PREFILL_TOKENS_PER_S + tokens_out / DECODE_TOKENS_PER_S
    return {
        "arm": "judge",
        "calls": calls,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "time_s": round(time_s, 1),
        "usd": round(payee.usd(tokens_in, tokens_out, time_s), 5),
    }


def _budget(limits: Budget, usd: float, calls: int) -> dict[str, Any] | None:
    """Whether the whole grid fits the budget, by the estimate; None without one."""
    if not limits.limited:
        return None
    enough = limits.holds(Cost(usd, calls))
    given = [f"{limits.usd:g} USD"] if limits.usd is not None else []
    given += [f"{limits.calls} calls"] if limits.calls is not None else []
    says = (
        "holds every arm on every item"
        if enough
        else "may end the run before every arm has answered every item; the verdict is then what that part shows"
    )
    return {
        "usd": limits.usd,
        "calls": limits.calls,
        "enough": enough,
        "text": f"A budget of {' and '.join(given)} {says}.",
    }


def print_estimate(estimate: dict[str, Any], wanted: Sequence[str] = ()) -> None:
    """`wanted`: the arms that were asked for by name."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=None, pad_edge=False, title=f"{estimate['use_case']} on {estimate['base_model']}: nothing was run"
    )
    columns = ("arm", "calls", "input tokens", "output tokens", "time", "USD")
    for name in columns:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in [*estimate["arms"], {"arm": "all", **estimate["total"]}]:
        table.add_row(
            row["arm"],
            f"{row['calls']:,}",
            f"{row['input_tokens']:,}",
            f"{row['output_tokens']:,}",
            f"{row['time_s']:.0f} s" if row["time_s"] < 120 else f"{row['time_s'] / 60:.1f} min",
            f"{row['usd']:.4f}",
        )
    console = Console(highlight=False)
    console.print(table)
    rows = estimate["rows"]
    console.print(f"{rows['eval']} eval rows, {rows['train']} training rows. {estimate['scorer']['why']}", markup=False)
    console.print("These are the most; a run stops as soon as its verdict stands (--full asks everything).")
    if estimate["budget"] is not None:
        console.print(estimate["budget"]["text"])
    for line in absent_lines([Absent(**one) for one in estimate["absent"]], wanted):
        console.print(line, style="dim", markup=False)


def _arm(arm: str, settings: UseCase, materials: Materials, prices: Prices, is_remote: bool) -> dict[str, Any]:
    rows, train = materials.rows, materials.train
    kind = family(arm)
    question = sum(len(m.content) for row in rows for m in row.messages) / CHARS_PER_TOKEN
    words = (len(settings.instruction) + len(materials.form.answer_format() or "")) / CHARS_PER_TOKEN + 30
    a_row = _row_tokens(materials)
    extra, named = words, shots_of(arm)
    if kind in WITH_PASSAGES:
        extra += settings.top_k * PASSAGE_TOKENS
    if kind in ("few_shot", "oracle_few_shot"):
        extra += a_row * (3 if named is None else named.k)
    golds = [len(row.answers[0]) / CHARS_PER_TOKEN for row in rows if row.answers]
    longest = settings.max_tokens or max(32, min(512, int(2 * max(golds, default=0) + 16)))
    calls = len(rows)
    tokens_in = int(question + calls * extra)
    tokens_out = 0 if arm == "tune:head" else int(calls * longest * 0.7)
    row = {"arm": arm, "calls": calls, "input_tokens": tokens_in, "output_tokens": tokens_out}
    time_s = 0.0
    if not is_remote:
        time_s = _asking_s(row, is_remote)
        if kind.startswith("tune"):
            method = tuning_method(arm)
            trained = _pilot_rows(method, len(train))
            time_s += _training_s(settings, materials, method, trained, kind in ("tune_retrieved", "tune_oracle"))
        if named is not None and named.similar:
            time_s += min(len(train), MOST_EXAMPLES) / EMBEDDED_PER_S
        usd = time_s / 3600 * prices.machine_usd_per_hour
    else:
        usd = (tokens_in * prices.input_usd_per_1m + tokens_out * prices.output_usd_per_1m) / 1e6
    return {**row, "time_s": round(time_s, 1), "usd": round(usd, 5)}


def _asking_s(row: dict[str, Any], is_remote: bool) -> float:
    """Seconds that an arm's calls take on this machine."""
    if _free(row["arm"]):
        return 1.0
    return 0.0 if is_remote else row["input_tokens"] / PREFILL_TOKENS_PER_S + row["output_tokens"] / DECODE_TOKENS_PER_S


def _pilot_rows(method: str, train_rows: int) -> int:
    return min(train_rows, HEAD_ROWS if method == "head" else PILOT_ROWS)


def _training_s(settings: UseCase, materials: Materials, method: str, rows: int, grounded: bool) -> float:
    """Seconds of training pilots on so many rows in all."""
    if method == "head":
        return rows / EMBEDDED_PER_S
    context = settings.top_k * PASSAGE_TOKENS if grounded else 0
    return rows * (_row_tokens(materials) + context) * TRAIN_EPOCHS / TRAIN_TOKENS_PER_S


def _row_tokens(materials: Materials) -> float:
    """Of a training row, with what a chat template adds."""
    train = materials.train
    return sum(len(r.input) + len(r.output) for r in train) / max(1, len(train)) / CHARS_PER_TOKEN + 20
