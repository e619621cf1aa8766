"""The scorer `numeric`: the number an answer ends on, against the gold number."""

from __future__ import annotations

import re
from math import isfinite
from typing import NamedTuple
from unicodedata import normalize

from advisor.scorers.base import Value
from advisor.scorers.number_words import in_words
from core.errors import ConfigError
from core.rows import Row

RELATIVE_TOLERANCE = 1e-6
"""Forgives how floats are printed, nothing more."""

_GROUPED = r"[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}"
"""1,234,567, and 12,34,567 as in India."""
_POINTED = r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?|\d{1,3}\.\d{3},\d{1,2}(?!\d)"
"""1.234.567,8 and 1.234,50 as in Spain."""
_DIGITS = rf"(?:{_GROUPED})(?!\d)(?:\.\d+)?|{_POINTED}|\d+(?:[.,]\d+)?|\.\d+"
_AFTER_WORD = r"(?<![^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af])"
"""Not inside a word; Chinese, Japanese and Korean write no space before a number."""
_SCALES = {
    **{"thousand": 1e3, "k": 1e3, "mil": 1e3, "million": 1e6, "millón": 1e6, "millones": 1e6},
    **{"billion": 1e9, "trillion": 1e12, "千": 1e3, "万": 1e4, "萬": 1e4, "亿": 1e8, "億": 1e8},
}
_NUMBER = re.compile(
    rf"(?P<sign>{_AFTER_WORD}(?<![.)%])[-+])?(?:[$€£¥₹]\s?(?P<sign2>[-+])?)?{_AFTER_WORD}(?<![.,])(?P<digits>{_DIGITS})"
    r"(?P<power>e[-+]?\d+)?(?:/(?P<below>\d+(?:\.\d+)?)(?![\d/]))?(?P<percent>\s?%|\s(?:per\s?cent|por\sciento)\b)?"
    rf"(?:\s?(?P<scale>{'|'.join(_SCALES)})(?![a-z]))?(?!\d)",
    re.IGNORECASE,
)
_UNIT = r"\s*(?:[$€£¥₹]|[^\W\d_]+\.?|°[cf]?|[^\W\d_]+/[^\W\d_]+)?\s*[.。]?\s*"
_LIST = re.compile(r"(?<![\d.,])\d+(?:,\d+){2,}(?![\d,])")
_THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:['’]\d{3})+(?![\d'’])|(?<![\d.,])\d{1,3}(?:[\u00a0\u2009\u202f]\d{3})+(?!\d)"
)
"""1'234'567 as in Switzerland, and groups parted by a space that does not break."""
_SPACED = re.compile(r"(\D{0,4}\d{1,3}(?: \d{3})+(?:[.,]\d+)?)(?!\d)")
"""Groups parted by plain spaces are one number only where nothing else is said."""
_VULGAR = re.compile(r"(?<=\d)\s*(?=[¼-¾⅐-⅞])")
_FRAC = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_MIXED = re.compile(r"(?<![\d/.,])(\d+)[ ](\d+)/(\d+)(?![\d/])")
_PER_HUNDRED = re.compile(r"百分之\s*(\d+(?:\.\d+)?)")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_CUE = re.compile(r"(?:\b(?:answer|respuesta)\b|答案)\s*(?:(?:\b(?:is|are|es|son)\b|[:=是为等于])\s*)+", re.IGNORECASE)


class Number(NamedTuple):
    value: float
    percent: bool
    scale: float
    """What a word beside it multiplied it by ("million"), already in `value`."""
    other: float | None = None
    """The value where the point of 1.500 parts thousands, as in Spain."""


def numbers(text: str) -> list[Number]:
    """Every number in `text`, in order: 1,234.5, 1.234.567,8, -$5, 3/4, 2e-3, 15 %, 5 million, 3万."""
    found = []
    for match in _NUMBER.finditer(_plain(text)):
        number = _read(match)
        if number is not None:
            found.append(number)
    return found


def whole_number(text: str) -> Number | None:
    """The number that `text` is, a unit beside it or not ("18", "$1,200", "5 km"); None when it says more."""
    plain = _plain(text).strip()
    match = _NUMBER.match(plain)
    if match is None or not re.fullmatch(_UNIT, plain[match.end() :]):
        return None
    return _read(match)


