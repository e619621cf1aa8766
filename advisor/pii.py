"""Personal data in rows, by pattern: a warning before texts go to a hosted model or into an adapter's weights."""

from __future__ import annotations

import re

_PATTERNS = {
    "e-mail address": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b"),
    "phone number": re.compile(
        r"(?<![\w.])(?:\+\d{1,3}[\s.-]?)(?:\(?\d{1,4}\)?[\s.-]?){2,4}\d{2,4}(?!\w)|(?<![\w.-])\(?\d{3}\)?[\s.-]\d{3}[.-]\d{4}(?![\w-])"
        r"|(?<!\d)1[3-9]\d{9}(?!\d)"
    ),
    "card number": re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-])"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "US social security number": re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"),
    "Chinese identity number": re.compile(
        r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\w)"
    ),
    "Spanish identity number": re.compile(r"\b[XYZ]?\d{7,8}-?[A-HJ-NP-TV-Z]\b"),
    "secret key": re.compile(
        r"\b(?:sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,})\b|-----BEGIN [A-Z ]*PRIVATE KEY"
    ),
}


_LEAST_DIGITS = {
    "phone number": 8,
    "card number": 13,
    "IBAN": 6,
    "US social security number": 9,
    "Chinese identity number": 17,
    "Spanish identity number": 7,
}


def personal_data(text: str) -> set[str]:
    """Kinds of personal data that `text` seems to hold. Numbers with a check digit must pass it."""
    digits = sum(map(text.count, "0123456789"))
    kinds = set()
    for kind, pattern in _PATTERNS.items():
        possible = "@" in text if kind == "e-mail address" else digits >= _LEAST_DIGITS.get(kind, 0)
        if possible and any(_valid(kind, match[0]) for match in pattern.finditer(text)):
            kinds.add(kind)
    return kinds


def _valid(kind: str, found: str) -> bool:
    if kind == "phone number":
        return 8 <= sum(char.isdigit() for char in found) <= 15
    if kind == "card number":
        return _luhn(re.sub(r"\D", "", found))
    if kind == "IBAN":
        return _iban(found.replace(" ", ""))
    if kind == "Spanish identity number":
        return _dni(found.replace("-", ""))
    return True


def _luhn(digits: str) -> bool:
    if len(set(digits)) == 1:
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _iban(text: str) -> bool:
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


def _dni(text: str) -> bool:
    digits = text[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return len(digits) == 8 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == text[-1]
