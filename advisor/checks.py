"""Checks of the data before anything is spent on it: what would make a verdict wrong, flattering or unfair.

Each check is a function from rows to findings. A finding is a warning with its numbers and the items it concerns, so
that accuracy can be shown with and without them; only a training set that holds the whole eval set is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from advisor.corpus_checks import search_corpus
from advisor.form import FormSpec, learn_form
from advisor.overlap import Sketch, near_pairs, near_pairs_between, shared_windows, sketch
from advisor.pii import personal_data
from advisor.scorers.numbers import whole_number
from advisor.scorers.structured import find_json
from core import fact_teaching
from core.errors import DataError
from core.labels import closed_labels
from core.rows import Row
from core.text import language, normalise

EXAMPLES = 5
LEAKS = frozenset(["leakage", "near_leakage", "question_in_corpus"])
"""Codes whose items flatter some arm."""

IMBALANCE_SHARE = 0.5
MIXED_LANGUAGE_SHARE = 0.05
MIN_LABEL_ROWS = 5
FEW_ROWS = 20


@dataclass(frozen=True)
class Finding:
    code: str
    """leakage | near_leakage | question_in_corpus | eval_duplicates | duplicates | near_duplicates | conflicting_gold | entity_split |
    imbalance | rare_labels | unseen_labels | unparseable | gold_form | languages | no_gold | not_in_corpus |
    fact_teaching | personal_data | few_rows | gold_too_long | input_too_long"""
    text: str
    """One sentence with its numbers, and what to do."""
    count: int
    examples: tuple[str, ...]
    """Ids of the first few rows it is about."""
    items: tuple[str, ...] = ()
    """Ids of all eval rows it is about; () where it is about training rows."""


def check_data(
    rows: Sequence[Row],
    train: Sequence[Row] = (),
    corpus: Iterable[tuple[str, str]] | None = None,
    refusals: Sequence[str] = (),
) -> list[Finding]:
    """Findings on eval `rows`, training rows and the documents, gravest first; seconds for 10,000 rows.

    Args:
        corpus: the documents as (id, text); None where there are none or they are not read yet.
        refusals: the user's own refusal patterns.

    Raises:
        DataError: the training rows hold every eval row with its answer.
    """
    texts, train_texts = [_asked(row) for row in rows], [_asked(row) for row in train]
    sketches = {text: sketch(text) for text in (*texts, *train_texts)}
    findings: list[Finding] = []
    if train:
        findings += _leakage(rows, texts, train, train_texts, sketches)
        findings += _shared_entities(rows, train)
        findings += fact_findings(train)
        findings += _outputs(rows, train, refusals)
    if corpus is not None:
        findings += corpus_findings(rows, corpus)
    findings += _conflicts(rows, texts, train, train_texts)
    for what, some, asked in (("eval", rows, texts), ("training", train, train_texts)):
        findings += _duplicates(what, some, asked, sketches)
    findings += _labels(rows, train)
    findings += _languages(rows, train)
    findings += _missing_gold(rows)
    findings += _few(rows)
    findings += _personal_data(rows, train)
    return findings


def corpus_findings(rows: Sequence[Row], corpus: Iterable[tuple[str, str]]) -> list[Finding]:
    """What the documents lack, and what they give away. Closed labels are not looked for: "yes" stands everywhere."""
    asked = [row for row in rows if row.answers and row.answerable]
    if not asked or closed_labels(asked):
        return []
    without, leaked = search_corpus(asked, corpus)
    findings = []
    if leaked:
        text = f"{_of(leaked, asked)} eval questions stand word for word in a document, with their answers"
        findings.append(_finding("question_in_corpus", text, leaked, leaked))
    if without:
        text = (
            f"the gold answer of {_of(without, asked)} eval rows stands in no document: "
            "retrieval cannot quote it; add the documents that hold it, if there are any"
        )
        findings.append(_finding("not_in_corpus", text, without, without))
    return findings


def fact_findings(train: Sequence[Row]) -> list[Finding]:
    """Whether the training rows teach facts rather than behaviour."""
    judged = fact_teaching.judged(train)
    teaching = fact_teaching.taught_facts(judged)
    if not judged or len(teaching) < fact_teaching.SHARE * len(judged):
        return []
    text = (
        f"the answers of {_of(teaching, judged)} training rows cannot be derived from their input: tuning would learn "
        "their wording, not the facts; put the facts into documents"
    )
    return [_finding("fact_teaching", text, teaching)]


def _leakage(
    rows: Sequence[Row],
    texts: Sequence[str],
    train: Sequence[Row],
    train_texts: Sequence[str],
    sketches: Mapping[str, Sketch],
) -> Iterator[Finding]:
    seen = dict(zip(train_texts, train, strict=True))
    same = [row.id for row, text in zip(rows, texts, strict=True) if text in seen]
    repeated = [
        row
        for row, text in zip(rows, texts, strict=True)
        if text in seen and set(row.answers) & set(seen[text].answers)
    ]
    if rows and len(repeated) == len(rows):
        raise DataError(
            f"the training rows hold all {len(rows)} eval rows with their answers: a tuned model would only repeat them; "
            "take the eval rows out of the training rows"
        )
    if same:
        text = f"{_of(same, rows)} eval inputs stand in the training rows too"
        yield _finding("leakage", text, same, same)
    places = [i for i, text in enumerate(texts) if text not in seen]
    left = [texts[i] for i in places]
    pairs = near_pairs_between([sketches[text] for text in left], [sketches[text] for text in train_texts])
    pairs += shared_windows([text.split() for text in left], [text.split() for text in train_texts])
    near = [rows[places[place]].id for place in sorted({pair.left for pair in pairs})]
    if near:
        text = (
            f"{_of(near, rows)} {'other ' if same else ''}eval inputs are nearly the same as a training input "
            "(Jaccard >= .8, or 13 words in a row)"
        )
        yield _finding("near_leakage", text, near, near)


def _shared_entities(rows: Sequence[Row], train: Sequence[Row]) -> Iterator[Finding]:
    for what, of in (("cluster", _clusters), ("gold document", _documents)):
        taught = {name for row in train for name in of(row)}
        both = [row.id for row in rows if taught & of(row)]
        if both:
            text = (
                f"{_of(both, rows)} eval rows share their {what} with training rows: "
                "what is measured on them is partly remembered; split by it"
            )
            yield _finding("entity_split", text, both, both)


def _clusters(row: Row) -> set[str]:
    return set() if row.cluster is None else {row.cluster}


def _documents(row: Row) -> set[str]:
    return set(row.context_ids)


def _conflicts(
    rows: Sequence[Row], texts: Sequence[str], train: Sequence[Row], train_texts: Sequence[str]
) -> Iterator[Finding]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row, text in zip((*rows, *train), (*texts, *train_texts), strict=True):
        if row.answers:
            groups[text].append(row)
    evaluated = {id(row) for row in rows}
    conflicting = [row for group in groups.values() if _disagree(group) for row in group]
    if conflicting:
        inputs = sum(_disagree(group) for group in groups.values())
        text = (
            f"{inputs} inputs stand in the data with different answers ({len(conflicting)} rows): one of them is wrong"
        )
        items = [row.id for row in conflicting if id(row) in evaluated]
        yield _finding("conflicting_gold", text, [row.id for row in conflicting], items)


def _disagree(group: Sequence[Row]) -> bool:
    if len(group) < 2:
        return False
    answers = [{normalise(answer) for answer in row.answers} for row in group]
    return not set.intersection(*answers)


def _duplicates(
    what: str, rows: Sequence[Row], texts: Sequence[str], sketches: Mapping[str, Sketch]
) -> Iterator[Finding]:
    first: dict[str, int] = {}
    again = [i for i, text in enumerate(texts) if first.setdefault(text, i) != i]
    if again:
        ids = [rows[i].id for i in again]
        weigh = (
            "each counts with its first as one cluster, so that together they show no more than one"
            if what == "eval"
            else "they teach nothing more"
        )
        text = f"{_of(ids, rows)} {what} inputs stand there before: {weigh}"
        yield _finding("eval_duplicates" if what == "eval" else "duplicates", text, ids, ids if what == "eval" else ())
    repeated = set(again)
    kept = [i for i in range(len(rows)) if i not in repeated]
    pairs = near_pairs([sketches[texts[i]] for i in kept])
    if pairs:
        ids = [rows[kept[pair.left]].id for pair in pairs]
        text = f"{_of(ids, rows)} {what} inputs are nearly the same as an earlier one (Jaccard >= .8)"
        yield _finding("near_duplicates", text, ids, ids if what == "eval" else ())


def _labels(rows: Sequence[Row], train: Sequence[Row]) -> Iterator[Finding]:
    for what, some in (("eval", rows), ("training", train)):
        labels = closed_labels(some)
        counts = Counter(row.output for row in some if row.answers)
        if not labels or not counts:
            continue
        (top, most), total = counts.most_common(1)[0], counts.total()
        if len(labels) > 1 and most > IMBALANCE_SHARE * total and most > 2 * total / len(labels):
            text = f"{most} of {total} {what} rows have the label {top!r}: always answering it would score {most / total:.0%}"
            yield _finding("imbalance", text, [row.id for row in some if row.answers and row.output == top])
        rare = [label for label in labels if counts[label] < MIN_LABEL_ROWS] if what == "training" else []
        if rare:
            text = f"{len(rare)} of {len(labels)} labels have fewer than {MIN_LABEL_ROWS} training rows: {_list(rare)}"
            yield _finding("rare_labels", text, [row.id for row in some if row.answers and row.output in set(rare)])
    taught = set(closed_labels(train) or ())
    unseen = [row.id for row in rows if row.answers and taught and not taught & set(row.answers)]
    if unseen and len(unseen) < len(rows):
        names = sorted({row.output for row in rows if row.id in set(unseen)})
        text = f"{_of(unseen, rows)} eval rows have labels that no training row has: {_list(names)}"
        yield _finding("unseen_labels", text, unseen, unseen)


def _outputs(rows: Sequence[Row], train: Sequence[Row], refusals: Sequence[str]) -> Iterator[Finding]:
    """Training outputs that break the kind the others have, and gold answers that break the shape learnt from them."""
    answered = [row for row in train if row.answers and row.answerable]
    for kind, reads in (("JSON", find_json), ("a number", whole_number)):
        odd = [row.id for row in answered if reads(row.output) is None]
        if odd and len(odd) <= 0.2 * len(answered):
            text = f"{_of(odd, answered)} training outputs are not {kind}, as all others are"
            yield _finding("unparseable", text, odd)
    form = learn_form(train, refusals)
    broken = _broken(form, rows)
    if broken:
        faults = Counter(fault for row in rows if row.id in set(broken) for fault in form.faults(row.output))
        text = (
            f"{_of(broken, rows)} gold answers do not have the shape of the training outputs "
            f"({', '.join(f'{name}: {n}' for name, n in faults.most_common())}): a model tuned on them would be marked down"
        )
        yield _finding("gold_form", text, broken, broken)


def _broken(form: FormSpec, rows: Sequence[Row]) -> list[str]:
    judged = [row for row in rows if row.answers and row.answerable]
    return [row.id for row in judged if not any(form.check(answer) for answer in row.answers)]


def _languages(rows: Sequence[Row], train: Sequence[Row]) -> Iterator[Finding]:
    spoken, taught = _spoken(rows), _spoken(train)
    if len([code for code, share in spoken.items() if share >= MIXED_LANGUAGE_SHARE]) > 1:
        text = f"the eval inputs are in several languages: {_shares(spoken)}; a mean over them hides the weaker ones"
        yield _finding("languages", text, [row.id for row in rows if _language(row) != next(iter(spoken))])
    foreign = [
        code for code, share in spoken.items() if share >= MIXED_LANGUAGE_SHARE and taught and code not in taught
    ]
    if foreign:
        ids = [row.id for row in rows if _language(row) in foreign]
        text = f"{_of(ids, rows)} eval inputs are in a language that no training input is in ({', '.join(foreign)})"
        yield _finding("languages", text, ids, ids)


def _spoken(rows: Sequence[Row]) -> dict[str, float]:
    """Languages by their share of the inputs that tell one, most frequent first; a rare one is a misjudgement."""
    counts = Counter(code for row in rows if (code := _language(row)) is not None)
    return {code: n / counts.total() for code, n in counts.most_common() if n >= 0.02 * counts.total()}


LANGUAGE_CHARS = 1000
"""Of an input tell its language; a long one makes ten thousand rows slow."""


def _language(row: Row) -> str | None:
    return _language_of(row.input[:LANGUAGE_CHARS])


@lru_cache(maxsize=1 << 15)
def _language_of(text: str) -> str | None:
    return language(text)


def _missing_gold(rows: Sequence[Row]) -> Iterator[Finding]:
    ids = [row.id for row in rows if row.answerable and not row.answers]
    if ids:
        text = f"{_of(ids, rows)} eval rows have no gold answer and are left out; add it, or `answerable: false`"
        yield _finding("no_gold", text, ids, ids)


def _few(rows: Sequence[Row]) -> Iterator[Finding]:
    scored = [row.id for row in rows if row.answers or not row.answerable]
    if 0 < len(scored) < FEW_ROWS:
        text = (
            f"{len(scored)} eval rows can be scored, too few to show any but the largest gains: 37 show one of 30 points, "
            "100 one of 15"
        )
        yield _finding("few_rows", text, scored)


def together(rows: Sequence[Row]) -> list[Row]:
    """`rows` with those that ask the same put into one cluster, where they name none: a copy is no second witness."""
    texts = [_asked(row) for row in rows]
    counts = Counter(texts)
    first: dict[str, str] = {}
    for row, text in zip(rows, texts, strict=True):
        first.setdefault(text, row.cluster or row.id)
    return [
        replace(row, cluster=first[text]) if counts[text] > 1 and row.cluster is None else row
        for row, text in zip(rows, texts, strict=True)
    ]


def _personal_data(rows: Sequence[Row], train: Sequence[Row]) -> Iterator[Finding]:
    for what, some in (("eval", rows), ("training", train)):
        found = [(row.id, kinds) for row in some if (kinds := personal_data(_everything(row)))]
        if found:
            counts = Counter(kind for _, kinds in found for kind in kinds)
            named = ", ".join(f"{kind} {n}" for kind, n in counts.most_common())
            text = (
                f"{_of(found, some)} {what} rows seem to hold personal data ({named}): look before it is sent or learnt"
            )
            yield _finding("personal_data", text, [row_id for row_id, _ in found])


def _asked(row: Row) -> str:
    """The whole input in normal form; system prompts aside, which whole sets share."""
    return normalise(" ".join(message.content for message in row.messages if message.role != "system"))


def _everything(row: Row) -> str:
    return "\n".join([*(message.content for message in row.messages), *row.answers, *row.context])


def _finding(code: str, text: str, ids: Sequence[str], items: Sequence[str] = ()) -> Finding:
    return Finding(code, text, len(ids), tuple(ids[:EXAMPLES]), tuple(items))


def _of(some: Sequence[object], every: Sequence[object]) -> str:
    return f"{len(some)} of {len(every)}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{code} {share:.0%}" for code, share in shares.items())