def final_number(text: str) -> Number | None:
    """The number an answer gives: after the last `####`, in the last \\boxed{}, after "the answer is", else the last.

    Where the sentence is an equation ("3 + 4 = 7 for 2 people") it is the number behind the last "=". A text without
    a single digit may write its number out ("forty-two").
    """
    plain = _plain(text)
    if not re.search(r"\d", plain):
        return _written_out(plain)
    if "####" in plain:
        after = numbers(plain.rpartition("####")[2])
        if after:
            return after[0]
    boxed = _BOXED.findall(plain)
    if boxed and numbers(boxed[-1]):
        return numbers(boxed[-1])[-1]
    cues = list(_CUE.finditer(plain))
    if cues:
        sentence = _SENTENCE_END.split(plain[cues[-1].end() :], maxsplit=1)[0]
        after = numbers(sentence.rpartition("=")[2]) or numbers(sentence)
        if after:
            return after[0]
    for sentence in reversed(_SENTENCE_END.split(plain)):
        found = numbers(sentence)
        if found:
            after = numbers(sentence.rpartition("=")[2]) if "=" in sentence else []
            return after[0] if after else found[-1]
    return None


def numeric(tolerance: str = "") -> Value:
    """Value function of `numeric[:TOLERANCE]`; 0.01 is absolute, 1% relative to the gold.

    Raises:
        ConfigError: the tolerance is not such a number.
    """
    relative, absolute = RELATIVE_TOLERANCE, 0.0
    if tolerance:
        number = whole_number(tolerance)
        if number is None or not 0 <= number.value < float("inf"):
            raise ConfigError(f"scorer `numeric:{tolerance}`: the tolerance must be a number (0.01) or a per cent (1%)")
        if number.percent:
            relative = number.value / 100
        else:
            absolute = number.value

    def value(answer: str, row: Row) -> float:
        found = final_number(answer)
        if found is None:
            return 0.0
        golds = [gold for gold in map(final_number, row.answers) if gold is not None]
        return float(any(_same(found, gold, relative, absolute) for gold in golds))

    return value


def _same(found: Number, gold: Number, relative: float, absolute: float) -> bool:
    candidates = [found.value, *([found.other] if found.other is not None else [])]
    if gold.other is not None and found.value == gold.other:
        return True
    if found.scale != gold.scale:
        # "$4 million" for a gold 4 where the question counts in millions.
        candidates.append(found.value / found.scale * gold.scale)
    if found.percent != gold.percent:
        # "15 %" for 0.15 and "0.15" for 15 % are right; so is "15" where the question asked for per cent.
        candidates.append(found.value / 100 if found.percent else found.value * 100)
    margin = max(absolute, relative * abs(gold.value), 1e-12)
    return any(abs(candidate - gold.value) <= margin for candidate in candidates)


def _plain(text: str) -> str:
    plain = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), _VULGAR.sub(" ", text))
    plain = normalize("NFKC", plain).replace("−", "-").replace("\u2044", "/").replace("\\$", "$").replace("\\%", "%")
    plain = _MIXED.sub(_improper, _FRAC.sub(r"\1/\2", plain))
    plain = _PER_HUNDRED.sub(r"\1%", plain)
    spaced = _SPACED.match(plain.strip())
    if spaced is not None and re.fullmatch(_UNIT, plain.strip()[spaced.end() :]):
        plain = plain.replace(spaced[1], re.sub(r"(?<=\d) (?=\d)", "", spaced[1]))
    return _LIST.sub(_parted, plain)


def _improper(match: re.Match[str]) -> str:
    """2 1/2 as 5/2; what is no mixed number ("in 2016 3/2") as it is."""
    whole, above, below = (int(part) for part in match.groups())
    return f"{whole * below + above}/{below}" if 0 < above < below else match[0]


def _written_out(text: str) -> Number | None:
    cues = list(_CUE.finditer(text))
    text = text[cues[-1].end() :] if cues and in_words(text[cues[-1].end() :]) is not None else text
    hundredths = re.search("百分之(.+)", text)
    value = in_words(hundredths[1] if hundredths else text)
    percent = hundredths is not None or re.search(r"\b(?:per\s?cent|por ciento)\b", text, re.IGNORECASE) is not None
    return None if value is None else Number(value, percent, 1.0)


def _parted(match: re.Match[str]) -> str:
    """A list of numbers without spaces, parted; a grouped number as it is."""
    return match[0] if re.fullmatch(_GROUPED, match[0]) else match[0].replace(",", ", ")


def _read(match: re.Match[str]) -> Number | None:
    digits = match["digits"]
    if re.fullmatch(rf"(?:{_GROUPED})(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    elif re.fullmatch(_POINTED, digits):
        digits = digits.replace(".", "").replace(",", ".")
    else:
        digits = digits.replace(",", ".")
    try:
        value = float(digits + (match["power"] or ""))
    except ValueError:
        return None
    if match["below"] and float(match["below"]):
        value /= float(match["below"])
    scale = _SCALES[match["scale"].lower()] if match["scale"] else 1.0
    value *= scale
    if "-" in ((match["sign"] or "") + (match["sign2"] or "")):
        value = -value
    other = value * 1000 if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", match["digits"]) and not match["below"] else None
    return Number(value, bool(match["percent"]), scale, other) if isfinite(value) else None
