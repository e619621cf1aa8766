"""Which hardware the report names for a route."""

from __future__ import annotations

import pytest

from advisor.fit import hardware_fit
from core.settings import UseCase


@pytest.mark.parametrize(
    ("route", "method", "jobs"),
    [
        ("base", None, ["inference"]),
        ("few-shot", None, ["inference"]),
        ("rag", None, ["rag"]),
        ("tune", "lora", ["inference", "lora"]),
        ("rag+tune", "lora", ["rag", "lora"]),
        ("tune", "head", ["head"]),
    ],
)
def test_a_route_has_its_jobs(route: str, method: str | None, jobs: list[str]) -> None:
    found = hardware_fit(UseCase(name="x"), route, method, tokens=300, labels=77)
    assert [job["method"] for job in found["jobs"]] == jobs
    for job in found["jobs"]:
        memory = job["memory_gb"]
        assert 0 < memory["low"] <= memory["mid"] <= memory["high"] < 16
        assert job["from_gb"] == 8
        assert job["cards"]
    assert found["jobs"][0]["seq_len"] == 384


def test_a_model_too_big_for_one_card_says_so() -> None:
    found = hardware_fit(UseCase(name="x", base_model="llama-3.1-405b"), "base", None, 500, 0)
    assert [(job["from_gb"], job["cards"]) for job in found["jobs"]] == [(None, [])]


def test_a_remote_base_model_needs_no_hardware() -> None:
    found = hardware_fit(UseCase(name="x", base_model="gpt@https://api.example.com/v1"), "rag", None, 500, 0)
    assert found["jobs"] == []
    assert "provider" in found["text"]


def test_a_model_of_unknown_shape_is_not_estimated() -> None:
    found = hardware_fit(UseCase(name="x", base_model="somebody/unheard-of"), "base", None, 500, 0)
    assert found["jobs"] == []
    assert found["text"].startswith("Not estimated: ")
