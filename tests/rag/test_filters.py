"""Metadata filters: what they mean, what is refused, and that a client's filter never widens the server's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from rag.chunks import Chunk
from rag.documents import Scalar
from rag.fields import Fields
from rag.filters import AllOf, Condition, Filter, filter_json, matches, narrowed, parse_filter, read_filter
from rag.passages import Entry, Passages, PassageWriter, passage_row

KEYS = ("tenant", "year", "kind", "absent")
scalars = st.one_of(
    st.sampled_from(["", "a", "b", "1", "true", "2024-05-01"]),
    st.sampled_from([0, 1, 2, 2024, 2**53, 2**53 + 1]),
    st.sampled_from([1.0, 1.5, float(2**53), -0.0]),
    st.booleans(),
)
metadata = st.dictionaries(st.sampled_from(KEYS[:-1]), scalars, max_size=3)


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from(KEYS)
    ordered = scalars.filter(lambda value: not isinstance(value, bool))
    return st.one_of(
        st.fixed_dictionaries({"type": st.sampled_from(["eq", "ne"]), "key": keys, "value": scalars}),
        st.fixed_dictionaries({"type": st.sampled_from(["gt", "gte", "lt", "lte"]), "key": keys, "value": ordered}),
        st.fixed_dictionaries(
            {"type": st.sampled_from(["in", "nin"]), "key": keys, "value": st.lists(scalars, min_size=1, max_size=3)}
        ),
    )


filters = st.recursive(
    conditions(),
    lambda parts: st.fixed_dictionaries(
        {"type": st.sampled_from(["and", "or"]), "filters": st.lists(parts, min_size=1, max_size=3)}
    ),
    max_leaves=8,
)


def fields(folder: Path, documents: Sequence[dict[str, Scalar]]) -> Fields:
    """Two passages a document, the second on page 2."""
    with PassageWriter(folder) as writer:
        for i, values in enumerate(documents):
            rows = [
                passage_row(Chunk(f"d{i}", n, "T", (f"H{n}",), n + 1, n * 10 + 1, n * 10, n * 10 + 5, "words", "T", 1))
                for n in range(2)
            ]
            writer.add(Entry(f"d{i}", "T", "f.txt", 0, 2, 2, values), rows)
    return Fields(Passages(folder))


def passing(filter: Filter, *values: dict[str, Scalar]) -> list[int]:
    return [i for i, one in enumerate(values) if matches(filter, one)]


YEARS: tuple[dict[str, Scalar], ...] = ({"year": 1999}, {"year": 2000.0}, {"year": "2000"}, {"year": True}, {})


@pytest.mark.parametrize(
    ("type", "value", "expected"),
    [
        ("eq", 2000, [1]),
        ("eq", "2000", [2]),
        ("eq", True, [3]),
        ("eq", 1, []),
        ("ne", 2000, [0, 2, 3, 4]),
        ("gt", 1999, [1]),
        ("gte", 1999, [0, 1]),
        ("lt", 2000, [0]),
        ("lte", 2000, [0, 1]),
        ("gte", "1", [2]),
        ("in", [1999, "2000"], [0, 2]),
        ("nin", [1999, "2000"], [1, 3, 4]),
    ],
)
def test_types_are_kept_apart_and_a_missing_key_passes_negations_only(
    type: str, value: Any, expected: list[int]
) -> None:
    assert passing(parse_filter({"type": type, "key": "year", "value": value}), *YEARS) == expected


def test_large_whole_numbers_are_told_apart() -> None:
    wanted = parse_filter({"type": "eq", "key": "tenant", "value": 2**53 + 1})
    assert passing(wanted, {"tenant": 2**53}, {"tenant": 2**53 + 1}, {"tenant": float(2**53)}) == [1]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, 'filter: must be an object {"type", ...}, not nothing'),
        ([], "filter: must be an object"),
        ({"type": "like", "key": "a", "value": "b"}, "filter.type: 'like' is no filter type; known: eq, ne, gt"),
        ({"type": "eq", "value": "b"}, "filter.key: must name a metadata field, not nothing"),
        ({"type": "eq", "key": "a"}, "filter.value: must be a text, a finite number or true/false, not nothing"),
        ({"type": "eq", "key": "a", "value": ["b"]}, "filter.value: must be a text"),
        ({"type": "eq", "key": "a", "value": float("nan")}, "not nan"),
        ({"type": "gt", "key": "a", "value": True}, "filter.value: 'gt' needs a number or a text"),
        ({"type": "in", "key": "a", "value": "b"}, "filter.value: 'in' needs a list of at least one value, not 'b'"),
        ({"type": "in", "key": "a", "value": [1, {}]}, r"filter.value\[1\]: must be a text"),
        ({"type": "in", "key": "a", "value": [1] * 5000}, "5000 values, over the limit of 4096"),
        ({"type": "or", "filters": []}, "filter.filters: 'or' needs a list of at least one filter"),
        ({"type": "and", "filters": [{"type": "x"}]}, r"filter.filters\[0\].type: 'x' is no filter type"),
        ({"type": "eq", "key": "a", "value": 1, "or": []}, "filter: unknown field 'or'; known: type, key, value"),
        ({"type": "and", "filters": [{"type": "eq", "key": "a", "value": 1}] * 300}, "over 256 conditions"),
    ],
)
def test_a_bad_filter_is_one_line_that_says_where(value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_filter(value)


def test_a_filter_nested_too_deep_is_refused() -> None:
    value: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(20):
        value = {"type": "and", "filters": [value]}
    with pytest.raises(ConfigError, match="nested over 16 deep"):
        parse_filter(value)
    with pytest.raises(ConfigError, match="filter: not valid JSON"):
        read_filter("[" * 100_000)


def test_text_that_is_no_json_is_refused_with_an_example() -> None:
    with pytest.raises(ConfigError, match='not valid JSON .* {"type":"eq"'):
        read_filter("tenant=a")


@given(filters)
def test_a_filter_survives_the_way_to_json_and_back(value: dict[str, Any]) -> None:
    parsed = parse_filter(value)
    assert read_filter(json.dumps(filter_json(parsed))) == parsed


@given(filters, st.lists(metadata, min_size=1, max_size=8))
def test_all_passages_at_once_pass_as_each_alone_would(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], documents: list[dict[str, Scalar]]
) -> None:
    filter = parse_filter(value)
    mask = fields(tmp_path_factory.mktemp("f"), documents).allowed(filter)
    assert mask is not None
    assert mask.tolist() == [matches(filter, one) for one in documents for _ in range(2)]


@given(filters, st.lists(metadata, min_size=1, max_size=8))
def test_no_filter_of_a_client_shows_another_tenants_passage(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any], documents: list[dict[str, Scalar]]
) -> None:
    server = Condition("eq", "tenant", ("a",))
    # The worst client: whatever it likes, or everything, or what is not its own.
    worst = {"type": "or", "filters": [value, {"type": "ne", "key": "absent", "value": 0}]}
    table = fields(tmp_path_factory.mktemp("f"), documents)
    for client in (value, worst, {"type": "ne", "key": "tenant", "value": "a"}):
        mask = table.allowed(narrowed(server, parse_filter(client)))
        assert mask is not None
        assert not [i for i in mask.nonzero()[0] if documents[i // 2].get("tenant") != "a"]


def test_narrowing_keeps_what_there_is() -> None:
    one, two = Condition("eq", "a", (1,)), Condition("eq", "b", (2,))
    assert narrowed(None, None) is None
    assert narrowed(None, one) == one
    assert narrowed(one, two) == AllOf((one, two))


def test_places_of_a_passage_are_fields_and_a_row_cannot_pose_as_another_file(tmp_path: Path) -> None:
    table = fields(tmp_path, [{"file": "other.txt", "page": 9}, {}])

    def rows(type: str, key: str, value: Any) -> list[int]:
        mask = table.allowed(parse_filter({"type": type, "key": key, "value": value}))
        assert mask is not None
        return mask.nonzero()[0].tolist()

    assert rows("eq", "file", "other.txt") == []
    assert rows("eq", "file", "f.txt") == [0, 1, 2, 3]
    assert rows("eq", "document_id", "d1") == [2, 3]
    assert rows("eq", "page", 2) == [1, 3]
    assert rows("gte", "line", 11) == [1, 3]
    assert rows("eq", "headings", "H0") == [0, 2]
    assert rows("eq", "chunk", "d1#1") == [3]
    assert rows("ne", "nowhere", 1) == [0, 1, 2, 3]
    assert {"document_id", "page", "file", "chunk"} <= set(table.names)
    assert table.allowed(None) is None
