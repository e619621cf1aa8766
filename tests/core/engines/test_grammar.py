"""Answers held to a schema, on a tokenizer of single bytes and a few words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from core.engines.grammar import Constraint, Grammars, schema_error
from core.errors import EngineError, NotHonoured


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<end>": 0, **{c: i + 1 for i, c in enumerate(letters)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return Grammars(tokenizer.to_str(), 300, frozenset([0]))


def walk(grammars: Grammars, schema: dict[str, Any], seed: int) -> str:
    """The text of allowed tokens chosen at random, up to the end of the grammar."""
    constraint = grammars.constraint(json.dumps(schema))
    random, text = np.random.default_rng(seed), b""
    while not constraint.complete and len(text) < 200:
        allowed = [int(t) for t in np.flatnonzero(constraint.allowed()) if t]
        token = int(random.choice(allowed)) if allowed else 0
        constraint.take(token)
        text += grammars.token_bytes(token) if token else b""
    return text.decode()


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "bb"]}, "count": {"type": "integer", "minimum": 3, "maximum": 12}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_picked_follows_the_schema(grammars: Grammars, seed: int) -> None:
    value = json.loads(walk(grammars, SCHEMA, seed))
    assert set(value) == {"kind", "count"}
    assert value["kind"] in ("a", "bb")
    assert 3 <= value["count"] <= 12


def test_two_answers_of_one_schema_go_their_own_ways(grammars: Grammars) -> None:
    first, second = (grammars.constraint(json.dumps({"enum": ["ab", "cd"]})) for _ in range(2))
    for constraint in (first, second):
        constraint.take(_token(grammars, constraint, b'"'))
    first.take(_token(grammars, first, b"a"))
    second.take(_token(grammars, second, b"c"))
    assert grammars.token_bytes(int(np.flatnonzero(first.allowed())[0])) == b"b"
    assert grammars.token_bytes(int(np.flatnonzero(second.allowed())[0])) == b"d"


def _token(grammars: Grammars, constraint: Constraint, byte: bytes) -> int:
    return next(int(t) for t in np.flatnonzero(constraint.allowed()) if grammars.token_bytes(int(t)) == byte)


def test_token_that_is_not_allowed_is_an_error(grammars: Grammars) -> None:
    constraint = grammars.constraint(json.dumps(SCHEMA))
    with pytest.raises(EngineError, match="schema"):
        constraint.take(0)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "not present"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex"),
        ({"type": "strin"}, "strin"),
        ({"anyOf": []}, "anyOf"),
    ],
)
def test_what_cannot_be_enforced_is_said(grammars: Grammars, schema: dict[str, Any], said: str) -> None:
    assert said in (schema_error(json.dumps(schema)) or "")
    with pytest.raises(NotHonoured, match="not supported"):
        grammars.constraint(json.dumps(schema))


def test_schema_that_can_be_enforced_has_no_error() -> None:
    assert schema_error(json.dumps(SCHEMA)) is None
    assert schema_error("true") == "a JSON Schema is an object"
