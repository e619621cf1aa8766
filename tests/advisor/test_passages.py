"""Oracle passages give the answer away to the model, never to the order; wrong passages never hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from advisor.passages import holds_answer, oracle_passages, wrong_passages
from core.rows import Row
from core.types import Message, Source

TEXTS = {f"d{i}": f"Document {i} is about topic {i}." for i in range(30)}
TEXTS["gold"] = "The tower was finished in 1889 in Paris."
TEXTS["other"] = "In 1889 nothing else happened."


class Corpus:
    """Returns the documents in the order of their ids, whatever is asked."""

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        return [[self._source(i, id) for i, id in enumerate(list(TEXTS)[-top_k:], start=1)] for _ in texts]

    def documents(self, ids: Sequence[str], text: str | None = None) -> list[Source]:
        return [self._source(i, id) for i, id in enumerate(ids, start=1)]

    @property
    def document_ids(self) -> Sequence[str]:
        return list(TEXTS)

    def texts(self) -> Iterator[tuple[str, str]]:
        yield from TEXTS.items()

    def _source(self, number: int, id: str) -> Source:
        return Source(number, id, "", TEXTS[id], 1.0 / number)


def row(id: str, **more: object) -> Row:
    return Row(id, (Message("user", f"When was the tower of {id} finished?"),), ("1889",), **more)  # type: ignore[arg-type]


def test_the_gold_passage_stands_among_distractors_that_lack_the_answer() -> None:
    rows = [row(f"q{i}", context_ids=("gold",)) for i in range(40)]
    found = oracle_passages(rows, Corpus(), top_k=4, seed=0)
    assert (found.marked, found.proxy, found.missing) == (40, 0, 0)
    for r, sources in zip(rows, found.per_row, strict=True):
        assert [s.number for s in sources] == [1, 2, 3, 4]
        assert [s.document_id for s in sources if holds_answer(s.text, r)] == ["gold"]
    places = {next(s.number for s in sources if s.document_id == "gold") for sources in found.per_row}
    assert places == {1, 2, 3, 4}


def test_a_gold_passage_that_is_not_among_the_documents_counts_as_unmarked() -> None:
    found = oracle_passages([row("q", context_ids=("lost",))], Corpus(), top_k=3, seed=0)
    assert (found.marked, found.proxy) == (0, 1)


def test_without_a_marked_gold_a_retrieved_passage_that_holds_the_answer_stands_in() -> None:
    found = oracle_passages([row("q")], Corpus(), top_k=3, seed=0)
    assert (found.marked, found.proxy) == (0, 1)


def test_an_answer_in_no_document_is_counted_as_missing() -> None:
    lost = Row("q", (Message("user", "Who?"),), ("Ada Lovelace",))
    found = oracle_passages([lost], Corpus(), top_k=3, seed=0)
    assert found.missing == 1
    assert len(found.per_row[0]) == 3


def test_context_in_the_row_is_the_gold_passage_even_without_documents() -> None:
    found = oracle_passages([row("q", context=("It was finished in 1889.",))], None, top_k=4, seed=0)
    assert [s.text for s in found.per_row[0]] == ["It was finished in 1889."]


def test_the_same_seed_gives_the_same_order() -> None:
    rows = [row(f"q{i}", context_ids=("gold",)) for i in range(5)]
    assert oracle_passages(rows, Corpus(), 4, 3).per_row == oracle_passages(rows, Corpus(), 4, 3).per_row


def test_wrong_passages_never_hold_the_answer() -> None:
    rows = [row("q", context_ids=("gold",))]
    (sources,) = wrong_passages(rows, Corpus(), top_k=4)
    assert len(sources) == 4
    assert not any(holds_answer(s.text, rows[0]) for s in sources)
