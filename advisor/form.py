"""The shape an answer must have, learnt from training outputs: labels, JSON keys, a number, a dialect, a length.

Content is judged by the scorer; form says whether the answer can be used as it stands. A check is learnt only where
nearly all training outputs agree, so that it is the house's rule and not an accident of few rows.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from advisor.refusals import is_refusal
from advisor.shapes import common_end, common_run, common_start, shape_patterns
from core.label_lists import label_parts, split_labels
from core.labels import closed_labels
from core.rows import Row
from core.text import language, scripts, tokens

MIN_OUTPUTS = 10
"""Fewer outputs show no rule: ten that agree leave a rule broken by a fifth of all outputs a chance of 11 %."""

SHARE = 0.98
"""How many outputs must be of a kind (JSON, numbers). Real training sets hold a few odd rows."""

ALIKE = 0.995
"""How many must share a start, a phrase, a shape: a rule that 1 % of the house's own answers break is none."""

MAX_LABELS_SHOWN = 200
MAX_EXAMPLE_CHARS = 400

_LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "de": "German", "pt": "Portuguese", "it": "Italian"}
_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")


@dataclass(frozen=True)
class Check:
    name: str
    """label | labels | json | number | shape | start | end | phrase | last_line | one_line | length | script | language"""
    rule: str
    """The rule as a sentence for the report."""
    holds: Callable[[str], bool]


@dataclass(frozen=True)
class FormSpec:
    """Every check that the training outputs taught; none where they taught nothing."""

    checks: tuple[Check, ...] = ()
    instruction: str | None = None
    outputs: int = 0
    """Training outputs it was learnt from."""

    def check(self, text: str) -> bool:
        """Whether `text` has the shape; white space around it does not count."""
        return not self.faults(text)

    def faults(self, text: str) -> list[str]:
        """Names of the checks that `text` fails."""
        stripped = text.strip()
        return [check.name for check in self.checks if not check.holds(stripped)]

    def describe(self) -> list[str]:
        """One sentence a check."""
        return [check.rule for check in self.checks]

    def answer_format(self) -> str | None:
        """One line that tells a model the shape, for the `prompt` arm; None when nothing was learnt."""
        return self.instruction


def learn_form(rows: Sequence[Row], refusals: Sequence[str] = ()) -> FormSpec:
    """The shape of the outputs of training `rows`; refusals and unanswerable rows teach nothing about it.

    Args:
        refusals: the user's own refusal patterns.
    """
    parts = label_parts([row.output for row in rows if row.answers])
    if parts is not None:
        return _of_label_lists(parts, rows)
    labels = closed_labels(rows)
    if labels:
        return _of_labels(labels, len(rows))
    outputs = [
        row.output.strip() for row in rows if row.answers and row.answerable and not is_refusal(row.output, refusals)
    ]
    if len(outputs) < MIN_OUTPUTS:
        return FormSpec(outputs=len(outputs))
    return _of_json(outputs) or _of_numbers(outputs) or _of_text(outputs)


def _of_labels(labels: tuple[str, ...], n: int) -> FormSpec:
    known = frozenset(labels)
    shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
    rule = f"The answer is exactly one of {len(labels)} labels: {shown}"
    if len(labels) <= MAX_LABELS_SHOWN:
        line = f"Answer with exactly one of these labels and nothing else: {', '.join(labels)}."
    else:
        line = f"Answer with one label and nothing else, written like these: {', '.join(labels[:20])}."
    return FormSpec((Check("label", rule, lambda text: text in known),), line, n)


def _of_label_lists(parts: Sequence[str], rows: Sequence[Row]) -> FormSpec:
    known = frozenset(parts)
    outputs = [row.output for row in rows if row.answers]
    check = Check(
        "labels",
        f"The answer is a list of labels out of {len(parts)}: {', '.join(parts[:8])}{', ...' if len(parts) > 8 else ''}",
        lambda text: bool(text) and set(split_labels(text)) <= known,
    )
    example = max(outputs[:50], key=lambda output: len(split_labels(output)))
    line = f"Answer with labels out of these and nothing else: {', '.join(parts)}. Write them like this: {example}"
    return FormSpec((check,), line, len(outputs))


def _of_json(outputs: Sequence[str]) -> FormSpec | None:
    values = [_json(output) for output in outputs]
    objects = [value for value in values if isinstance(value, dict)]
    if len(objects) < SHARE * len(outputs):
        if sum(isinstance(value, list) for value in values) < SHARE * len(outputs):
            return None
        check = Check("json", "The answer is a JSON array", lambda text: isinstance(_json(text), list))
        return FormSpec((check,), f"Answer with a JSON array only, like this one: {_example(outputs)}", len(outputs))
    seen = Counter(key for value in objects for key in value)
    required = [key for key, count in seen.items() if count >= SHARE * len(objects)]
    optional = sorted(set(seen) - set(required))

    def holds(text: str) -> bool:
        value = _json(text)
        return isinstance(value, dict) and set(required) <= set(value) <= set(seen)

    keys = _quoted(required)
    rule = f"The answer is a JSON object with the keys {keys}" + (
        f" and perhaps {_quoted(optional)}" if optional else ""
    )
    return FormSpec(
        (Check("json", rule, holds),), f"Answer with a JSON object only, with the keys {keys}.", len(outputs)
    )


def _of_numbers(outputs: Sequence[str]) -> FormSpec | None:
    if not _most(outputs, _is_number):
        return None
    check = Check("number", "The answer is a number and nothing else", _is_number)
    return FormSpec((check,), "Answer with the number only.", len(outputs))


