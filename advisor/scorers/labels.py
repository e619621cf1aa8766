"""The scorers `label` and `multi_label`: which labels of a closed set does an answer name?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from unicodedata import normalize

from advisor.scorers.base import Value
from core.label_lists import split_labels
from core.rows import Row
from core.text import scripts, tokens

Finder = Callable[[str], set[str]]
"""The labels that a text names."""

_VERDICTS = frozenset(
    [
        "yes",
        "no",
        "maybe",
        "true",
        "false",
        "sí",
        "si",
        "verdadero",
        "falso",
        "quizás",
        "是",
        "否",
        "对",
        "错",
        "正确",
        "错误",
    ]
)
"""Labels that are everyday words. At the head of an answer they are the answer; later on they are just words."""

_DENIALS: tuple[tuple[str, ...], ...] = (
    *((word,) for word in ("not", "isnt", "arent", "wasnt", "never", "non", "不", "非")),
    *(("no", verb) for verb in ("es", "era", "fue", "son", "esta", "estan")),
    ("不", "是"),
)
"""What denies the label right behind it, as tokens."""
_OUT_OF = re.compile(r"(?<=\d)\s*(?:/|out of|of|von|de|sobre)\s*\d+\b", re.IGNORECASE)


def label(labels: Sequence[str]) -> Value:
    """Value function: 1 when the answer names the gold label and no other label of the set."""
    find = finder(labels)

    def value(answer: str, row: Row) -> float:
        named = find(answer)
        golds = set().union(*(find(gold) or {gold} for gold in row.answers))
        return float(bool(named) and named <= golds)

    return value


def multi_label(labels: Collection[str]) -> Value:
    """Value function: best F1 of the set of labels named against the set in a gold answer."""
    find = finder(sorted(labels))

    def value(answer: str, row: Row) -> float:
        found = label_set(answer, find)
        return max(_f1(found, label_set(gold, find)) for gold in row.answers)

    return value


def label_set(text: str, find: Finder | None = None) -> set[str]:
    """The labels in `text`: a JSON list, those that `find` finds, else the parts between commas, semicolons or lines."""
    parts = split_labels(text)
    if find is None:
        return set(parts)
    # Labels the vocabulary lacks still count against an answer where it is a plain list.
    found = find(text)
    unknown = {part for part in parts if len(parts) > 1 and not find(part) and len(tokens(part)) <= 4}
    return found | unknown or set(parts)


def finder(labels: Sequence[str]) -> Finder:
    """What names which of `labels`: case, underscores, hyphens and spaces do not matter, the longest name wins.

    "not spam" does not name `spam`. Labels of one letter or digit (A, B, C ...) are matched as they are written and
    standing alone. Where two labels differ in nothing else, case does matter.
    """
    if labels and all(len(name) == 1 and "CJK" not in scripts(name) for name in labels):
        return _single_characters(labels)
    keys = {tuple(tokens(name)): name for name in labels}
    if len(keys) < len(set(labels)):
        return _as_written(labels)
    heads: dict[str, list[tuple[str, ...]]] = {}
    for key in sorted(keys, key=len, reverse=True):
        heads.setdefault(key[0], []).append(key)
    squashed = Counter("".join(key) for key in keys)
    whole = {"".join(key): name for key, name in keys.items() if squashed["".join(key)] == 1}

    def find(text: str) -> set[str]:
        words = tokens(text)
        alone = whole.get("".join(words))
        if alone is not None:
            return {alone}
        named: list[tuple[int, int, str]] = []
        at = 0
        while at < len(words):
            key = next((k for k in heads.get(words[at], ()) if tuple(words[at : at + len(k)]) == k), None)
            if key is None:
                at += 1
                continue
            if not any(tuple(words[max(0, at - len(denial)) : at]) == denial for denial in _DENIALS):
                named.append((at, at + len(key), keys[key]))
            at += len(key)
        if named and named[0][0] == 0 and named[0][2].casefold() in _VERDICTS and _settled(text, words, named):
            return {named[0][2]}
        return {name for _, _, name in named}

    return find


def _settled(text: str, words: Sequence[str], named: Sequence[tuple[int, int, str]]) -> bool:
    """Whether the verdict word that leads the answer stands for itself: "Yes, there is no doubt", not "yes or no"."""
    end = named[0][1]
    mark = re.match(r"\W*\w+\s*([,.;:!\n，。；：！—–-])", text)
    if len(words) == end:
        return True
    # "Yes, no" hedges; "Yes. No doubt about it" does not.
    hedged = mark is not None and mark[1] in ",，" and len(named) > 1 and named[1][0] == end
    return mark is not None and not hedged


def _single_characters(labels: Sequence[str]) -> Finder:
    one = "|".join(re.escape(name) for name in labels)
    # The article "A" and the pronoun "I" lead sentences: before a lower-case word they are no label.
    word = r"(?!\s+(?!(?:because|since|is|as|or|and|but)\b)[a-zà-ÿ])"
    pattern = re.compile(rf"(?<!\w)(?:{one})(?![\w'’]){word if any(n.isalpha() for n in labels) else ''}")
    lower = {name.casefold(): name for name in labels}

    def find(text: str) -> set[str]:
        plain = _OUT_OF.sub("", normalize("NFKC", text))
        bare = plain.strip(" \t\n.()[]{}:*\"'`")
        if bare in labels:
            return {bare}
        if bare.casefold() in lower and len(lower) == len(labels):
            return {lower[bare.casefold()]}
        return set(pattern.findall(plain))

    return find


def _as_written(labels: Sequence[str]) -> Finder:
    one = "|".join(re.escape(name) for name in sorted(labels, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{one})(?!\w)")

    def find(text: str) -> set[str]:
        return {text.strip()} if text.strip() in labels else set(pattern.findall(text))

    return find


def _f1(found: set[str], wanted: set[str]) -> float:
    folded, golds = {name.casefold() for name in found}, {name.casefold() for name in wanted}
    common = len(folded & golds)
    return 2 * common / (len(folded) + len(golds)) if common else 0.0
