"""Numbers written out in English, Spanish or Chinese: forty-two, cuarenta y dos, 四十二."""

from __future__ import annotations

import re

_EN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_EN_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ES = (
    "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince dieciséis diecisiete "
    "dieciocho diecinueve veinte veintiuno veintidós veintitrés veinticuatro veinticinco veintiséis veintisiete "
    "veintiocho veintinueve"
)
_ES_TENS = "treinta cuarenta cincuenta sesenta setenta ochenta noventa"
_ES_HUNDREDS = "doscient trescient cuatrocient quinient seiscient setecient ochocient novecient"
_UNITS = {
    **{word: value for value, word in enumerate(_EN.split())},
    **{word: 10 * i for i, word in enumerate(_EN_TENS.split(), start=2)},
    **{word: value for value, word in enumerate(_ES.split())},
    **{word: 10 * i for i, word in enumerate(_ES_TENS.split(), start=3)},
    **{stem + end: 100 * i for i, stem in enumerate(_ES_HUNDREDS.split(), start=2) for end in ("os", "as")},
    **{"dozen": 12, "docena": 12, "un": 1, "una": 1, "veintiún": 21, "veintiuna": 21, "cien": 100, "ciento": 100},
    **{"dieciseis": 16, "veintidos": 22, "veintitres": 23, "veintiseis": 26},
}
_SCALES = {
    **{"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9},
    **{"mil": 1_000, "millón": 10**6, "millon": 10**6, "millones": 10**6},
}
_JOINS = frozenset(["and", "y", "a"])
_ONES = frozenset(["one", "un", "una", "uno", "一"])
"""Words that are far more often an article or a pronoun than a number."""

_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_PLACES = {"十": 10, "百": 100, "千": 1_000}
_MYRIADS = {"万": 10_000, "萬": 10_000, "亿": 10**8, "億": 10**8}
_CHINESE = re.compile(f"[{''.join((*_DIGITS, *_PLACES, *_MYRIADS))}]+")
_WORD = re.compile(r"[^\W\d_]+|[^\w\s-]")
_MINUS = frozenset(["minus", "negative", "menos", "负", "負"])


def in_words(text: str) -> float | None:
    """The last number that `text` writes out; None where there is none.

    "one", "un", "一" count only where nothing else is said, or as part of a longer number.
    """
    chinese = [match for match in _CHINESE.finditer(text) if _chinese(match[0]) is not None]
    if chinese:
        last = chinese[-1]
        if last[0] in _ONES and text.strip(" 。.!！") != last[0]:
            return None
        value = _chinese(last[0])
        assert value is not None
        return -value if text[: last.start()][-1:] in _MINUS else value
    words = _WORD.findall(text.casefold())
    end = len(words)
    while end > 0:
        if words[end - 1] not in _UNITS and words[end - 1] not in _SCALES:
            end -= 1
            continue
        start = end - 1
        while start > 0 and (words[start - 1] in _UNITS or words[start - 1] in _SCALES or _joins(words, start - 1)):
            start -= 1
        run = words[start:end]
        if len(run) > 1 or run[0] not in _ONES or len([w for w in words if w[0].isalnum()]) == 1:
            value = _added_up(run)
            return -value if start > 0 and words[start - 1] in _MINUS else value
        end = start
    return None


def _joins(words: list[str], at: int) -> bool:
    """Whether the word at `at` is the "and" within a number: "one hundred and five", "cuarenta y dos"."""
    if at == 0 or words[at] not in _JOINS:
        return False
    before = words[at - 1]
    return before in _SCALES if words[at] == "and" else words[at] == "y" and _UNITS.get(before, 0) in range(30, 100, 10)


def _added_up(run: list[str]) -> float:
    total, current = 0, 0
    for word in run:
        if word in _JOINS:
            continue
        if word in _SCALES:
            scale = _SCALES[word]
            current = max(current, 1) * scale
            if scale > 100:
                total, current = total + current, 0
        elif word in ("dozen", "docena"):
            current = max(current, 1) * 12
        else:
            current += _UNITS[word]
    return float(total + current)


def _chinese(text: str) -> float | None:
    """Read 四十二, 一百二十, 三万五千, 二〇一六; None for marks that are no number ("万")."""
    if all(char in _DIGITS for char in text):
        return float("".join(str(_DIGITS[char]) for char in text))
    total, section, digit, seen = 0, 0, 0, False
    for char in text:
        if char in _DIGITS:
            digit, seen = _DIGITS[char], True
        elif char in _PLACES:
            # 十二 is twelve: nothing before 十 means one.
            if not digit and char != "十":
                return None
            section, digit, seen = section + (digit or 1) * _PLACES[char], 0, True
        else:
            if not seen:
                return None
            total, section, digit = (total + section + digit) * _MYRIADS[char], 0, 0
    return float(total + section + digit) if seen else None
