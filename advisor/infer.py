"""Which scorer fits the data? Inferred from the gold answers, and said aloud; a scorer the user names always wins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median

from advisor.scorers import Scorer, parse_scorer
from advisor.scorers.numbers import whole_number
from advisor.scorers.structured import find_json
from core.errors import ConfigError
from core.label_lists import label_parts, split_labels
from core.labels import closed_labels
from core.rows import Row
from core.text import tokens

SHARE = 0.95
"""How many gold answers must be of a kind."""

SHORT_TOKENS = 12
"""Up to here a gold answer is a name, a date or a phrase that an answer can hold as it stands."""

LONG_TOKENS = 60
"""From here on the order of words matters more than which words there are."""

_SQL = re.compile(
    r"(?:select|with|insert\s+into|update|delete\s+from)\b.*\b(?:from|set|into|as)\b", re.IGNORECASE | re.DOTALL
)


def infer_scorer(rows: Sequence[Row], train_rows: Sequence[Row], named: str | None) -> Scorer:
    """The scorer for eval `rows`, with the reason in `why`.

    Args:
        named: the user's choice, e.g. `numeric:0.01` or `rouge_l>=0.5`; None to infer.

    Raises:
        UnknownName: no such scorer; lists near ones.
        ConfigError: its argument cannot be used.
    """
    golds = [row.output for row in rows if row.answers]
    if named is not None and named.strip() == "judge":
        raise ConfigError("scorer 'judge' needs a judge: name its model in use_case.toml, under [judge]")
    if named is not None:
        vocabulary = _vocabulary(named, [*rows, *train_rows])
        return parse_scorer(named, vocabulary).because(f"Scored by `{named}`, as the use case says.")
    if not golds:
        return parse_scorer("contains").because(
            "No row has a gold answer: refusing is right where a row is unanswerable, and nothing else is scored."
        )
    parts = label_parts([*golds, *(row.output for row in train_rows if row.answers)])
    if parts is not None:
        return parse_scorer("multi_label", parts).because(
            f"Scored by `multi_label`: the gold answers are lists made of {len(parts)} labels."
        )
    labels = closed_labels(train_rows) if train_rows else None
    outside = [gold for gold in golds if labels and gold not in labels]
    if labels and len(outside) <= (1 - SHARE) * len(golds):
        names = sorted({*labels, *outside})
        return parse_scorer("label", names).because(
            f"Scored by `label`: the training outputs are a closed set of {len(labels)} labels."
        )
    labels = closed_labels(rows)
    if labels:
        return parse_scorer("label", labels).because(
            f"Scored by `label`: the gold answers are a closed set of {len(labels)} labels."
        )
    return _by_kind(golds)


def _by_kind(golds: Sequence[str]) -> Scorer:
    n = len(golds)
    numbers = sum(whole_number(gold) is not None or "####" in gold for gold in golds)
    if numbers >= SHARE * n:
        return parse_scorer("numeric").because(f"Scored by `numeric`: {numbers} of {n} gold answers are numbers.")
    documents = sum(gold[:1] in ("{", "[") and find_json(gold) is not None for gold in golds)
    if documents >= SHARE * n:
        return parse_scorer("json").because(f"Scored by `json`: {documents} of {n} gold answers are JSON.")
    queries = sum(_SQL.match(gold) is not None for gold in golds)
    if queries >= SHARE * n:
        return parse_scorer("sql").because(
            f"Scored by `sql`, by canonical form: {queries} of {n} gold answers are SQL (name `sql:FILE.db` to run them)."
        )
    words = median(len(tokens(gold)) for gold in golds)
    if words <= SHORT_TOKENS:
        return parse_scorer("contains").because(
            f"Scored by `contains`: the gold answers are short texts ({words:g} words in the middle), right when one "
            "stands in the answer."
        )
    name = "rouge_l" if words >= LONG_TOKENS else "token_f1"
    return parse_scorer(name).because(
        f"Scored by `{name}`, as a number from 0 to 1: the gold answers are long texts ({words:g} words in the middle); "
        f"name `{name}>=0.5` or another threshold to call answers right or wrong."
    )


def _vocabulary(named: str, rows: Sequence[Row]) -> list[str]:
    """The labels that the gold answers are made of, for the kinds that need them."""
    golds = {answer for row in rows for answer in row.answers}
    if named.startswith("multi_label"):
        return sorted({part for gold in golds for part in split_labels(gold)})
    return sorted(golds) if named.startswith("label") else []
