"""The harm check: the same general questions before and after tuning, answered by choosing among four answers.

Tuning on a narrow task can cost a model what it knew. The set is small, fixed and its own (tuning/general.jsonl: common
knowledge, arithmetic, language, following an instruction), so it tells a collapse, not a subtle loss: of 40 items
about five have to be lost and none gained before the interval leaves zero.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.rows import Row
from core.stats import mcnemar_exact, paired_difference, wilson
from core.types import Message
from tuning.batches import shared_prefix, split
from tuning.examples import Example, TrainingTokenizer, make_example
from tuning.forward import SupervisedModel

ITEMS = Path(__file__).with_name("general.jsonl")


@dataclass(frozen=True)
class General:
    """The general set, tokenized for one model."""

    examples: tuple[Example, ...]
    """All choices of all items, one after the other."""
    choices: tuple[int, ...]
    """How many each item has; the right one comes first."""
    prefix: tuple[int, ...]

    @property
    def items(self) -> int:
        return len(self.choices)


def general_set(tokenizer: TrainingTokenizer) -> General:
    """The shipped items for that tokenizer, asked without the use case's instruction."""
    examples: list[Example] = []
    choices = []
    for number, line in enumerate(ITEMS.read_text(encoding="utf-8").splitlines()):
        item = json.loads(line)
        answers = [item["answer"], *item["others"]]
        choices.append(len(answers))
        for answer in answers:
            row = Row(str(number), (Message("user", item["question"]),), (answer,))
            whole = make_example(row, tokenizer, "")
            # How surely a model ends its turn there says nothing about what it knows.
            examples.append(Example(whole.id, whole.ids[:-1], whole.prompt))
    return General(tuple(examples), tuple(choices), examples[0].ids[: shared_prefix(examples)])


def right_answers(model: Any, general: General, batch_tokens: int, packed: bool) -> list[bool]:
    """Of each item, whether the right answer is more probable than every other.

    Args:
        model: a transformers causal model.
        packed: whether rows may stand in one sequence (`SupervisedModel.can_pack`).
    """
    supervised = SupervisedModel(model, general.prefix)
    lengths = [len(example.ids) - supervised.prefix for example in general.examples]
    losses: list[float] = []
    with supervised.evaluating():
        for rows in split(range(len(lengths)), lengths, batch_tokens if packed else 1):
            losses += supervised.row_losses([general.examples[i] for i in rows])
    right, start = [], 0
    for count in general.choices:
        first, *others = losses[start : start + count]
        right.append(first < min(others))
        start += count
    return right


def harm(before: Sequence[bool], after: Sequence[bool]) -> dict[str, Any]:
    """Rates before and after with their intervals, the paired difference, and whether it is a certain loss."""
    n = len(before)
    difference = paired_difference([float(x) for x in after], [float(x) for x in before])
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    return {
        "before": asdict(wilson(sum(before), n)),
        "after": asdict(wilson(sum(after), n)),
        "difference": asdict(difference),
        "gained": gained,
        "lost": lost,
        "p": mcnemar_exact(gained, lost),
        "harmed": difference.high < 0,
    }


def harm_warning(found: dict[str, Any]) -> str | None:
    """One sentence where the loss is beyond its interval; else None."""
    if not found["harmed"]:
        return None
    before, after, n = found["before"], found["after"], found["before"]["n"]
    return (
        f"the tuned model answers fewer general questions: {round(after['value'] * n)} of {n} right instead of"
        f" {round(before['value'] * n)} ({found['lost']} lost, {found['gained']} gained, p = {found['p']:.3f}); fewer epochs,"
        " a lower --lr or mixed-in general rows keep more"
    )
