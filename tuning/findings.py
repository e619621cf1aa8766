"""What is odd about training rows: duplicates, contradictions, cut answers, leaks. Each check: rows in, findings out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Literal

from core.rows import Row
from core.text import language, normalise, tokens

EXAMPLES = 5
LONG = 80
"""Characters from which on an answer is prose that should end like prose."""
END = 20
"""Characters that tell one ending from another."""
MOST = 0.8
"""What this share of the answers does, the others are expected to do."""
WINDOW = 13
"""Tokens in a row that two rows do not share by chance (Brown et al. 2020, appendix C)."""
BOILERPLATE = 5
"""A window in more training rows than this is a template's."""
MIXED = 0.05
IMBALANCE = 0.5
MIN_LABEL_ROWS = 5
_ENDS = (
    ".",
    "!",
    "?",
    "…",
    '"',
    "'",
    "”",
    "’",
    ")",
    "]",
    "}",
    ">",
    "`",
    ":",
    ";",
    "|",
    "*",
    "。",
    "！",
    "？",
    "」",
    "』",
    "）",
)


@dataclass(frozen=True)
class Finding:
    code: str
    severity: Literal["error", "warning"]
    """An error stops the training."""
    text: str
    """One sentence with its numbers."""
    count: int
    """Rows it is about."""
    lines: tuple[int, ...]
    """Lines of the first few of them, in order."""


def finding(code: str, text: str, lines: Sequence[int | None], *, error: bool = False) -> Finding:
    known = sorted(line for line in lines if line is not None)
    return Finding(code, "error" if error else "warning", text, len(lines), tuple(known[:EXAMPLES]))


def one_label(answer: str) -> list[str]:
    """The labels in an answer that is one."""
    return [answer]


def row_findings(
    rows: Sequence[Row],
    labels: Sequence[str] | None,
    evaluation: Sequence[Row] = (),
    labels_of: Callable[[str], list[str]] = one_label,
) -> list[Finding]:
    """All findings on `rows`, gravest first.

    Args:
        labels: the closed set the answers are of; None: free text.
        evaluation: rows that the result will be measured on; it must not have seen them.
        labels_of: the labels that an answer lists.
    """
    asked = [_asked(row) for row in rows]
    found = [*_leakage(rows, asked, evaluation), *_repeats(rows, asked), *_cut(rows), *_languages(rows)]
    if labels is not None:
        found += [*_unseen(labels, evaluation, labels_of), *_labels(rows, labels, labels_of)]
    return found


def languages(rows: Iterable[Row]) -> dict[str, float]:
    """Share of the inputs in each language (two-letter code), most frequent first; under 2 % it is a misjudgement."""
    counts = Counter(code for row in rows if (code := language(row.input)) is not None)
    return {code: n / counts.total() for code, n in counts.most_common() if n >= 0.02 * counts.total()}


def _repeats(rows: Sequence[Row], asked: Sequence[str]) -> Iterator[Finding]:
    given: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row, text in zip(rows, asked, strict=True):
        given[text][row.output].append(row)
    torn = [row for answers in given.values() if len(answers) > 1 for some in answers.values() for row in some]
    if torn:
        inputs = sum(len(answers) > 1 for answers in given.values())
        which = "1 input has" if inputs == 1 else f"{inputs} inputs have"
        text = f"{which} two different answers ({len(torn)} rows): {torn[0].input[:60]!r}"
        yield finding("conflicts", text, [row.line for row in torn])
    again = [row for answers in given.values() for some in answers.values() for row in some[1:]]
    if again:
        counts = "it counts" if len(again) == 1 else "they count"
        text = f"{_some(again, rows, 'rows', 'repeat')} an earlier one, input and answer: {counts} twice"
        yield finding("duplicates", text, [row.line for row in again])


def _cut(rows: Sequence[Row]) -> Iterator[Finding]:
    """Answers that seem to have lost their end."""
    cut: dict[int, Row] = {}
    longest = max(len(row.output) for row in rows)
    # A limit cuts anywhere: what ends as shorter answers do (a signature, a closing formula) was not cut.
    ends = {row.output[-END:] for row in rows if len(row.output) < longest}
    at_most = [i for i, row in enumerate(rows) if len(row.output) == longest and row.output[-END:] not in ends]
    if longest >= 2 * LONG and len(at_most) >= 3:
        cut |= {i: rows[i] for i in at_most}
    prose = [i for i, row in enumerate(rows) if len(row.output) >= LONG]
    open_ended = [i for i in prose if not rows[i].output.rstrip().endswith(_ENDS)]
    if len(open_ended) <= (1 - MOST) * len(prose):
        cut |= {i: rows[i] for i in open_ended}
    structured = [i for i, row in enumerate(rows) if row.output[:1] in ("{", "[")]
    broken = [i for i in structured if not _parses(rows[i].output)]
    if len(broken) <= (1 - MOST) * len(structured):
        cut |= {i: rows[i] for i in broken}
    cut |= {i: row for i, row in enumerate(rows) if row.output.count("```") % 2}
    if cut:
        first = cut[min(cut)]
        text = f"{_some(cut, rows, 'answers', 'seem')} cut off: ...{first.output[-40:]!r}"
        yield finding("truncated_answers", text, [cut[i].line for i in sorted(cut)])


