"""What texts have in common in their make-up: how they start and end, a phrase they all hold, the shape of a code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

MAX_SHAPES = 3
MAX_SHAPE_CHARS = 40
MAX_RUN_WORDS = 80
SAMPLE = 400

_SENTENCE_MARKS = frozenset(".?!。？！\"'”」)")
_SIGN = re.compile(r"\\d|[-_/:#@=+<>|&%$\[\]{}]")
"""A digit or a sign, in a shape."""
_PIECE = re.compile(r"(\d+)|([A-Z]+)|([a-z]+)|(.)", re.DOTALL)


def common_start(texts: Sequence[str], share: float) -> str:
    """The longest start that at least `share` of `texts` have, ending at a word boundary; "" where it says nothing."""
    alive, length = list(texts), 0
    while length < 200:
        following = Counter(text[length] for text in alive if len(text) > length)
        if not following:
            break
        char, count = following.most_common(1)[0]
        if count < share * len(texts):
            break
        alive = [text for text in alive if len(text) > length and text[length] == char]
        length += 1
    start = alive[0][:length] if alive else ""
    if any(len(text) > length and text[length].isalnum() for text in alive) and start[-1:].isalnum():
        start = re.sub(r"[^\W_]+$", "", start)
    start = start.rstrip()
    says = len(start) >= 2 or (len(start) == 1 and not start.isalnum() and start not in "\"'“¿¡(")
    return start if says else ""


def common_end(texts: Sequence[str], share: float) -> str:
    """The longest end that at least `share` of `texts` have; "" for a mere full stop."""
    end = common_start([text[::-1] for text in texts], share)[::-1]
    return "" if all(char in _SENTENCE_MARKS for char in end) else end


def common_run(texts: Sequence[str], share: float) -> str:
    """The longest run of three words or more that `share` of `texts` hold as written; "" where there is none.

    It must hold a capital, a digit or a sign that prose does not have: "FROM TABLE AS t", not "one of the".
    """
    step = max(1, len(texts) // SAMPLE)
    sample = [f" {' '.join(text.split())} " for text in texts[::step]]
    if sorted(len(text.split()) for text in sample)[len(sample) // 2] > MAX_RUN_WORDS:
        return ""
    best = ""
    for text in sample[:3]:
        words = text.split()
        start = 0
        while start < len(words):
            end = start
            while end < len(words) and _held(sample, " ".join(words[start : end + 1]), share):
                end += 1
            if end - start >= 3 and len(" ".join(words[start:end])) > len(best):
                best = " ".join(words[start:end])
            start = max(end, start + 1)
    if not re.search(r"[^\sa-z,.;'\"()-]", best):
        return ""
    return best if _held([f" {' '.join(text.split())} " for text in texts], best, share) else ""


def shape_patterns(texts: Sequence[str], share: float) -> list[str]:
    """Regular expressions for short codes such as 2024-05-06, INV-0042 or 12:30; [] where texts are no codes.

    A shape is the text with its digits, capitals and small letters as runs. Up to three shapes must cover `share` of
    the texts, hold a digit or a sign, and be met by far more texts than there are shapes.
    """
    if any(len(text) > MAX_SHAPE_CHARS or "\n" in text for text in texts):
        return []
    shapes = Counter(_shape(text) for text in texts)
    common = [shape for shape, _ in shapes.most_common(MAX_SHAPES)]
    if sum(shapes[shape] for shape in common) < share * len(texts) or len(set(texts)) < 4 * len(shapes):
        return []
    # Words and spaces are prose of a few words, however alike they look.
    if not all(_SIGN.search(shape.replace("[A-Z]+", "").replace("[a-z]+", "")) for shape in common):
        return []
    return common


def _shape(text: str) -> str:
    parts = []
    for digits, capitals, small, other in _PIECE.findall(text):
        parts.append(r"\d+" if digits else "[A-Z]+" if capitals else "[a-z]+" if small else re.escape(other))
    return "".join(parts)


def _held(spaced: Sequence[str], run: str, share: float) -> bool:
    return sum(f" {run} " in text for text in spaced) >= share * len(spaced)
