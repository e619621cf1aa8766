"""What the report says of the retriever: is the gold document in the prompt?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from advisor.readiness import retrieval_readiness
from core.rows import Row
from core.types import Message, Source


class Shelf:
    """Finds the documents in a fixed order, whatever is asked."""

    document_ids = ("a", "b", "c", "d")

    def search(self, texts: Sequence[str], top_k: int) -> list[list[Source]]:
        found = [Source(i, id, "", id, 1 / i) for i, id in enumerate(self.document_ids, start=1)]
        return [found[:top_k] for _ in texts]

    def documents(self, ids: Sequence[str], text: str | None = None) -> list[Source]:
        return [source for source in self.search([""], 4)[0] if source.document_id in ids]

    def texts(self) -> Iterator[tuple[str, str]]:
        return ((id, id) for id in self.document_ids)


def row(name: str, *gold: str, answerable: bool = True) -> Row:
    return Row(name, (Message("user", name),), ("x",), context_ids=gold, answerable=answerable)


def test_gold_in_the_prompt_depends_on_top_k_and_recall_does_not() -> None:
    rows = [row("1", "a"), row("2", "b"), row("3", "d"), row("4", "gone")]
    two, four = (retrieval_readiness(rows, Shelf(), top_k) for top_k in (2, 4))
    assert two is not None
    assert four is not None
    assert (two["in_prompt"]["value"], four["in_prompt"]["value"]) == (0.5, 0.75)
    assert two["recall@5"]["value"] == four["recall@5"]["value"] == 0.75
    assert (two["n"], two["unknown_gold"]) == (4, 1)
    assert (two["missed"], four["missed"]) == (["3", "4"], ["4"])


def test_items_without_a_gold_document_are_counted_apart() -> None:
    found = retrieval_readiness([row("1", "a"), row("2"), row("3", "b", answerable=False)], Shelf(), 1)
    assert found is not None
    assert (found["n"], found["without_gold"], found["in_prompt"]["value"]) == (1, 2, 1.0)


def test_nothing_is_claimed_without_marks_or_without_an_index() -> None:
    assert retrieval_readiness([row("1")], Shelf(), 4) is None
    assert retrieval_readiness([row("1", "a")], None, 4) is None
