"""Scorers that compare words: exact, contains, token_f1, rouge_l, bleu, chrf."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from advisor.scorers.number_words import in_words
from advisor.scorers.numbers import numbers, whole_number
from core.rows import Row
from core.text import ARTICLES, content_tokens, normalise, scripts, tokens

_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")
_DENIALS: tuple[tuple[str, ...], ...] = (
    *((word,) for word in ("not", "isnt", "arent", "wasnt", "werent", "never", "neither", "nor")),
    *(("no", verb) for verb in ("es", "era", "eran", "fue", "fueron", "son", "esta", "estan", "en")),
    ("no", "se", "llama"),
    *((*"不是",), (*"并非",), (*"不在",), (*"不叫",)),
)
"""What denies the words right behind it, as tokens."""
_NUMBER_TOKENS = 6
"""A gold answer of up to so many tokens may be a number, with its unit."""


def exact(answer: str, row: Row) -> float:
    """1 when the answer is a gold answer, in normal form (see `core.text`)."""
    found = normalise(answer)
    return float(any(found == normalise(gold) for gold in row.answers))


def contained(answer: str, row: Row) -> float:
    """1 when a gold answer stands in the answer, at word boundaries, and is not denied there ("not Paris").

    A possessive 's does not hide a name, and a gold number may be written in digits or in words.
    """
    return float(any(_contained(answer, gold) for gold in row.answers))


def _contained(answer: str, gold: str) -> bool:
    return (
        _stands(answer, gold)
        or _stands(*(_POSSESSIVE.sub("", text) for text in (answer, gold)))
        or _same_number(answer, gold)
    )


def _stands(answer: str, gold: str) -> bool:
    """Whether the gold's words stand in the answer in one place, at least, where nothing denies them."""
    wanted = content_tokens(gold)
    # Articles alone (the label "A"): then articles count.
    found = tokens(answer) if wanted[:1] and wanted[0] in ARTICLES else content_tokens(answer)
    size = len(wanted)
    if not wanted or f" {' '.join(wanted)} " not in f" {' '.join(found)} ":
        return False
    places = [at for at in range(len(found) - size + 1) if found[at : at + size] == wanted]
    return any(not _denied(found[:at]) for at in places)


def _denied(before: Sequence[str]) -> bool:
    return any(tuple(before[-len(words) :]) == words for words in _DENIALS)


def _same_number(answer: str, gold: str) -> bool:
    """Whether gold and answer name one number, one of them in words: "four" and "4 times"."""
    words = tokens(gold)
    if len(words) > _NUMBER_TOKENS:
        return False
    number = whole_number(gold)
    if number is not None and len(words) == 1:
        return not any(char.isdigit() for char in answer) and in_words(answer) == number.value
    written = in_words(gold) if len(words) <= 3 and not any(char.isdigit() for char in gold) else None
    if written is None or any(in_words(word) is None and word not in ("and", "y") for word in words):
        return False
    return any(found.value == written for found in numbers(answer))


def token_f1(answer: str, row: Row) -> float:
    """Best F1 of the bags of tokens, as SQuAD's evaluation script has it."""
    found = Counter(content_tokens(answer))
    return max(_f1(found, Counter(content_tokens(gold))) for gold in row.answers)


def rouge_l(answer: str, row: Row) -> float:
    """Best F1 of the longest common subsequence of tokens (Lin 2004, sentence level, beta 1, no stemming)."""
    found = content_tokens(answer)
    return max(_rouge_l(found, content_tokens(gold)) for gold in row.answers)


def bleu(answer: str, row: Row) -> float:
    """Sentence BLEU by sacrebleu, over all gold answers at once, 0-1."""
    from sacrebleu import sentence_bleu

    tokenize = "zh" if scripts(row.answers[0])["CJK"] else "13a"
    return float(sentence_bleu(answer, list(row.answers), tokenize=tokenize).score) / 100


def chrf(answer: str, row: Row) -> float:
    """Sentence chrF (character 6-grams, beta 2) by sacrebleu, 0-1."""
    from sacrebleu import sentence_chrf

    return float(sentence_chrf(answer, list(row.answers)).score) / 100


def _f1(found: Counter[str], wanted: Counter[str]) -> float:
    common = (found & wanted).total()
    return 2 * common / (found.total() + wanted.total()) if common else 0.0


def _rouge_l(found: Sequence[str], wanted: Sequence[str]) -> float:
    common = longest_common(found, wanted)
    return 2 * common / (len(found) + len(wanted)) if common else 0.0


def longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004): one big-integer step a token of `b`."""
    places: dict[str, int] = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    whole = (1 << len(a)) - 1
    row = whole
    for token in b:
        hits = row & places.get(token, 0)
        row = (row + hits | row - hits) & whole
    return len(a) - row.bit_count()