def _some(some: Sized, rows: Sized, what: str, does: str) -> str:
    """`3 of 20 answers seem`, and `1 of 20 answers seems`."""
    return f"{len(some)} of {len(rows)} {what} {does}{'s' if len(some) == 1 else ''}"


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _leakage(rows: Sequence[Row], asked: Sequence[str], evaluation: Sequence[Row]) -> Iterator[Finding]:
    if not evaluation:
        return
    held_out = {_asked(row) for row in evaluation}
    same = [row for row, text in zip(rows, asked, strict=True) if text in held_out]
    if same:
        text = (
            f"{_some(same, rows, 'training inputs', 'stand')} in the eval set too:"
            f" a score on it would flatter; take {'it' if len(same) == 1 else 'them'} out of one of the two"
        )
        yield finding("leakage", text, [row.line for row in same])
    windows = [_windows(row) for row in rows]
    common = Counter(window for found in windows for window in found)
    foreign = {window for row in evaluation for window in _windows(row)}
    whole = {id(row) for row in same}
    near = [
        row
        for row, found in zip(rows, windows, strict=True)
        if id(row) not in whole and any(w in foreign and common[w] <= BOILERPLATE for w in found)
    ]
    if near:
        text = f"{_some(near, rows, 'training inputs', 'share')} {WINDOW} words in a row with an eval input"
        yield finding("near_leakage", text, [row.line for row in near])


def _windows(row: Row) -> set[tuple[str, ...]]:
    words = tokens(row.input)
    return {tuple(words[i : i + WINDOW]) for i in range(len(words) - WINDOW + 1)}


def _unseen(
    labels: Sequence[str], evaluation: Sequence[Row], labels_of: Callable[[str], list[str]]
) -> Iterator[Finding]:
    known = set(labels)
    unseen = [r for r in evaluation if r.answers and not any(known.intersection(labels_of(a)) for a in r.answers)]
    if unseen:
        names = sorted({row.output for row in unseen})
        text = (
            f"{len(unseen)} of {len(evaluation)} eval rows have a label that no training row has, so they cannot be"
            f" answered right: {', '.join(names[:6])}"
        )
        yield finding("unseen_labels", text, [row.line for row in unseen])


def _labels(rows: Sequence[Row], labels: Sequence[str], labels_of: Callable[[str], list[str]]) -> Iterator[Finding]:
    given = [set(labels_of(row.output)) for row in rows]
    counts = Counter(label for some in given for label in some)
    top, most = counts.most_common(1)[0]
    if labels_of is one_label and most > IMBALANCE * len(rows) and most > 2 * len(rows) / len(labels):
        text = f"{most} of {len(rows)} rows have the label {top!r}: always answering it would be right {most / len(rows):.0%}"
        yield finding("imbalance", text, [row.line for row in rows if row.output == top])
    rare = [label for label in labels if counts[label] < MIN_LABEL_ROWS]
    if rare:
        text = f"{len(rare)} of {len(labels)} labels have fewer than {MIN_LABEL_ROWS} rows: {', '.join(rare[:6])}"
        yield finding(
            "rare_labels", text, [row.line for row, some in zip(rows, given, strict=True) if some & set(rare)]
        )
    spelled: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        spelled[normalise(label)].add(label)
    twins = [sorted(names) for names in spelled.values() if len(names) > 1]
    if twins:
        text = f"{len(twins)} labels are spelled in two ways, and learnt as two: {' and '.join(map(repr, twins[0]))}"
        doubled = {name for names in twins for name in names}
        yield finding(
            "label_spelling", text, [row.line for row, some in zip(rows, given, strict=True) if some & doubled]
        )


def _languages(rows: Sequence[Row]) -> Iterator[Finding]:
    spoken = languages(rows)
    main = next(iter(spoken), None)
    others = {code for code, share in spoken.items() if share >= MIXED} - {main}
    if others:
        shares = ", ".join(f"{code} {share:.0%}" for code, share in spoken.items())
        foreign = [row.line for row in rows if language(row.input) in others]
        yield finding("languages", f"the inputs are in several languages: {shares}", foreign)


def _asked(row: Row) -> str:
    """The input in normal form; system prompts aside, which whole sets share."""
    return normalise(" ".join(message.content for message in row.messages if message.role != "system"))
