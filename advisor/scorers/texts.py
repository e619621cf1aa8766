"""Scorers that compare words: exact, contains, token_f1, rouge_l, bleu, chrf."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from core.rows import Row
from core.text import contains, content_tokens, normalise, scripts


def exact(answer: str, row: Row) -> float:
    """1 when the answer is a gold answer, in normal form (see `core.text`)."""
    found = normalise(answer)
    return float(any(found == normalise(gold) for gold in row.answers))


def contained(answer: str, row: Row) -> float:
    """1 when a gold answer stands in the answer, at word boundaries."""
    return float(any(contains(answer, gold) for gold in row.answers))


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
