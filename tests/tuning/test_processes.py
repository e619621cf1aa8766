"""Several processes train as one: the same steps on the same rows, one of them speaking and writing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError
from core.rows import Row
from tuning.processes import Team, started, team
from tuning.recipe import FullRecipe, LoraRecipe, settle
from tuning.sharded import check_sharding


@given(st.integers(1, 8), st.integers(0, 40))
def test_every_row_is_in_one_processes_share(size: int, rows: int) -> None:
    shares = [Team(size, rank).share(range(rows)) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_has_a_row_a_step_unless_told_otherwise() -> None:
    assert settle(LoraRecipe(), 100, 64, processes=16).batch_rows == 16
    assert settle(FullRecipe(batch_rows=4), 100, 64, processes=16).batch_rows == 4
    assert settle(LoraRecipe(), 100, 64).batch_rows == 4


def test_without_a_launcher_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert started() == 1
    with team("auto") as alone:
        assert alone.leads
        assert alone.agreed(7) == 7


def _tune(home: Path, launcher: list[str], flags: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "core.cli", "tune", "bank", *flags, "--json"]
    environment = os.environ | {"TUNEFORK_HOME": str(home), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


# By loopback, so that no name of this machine has to be looked up.
_TWO = ["-m", "torch.distributed.run", "--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node", "2"]


def _steps(home: Path) -> list[dict[str, Any]]:
    path = home / "use_cases" / "bank" / "adapters" / "v0001" / "metrics.jsonl"
    return [row for row in map(json.loads, path.read_text().splitlines()) if "loss" in row]


@pytest.mark.slow
def test_two_processes_train_as_one_does(card_rows: list[Row], tiny_base: Path, tmp_path: Path) -> None:
    """Under torchrun, gloo on the CPU: same losses and gradients as one process with as many rows a step."""
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    flags = ["--train", str(train), "--base-model", str(tiny_base), "--method", "full", "--lr", "1e-3"]
    flags += ["--epochs", "2", "--batch-rows", "8", "--device", "cpu"]
    one = _tune(tmp_path / "one", [], flags)
    assert one.returncode == 0, one.stderr
    two = _tune(tmp_path / "two", _TWO, flags)
    assert two.returncode == 0, two.stderr
    alone, shared = json.loads(one.stdout), json.loads(two.stdout)
    assert shared["scores"]["processes"] == 2
    assert shared["scores"]["tokens"] == alone["scores"]["tokens"]
    assert shared["scores"]["dev_loss"] == pytest.approx(alone["scores"]["dev_loss"], rel=0.02)
    steps = list(zip(_steps(tmp_path / "one"), _steps(tmp_path / "two"), strict=True))
    assert len(steps) == alone["scores"]["steps"] > 3
    for a, b in steps:
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
        # Half the rows would have another gradient altogether.
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=0.05)
    assert two.stderr.count("training rows") == one.stderr.count("training rows")
    assert two.stderr.count("tokens are supervised") == 1
    use_case = tmp_path / "two" / "use_cases" / "bank"
    assert [path.name for path in (use_case / "adapters").iterdir() if path.is_dir()] == ["v0001"]
    assert len(list((use_case / "runs").iterdir())) == 1


@pytest.mark.slow
def test_an_adapter_is_the_same_where_the_frozen_layers_are_shared_out(
    card_rows: list[Row], tiny_base: Path, tmp_path: Path
) -> None:
    """FSDP over gloo; steps of one row, so that the second process has to run the layers without any of its own."""
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    flags = ["--train", str(train), "--base-model", str(tiny_base), "--method", "lora", "--epochs", "1"]
    flags += ["--batch-rows", "1", "--device", "cpu"]
    whole = _tune(tmp_path / "whole", _TWO, flags)
    assert whole.returncode == 0, whole.stderr
    shared = _tune(tmp_path / "shared", _TWO, [*flags, "--shard"])
    assert shared.returncode == 0, shared.stderr
    scores = json.loads(shared.stdout)["scores"]
    assert (scores["processes"], scores["sharded_layers"]) == (2, 2)
    assert json.loads(whole.stdout)["scores"]["sharded_layers"] is None
    assert scores["general"]["before"]["n"] == 40
    steps = list(zip(_steps(tmp_path / "whole"), _steps(tmp_path / "shared"), strict=True))
    assert len(steps) >= 3
    for a, b in steps:
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-2)


@pytest.mark.parametrize(
    ("recipe", "size", "said"),
    [
        (LoraRecipe(), 1, "start them by torchrun"),
        (FullRecipe(), 2, "--shard is for --method lora"),
        (LoraRecipe(dora=True), 2, "does not go with --dora"),
    ],
)
def test_what_cannot_be_shared_out_is_said(recipe: LoraRecipe | FullRecipe, size: int, said: str) -> None:
    check_sharding(recipe, Team(size))
    with pytest.raises(ConfigError, match=said):
        check_sharding(recipe, Team(size, shards=True))
