"""Text made comparable: the normal form that scorers and data checks compare in, for any script.

After SQuAD's and MLQA's answer normalisation (case, punctuation, articles, white space; CJK by character), with
differences that matter for containment: punctuation between words parts them ("red-hot" is two words, not one),
while "U.S.", "1,000", "3.5" and "-5" stay one token each; accents on Latin letters do not count ("Bogota" is Bogotá),
while ñ and ç are letters of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from unicodedata import category, name, normalize

ARTICLES = frozenset(["a", "an", "the", "un", "una", "unos", "unas", "el", "la", "los", "las"])
"""English and Spanish, as in MLQA's evaluation script. Chinese has none."""

_BY_CHARACTER = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "BOPOMOFO")
"""Scripts written without spaces between words: every character is a token."""

# Marks that part words almost everywhere, in the places where they do not. Each is kept through the translation
# below as a private-use character.
_POINT, _MINUS, _PLUS, _SHARP = "\ue000", "\ue001", "\ue002", "\ue003"
_KEPT = str.maketrans({_POINT: ".", _MINUS: "-", _PLUS: "+", _SHARP: "#"})
_SPECIAL = re.compile(r"[\d'’.+#]")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")
_ACRONYM = re.compile(r"\b[^\W\d_](?:\.[^\W\d_])+\b\.?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL = re.compile(r"(?<=\d)\.(?=\d)")
_NEGATIVE = re.compile(r"(?<![\w.)%])[-−][$€£¥]?(?=\d)")
_ACCENTED = re.compile("(?<=[a-z])[\u0300\u0301\u0302\u0308]+")
"""Grave, acute, circumflex and diaeresis; the tilde of ñ and the cedilla of ç make other letters."""
_LANGUAGE_NAME = re.compile(r"(?<=\b[a-z])(?:\+\+|#)(?!\w)")


class _Characters(dict[int, str]):
    """Character -> what it becomes; filled in as characters are met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = category(char)
        if kind[0] in "PSZ" or kind == "Cc":
            became = " "
        elif kind == "Cf":  # zero-width characters, BOM, soft hyphen
            became = ""
        else:
            became = f" {char} " if kind[0] == "L" and _script(char) in _BY_CHARACTER else char
        self[code] = became
        return became


_CHARACTERS = _Characters()


def tokens(text: str) -> list[str]:
    """The words of `text` in normal form; characters where the script has no spaces.

    A text of nothing but marks ("+", "->") keeps them, so that it still equals itself alone.
    """
    plain = normalize("NFKC", text).casefold()
    if not plain.isascii():
        plain = normalize("NFC", _ACCENTED.sub("", normalize("NFD", plain)))
    marked = plain
    if _SPECIAL.search(marked):
        marked = _APOSTROPHE.sub("", marked)
        marked = _ACRONYM.sub(lambda match: match[0].replace(".", ""), marked)
        marked = _THOUSANDS.sub("", marked)
        marked = _DECIMAL.sub(_POINT, marked)
        marked = _NEGATIVE.sub(_MINUS, marked)
        marked = _LANGUAGE_NAME.sub(lambda match: _PLUS * 2 if match[0] == "++" else _SHARP, marked)
    found = marked.translate(_CHARACTERS).translate(_KEPT).split()
    return found or plain.split()


def content_tokens(text: str) -> list[str]:
    """`tokens` without articles, unless the text is articles alone (the label "A")."""
    found = tokens(text)
    return [token for token in found if token not in ARTICLES] or found


def normalise(text: str) -> str:
    """The normal form as one string: content tokens with a space between each two."""
    return " ".join(content_tokens(text))


def contains(text: str, part: str) -> bool:
    """Whether the words of `part` stand in `text` side by side, in normal form; never inside a longer word."""
    wanted = content_tokens(part)
    if not wanted:
        return False
    if wanted[0] in ARTICLES:  # articles alone: then articles count
        return has_run(tokens(text), wanted)
    return has_run(content_tokens(text), wanted)


def has_run(found: list[str], wanted: list[str]) -> bool:
    """Whether `wanted` stands in `found` as one run."""
    # Tokens hold no spaces, so one search in the joined text is the search over runs, at C speed.
    return f" {' '.join(wanted)} " in f" {' '.join(found)} "


@lru_cache(maxsize=65536)
def _script(char: str) -> str:
    """First word of the character's Unicode name: LATIN, CJK, CYRILLIC, ARABIC, ...; "" for none."""
    return name(char, "").partition(" ")[0]


def scripts(text: str) -> Counter[str]:
    """Letters of `text` by script, most frequent first by `.most_common()`.

    Chinese characters count as CJK also in Japanese text, beside HIRAGANA and KATAKANA.
    """
    counts: Counter[str] = Counter()
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return Counter({"LATIN": letters}) if letters else counts
    for char, n in Counter(text).items():
        if char.isalpha():
            script = "LATIN" if char.isascii() else _script(char)
            counts["LATIN" if script in ("FEMININE", "MASCULINE", "MICRO", "FULLWIDTH") else script] += n
    return counts


_FREQUENT = {
    "en": "the of and to in is that for it was on are with as be this by at from how what which my do i you can when",
    "es": "de la que el en y los del las por una para con no su lo como más pero sus le ya este qué cómo es se al cuál "
    "cuántos cuántas cuándo dónde quién está son fue mi",
    "fr": "de la le et les des en un une du est que dans qui pour pas au sur par plus ne se je il ce quel comment",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an wie ich was",
    "pt": "de que o do da em um para com não uma os no se na por mais as dos como mas foi ao ele das qual é são",
    "it": "di che il la in è per un del non con una da le si i dei della nel alla come più ma gli al cosa qual",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _code, _words in _FREQUENT.items():
    for _word in _words.split():
        _LANGUAGES_OF.setdefault(_word, []).append(_code)
_BY_SCRIPT = {
    **{"CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "CYRILLIC": "ru", "ARABIC": "ar"},
    **{"GREEK": "el", "HEBREW": "he", "DEVANAGARI": "hi", "THAI": "th"},
}


def language(text: str) -> str | None:
    """Language of `text` as a two-letter code; None when there is too little to tell.

    By script, and within Latin script by frequent words. Scripts of several languages give the most used one (ru
    for Cyrillic, ar for Arabic).
    """
    counts = scripts(text)
    if not counts:
        return None
    if counts["HIRAGANA"] + counts["KATAKANA"] > 0.1 * counts.total():
        return "ja"
    # One Chinese character says about as much as three Latin letters.
    counts["CJK"] *= 3
    script = counts.most_common(1)[0][0]
    if script != "LATIN":
        return _BY_SCRIPT.get(script)
    if "¿" in text or "¡" in text:
        return "es"
    words = re.sub(r"[^\w']+", " ", text.casefold()).split()
    hits = Counter(code for word in words for code in _LANGUAGES_OF.get(word, ()))
    (best, most), (_, second) = (*hits.most_common(2), ("", 0), ("", 0))[:2]
    return best if most >= 2 and most > second else None
