"""Scorers: how right is the content of an answer? One table of kinds, and the way to write one down.

A scorer is written `KIND[:ARGUMENT][>=THRESHOLD]`, e.g. `numeric:0.01`, `sql:shop.db`, `rouge_l>=0.5`, or
`module:function` for the user's own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from advisor.scorers import labels, numbers, sql, structured, texts
from advisor.scorers.base import Prepare, Score, Scorer, Value
from core.errors import ConfigError, MissingExtra, UnknownName

__all__ = ["KINDS", "Kind", "Score", "Scorer", "Value", "parse_scorer"]


class Kind(NamedTuple):
    rule: str
    """What counts as right."""
    make: Callable[[str, Sequence[str]], Value]
    """Value function for the argument ("" without one) and the label set."""
    argument: str = ""
    """What may follow the colon; "" is nothing."""
    graded: bool = False
    """Kept as a number unless the user gives a threshold."""
    needs_labels: bool = False
    prepare: Callable[[str], Prepare] | None = None
    """For the argument, what makes scoring a whole arm faster."""


def _plain(value: Value) -> Callable[[str, Sequence[str]], Value]:
    return lambda _argument, _labels: value


def _sacrebleu(value: Value) -> Callable[[str, Sequence[str]], Value]:
    """`value`, refused at once where sacrebleu is missing: not after the answers were paid for."""

    def make(_argument: str, _labels: Sequence[str]) -> Value:
        if find_spec("sacrebleu") is None:
            raise MissingExtra("scoring with BLEU or chrF", "metrics")
        return value

    return make


def _similarity_prepare(model: str) -> Prepare:
    from advisor.scorers.own import similarity_prepare

    return similarity_prepare(model)


def _similarity(model: str, _labels: Sequence[str]) -> Value:
    from advisor.scorers.own import similarity

    return similarity(model)


KINDS: dict[str, Kind] = {
    "exact": Kind("the answer is a gold answer, case, punctuation and articles aside", _plain(texts.exact)),
    "contains": Kind("a gold answer stands in the answer, at word boundaries", _plain(texts.contained)),
    "numeric": Kind("the answer's final number is the gold number", lambda a, _: numbers.numeric(a), "TOLERANCE"),
    "label": Kind(
        "the answer names the gold label and no other", lambda _, names: labels.label(names), needs_labels=True
    ),
    "multi_label": Kind(
        "the answer names the gold labels and no others", lambda _, names: labels.multi_label(names), needs_labels=True
    ),
    "json": Kind("every field of the gold JSON has its value", lambda a, _: structured.json_fields(a), "SCHEMA.json"),
    "regex": Kind("the pattern is found in the answer", lambda a, _: structured.regex(a), "PATTERN"),
    "sql": Kind(
        "the query is the gold query, or gives its result on the database", lambda a, _: sql.sql(a), "DATABASE.db"
    ),
    "token_f1": Kind("F1 of the answer's words against the gold's", _plain(texts.token_f1), graded=True),
    "rouge_l": Kind("ROUGE-L F1 of the answer against the gold", _plain(texts.rouge_l), graded=True),
    "bleu": Kind("sentence BLEU against the gold answers", _sacrebleu(texts.bleu), graded=True),
    "chrf": Kind("sentence chrF against the gold answers", _sacrebleu(texts.chrf), graded=True),
    "similarity": Kind(
        "cosine similarity of the embeddings", _similarity, "MODEL", graded=True, prepare=_similarity_prepare
    ),
}

_THRESHOLD = re.compile(r"\s*>=\s*([0-9.]+)\s*$")
_OWN = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def parse_scorer(text: str, vocabulary: Sequence[str] = ()) -> Scorer:
    """The scorer that `text` writes down. `vocabulary` is the label set, for the kinds that choose from one.

    Raises:
        UnknownName: no such kind; lists near ones.
        ConfigError: an argument or threshold that cannot be used, or a label scorer without labels.
    """
    text = text.strip()
    match = _THRESHOLD.search(text)
    spec = text[: match.start()] if match else text
    name, colon, argument = spec.partition(":")
    threshold = _threshold(text, match[1]) if match else None
    kind = KINDS.get(name)
    if kind is None:
        if not _OWN.fullmatch(spec):
            raise UnknownName("scorer", spec, KINDS, hint=f"(known: {', '.join(KINDS)}, or your own module:function)")
        from advisor.scorers.own import own

        return Scorer(text, f"your function {spec} says so", own(spec), 1.0 if threshold is None else threshold)
    if colon and not argument:
        raise ConfigError(
            f"scorer {text!r}: nothing follows the ':'{f'; give {kind.argument}' if kind.argument else ''}"
        )
    if argument and not kind.argument:
        raise ConfigError(f"scorer {text!r}: `{name}` takes no argument")
    if kind.needs_labels and not vocabulary:
        raise ConfigError(f"scorer {text!r}: the rows have no gold labels to choose from")
    least = threshold if threshold is not None else None if kind.graded else 1.0
    names = tuple(sorted(set(vocabulary))) if kind.needs_labels else ()
    rule = kind.rule + (f" ({argument})" if argument else "")
    prepare = None if kind.prepare is None else kind.prepare(argument)
    return Scorer(text, rule, kind.make(argument, names), least, names, prepare=prepare)


def _threshold(text: str, digits: str) -> float:
    try:
        value = float(digits)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise ConfigError(f"scorer {text!r}: the threshold must be a number over 0, at most 1")
    return value