def _of_text(outputs: Sequence[str]) -> FormSpec:
    pattern = [*_shape(outputs), *_ends(outputs), *_last_line(outputs)]
    prose = [] if pattern else _language(outputs)
    checks = [*pattern, *_one_line(outputs), *_length(outputs), *_script(outputs), *prose]
    return FormSpec(tuple(checks), _line(outputs, checks), len(outputs))


def _shape(outputs: Sequence[str]) -> list[Check]:
    patterns = shape_patterns(outputs, ALIKE)
    if not patterns:
        return []
    pattern = re.compile("|".join(f"(?:{p})" for p in patterns))
    rule = f"The answer looks like {_example(outputs)!r}"
    return [Check("shape", rule, lambda text: pattern.fullmatch(text) is not None)]


def _ends(outputs: Sequence[str]) -> list[Check]:
    checks = []
    start, end = common_start(outputs, ALIKE), common_end(outputs, ALIKE)
    if start:
        checks.append(Check("start", f"The answer starts with {start!r}", lambda text: text.startswith(start)))
    if end:
        checks.append(Check("end", f"The answer ends with {end!r}", lambda text: text.endswith(end)))
    run = common_run(outputs, ALIKE)
    if run and run not in start and run not in end:
        spaced = f" {run} "
        checks.append(
            Check("phrase", f"The answer holds {run!r}", lambda text: spaced in f" {' '.join(text.split())} ")
        )
    return checks


def _last_line(outputs: Sequence[str]) -> list[Check]:
    """Such as "#### 72" under the working."""
    lines = [output.rsplit("\n", 1)[-1].strip() for output in outputs if "\n" in output]
    if len(lines) < SHARE * len(outputs):
        return []
    start = common_start(lines, ALIKE)
    rest = [line[len(start) :].strip() for line in lines]
    numeric = _most(rest, _is_number)
    if not start and not numeric:
        return []

    def holds(text: str) -> bool:
        line = text.rsplit("\n", 1)[-1].strip()
        return line.startswith(start) and (not numeric or _is_number(line[len(start) :].strip()))

    what = f"{start!r} and a number" if start and numeric else "a number" if numeric else f"{start!r}"
    return [Check("last_line", f"The last line is {what}" + ("" if numeric else " and what follows"), holds)]


def _one_line(outputs: Sequence[str]) -> list[Check]:
    if not _most(outputs, lambda output: "\n" not in output):
        return []
    return [Check("one_line", "The answer is one line", lambda text: "\n" not in text)]


def _length(outputs: Sequence[str]) -> list[Check]:
    """Twice the 99th percentile, and never under eight words more: too long is meant, not a little longer."""
    words, chars = _high([len(tokens(output)) for output in outputs]), _high([len(output) for output in outputs])
    most_words, most_chars = max(2 * words, words + 8), max(2 * chars, chars + 60)
    rule = f"The answer has at most {most_words} words and {most_chars} characters"
    return [Check("length", rule, lambda text: len(text) <= most_chars and len(tokens(text)) <= most_words)]


def _script(outputs: Sequence[str]) -> list[Check]:
    used = Counter(script for output in outputs if (script := _main_script(output)) is not None)
    if used.total() < SHARE * len(outputs):
        return []
    common = {script for script, count in used.items() if count >= 0.01 * used.total()}
    names = ", ".join(sorted(name.capitalize() if name != "CJK" else "Chinese" for name in common))
    return [
        Check("script", f"The answer is written in {names} letters", lambda text: _main_script(text) in {None, *common})
    ]


def _language(outputs: Sequence[str]) -> list[Check]:
    """Only where outputs are long enough to tell: names and numbers belong to no language."""
    told = Counter(code for output in outputs if (code := language(output)) in _LANGUAGES)
    if not told or told.total() < 0.8 * len(outputs):
        return []
    code, count = told.most_common(1)[0]
    if count < SHARE * told.total():
        return []

    def holds(text: str) -> bool:
        return len(text.split()) < 8 or language(text) in (None, code)

    return [Check("language", f"The answer is in {_LANGUAGES[str(code)]}", holds)]


def _line(outputs: Sequence[str], checks: Sequence[Check]) -> str | None:
    names = {check.name for check in checks}
    if names & {"shape", "start", "end", "phrase"}:
        return f"Answer in exactly the form of this example, and add nothing: {_example(outputs)}"
    last = next((check for check in checks if check.name == "last_line"), None)
    if last is not None:
        return f"{last.rule.replace('The last line is', 'End your answer with a line of its own:')}, as in: {outputs[0][-60:]!r}"
    words = median(len(tokens(output)) for output in outputs)
    if words <= 8:
        return "Answer in a few words."
    if "one_line" in names and words <= 40:
        return "Answer in one sentence."
    return f"Answer in about {round(words, -1):g} words."


def _example(outputs: Sequence[str]) -> str:
    """A typical output, of middle length, cut where it is long."""
    plain = [output for output in outputs if output.isascii()] or outputs
    typical = sorted(plain, key=lambda output: (len(output), output))[len(plain) // 2]
    return typical if len(typical) <= MAX_EXAMPLE_CHARS else typical[:MAX_EXAMPLE_CHARS] + " ..."


def _main_script(text: str) -> str | None:
    counts = scripts(text)
    return counts.most_common(1)[0][0] if counts else None


def _is_number(text: str) -> bool:
    return bool(text) and text[-1].isdigit() and _NUMBER.fullmatch(text) is not None


def _json(text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value


def _most(outputs: Sequence[str], holds: Callable[[str], bool]) -> bool:
    return sum(map(holds, outputs)) >= SHARE * len(outputs)


def _high(values: Sequence[int]) -> int:
    """99th percentile."""
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def _quoted(keys: Sequence[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
