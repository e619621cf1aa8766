"""Training rows that teach facts: their answers cannot be derived from their input, only be known.

Fine-tuning fits such rows word for word, fails on them when the question is put another way, and gets worse at
what the model knew (see decision.md); facts belong in documents. A heuristic by the words of the answer:
names, numbers and short answers that neither the input, the row's own passages, nor the house's vocabulary holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from core.labels import head_task
from core.rows import Row
from core.text import content_tokens, language, scripts, tokens

SHORT_TOKENS = 6
"""Up to here every word of an answer is what it says; in a longer one only names and numbers are."""

COMMON = 0.02
"""Words in more of the outputs than this are the house's vocabulary, which tuning is there to teach."""

SHARE = 0.2
"""From this share of the rows on it is worth a warning."""


def judged(rows: Sequence[Row]) -> list[Row]:
    """The rows of which it can be asked: those with an answer; none where the answers are labels, which are no facts."""
    answered = [row for row in rows if row.answers and row.answerable]
    return [] if head_task(answered) else answered


def taught_facts(rows: Sequence[Row]) -> list[str]:
    """Ids of the training `rows` whose answer cannot be derived from their input.

    Computed answers do not count: a number for an input with two numbers or more. Nor do outputs in another
    language than their input, which cannot be judged by words.
    """
    outputs = [row.output for row in rows]
    counts = Counter(token for output in outputs for token in set(tokens(output)))
    house = {token for token, count in counts.items() if count > max(2, COMMON * len(rows))}
    return [row.id for row, output in zip(rows, outputs, strict=True) if _teaches(row, output, house)]


def _teaches(row: Row, output: str, house: set[str]) -> bool:
    given = " ".join([message.content for message in row.messages] + list(row.context))
    told, asked = language(output[:1000]), language(row.input[:1000])
    if told is not None and asked is not None and told != asked:
        return False
    specific = _specific(output) - house
    if not specific:
        return False
    available = set(tokens(given))
    if all(token[0].isdigit() or token[0] == "-" for token in specific) and _numbers(given) >= 2:
        return False
    if _spaceless(output):
        return _share_of_pairs(output, given) < 0.5
    return sum(token in available for token in specific) < 0.5 * len(specific)


def _specific(output: str) -> set[str]:
    words = content_tokens(output)
    if len(words) <= SHORT_TOKENS or _spaceless(output):
        return set(words)
    # A capital that begins a sentence names nothing.
    pairs = pairwise(output.split())
    named = [
        word
        for before, word in pairs
        if re.search(r"\d", word) or (not before.endswith((".", "!", "?", ":")) and word != word.lower())
    ]
    return {token for word in named for token in content_tokens(word)}


def _numbers(text: str) -> int:
    return len(re.findall(r"\d+(?:[.,]\d+)*", text))


def _spaceless(text: str) -> bool:
    counts = scripts(text)
    return counts["CJK"] + counts["HIRAGANA"] + counts["KATAKANA"] > 0.5 * counts.total()


def _share_of_pairs(output: str, given: str) -> float:
    """Share of the output's pairs of neighbouring characters that the input holds."""
    found, held = tokens(output), tokens(given)
    pairs = set(pairwise(found)) or {(token, "") for token in found}
    available = set(pairwise(held)) | {(token, "") for token in held}
    return sum(pair in available for pair in pairs) / len(pairs)
