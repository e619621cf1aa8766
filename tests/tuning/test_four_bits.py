"""QLoRA and LoftQ: trained on a base in 4 bits, loaded on the base as it is."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from core.cli import main
from core.errors import ConfigError, MissingExtra
from core.rows import Row
from core.settings import UseCase
from core.workspace import Workspace
from tuning import recipe as recipes
from tuning.learner import make_learner
from tuning.recipe import LoraRecipe, SettledLora, check_variant, settle
from tuning.train import train_lora

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install 'tunefork[qlora]'"
)


@pytest.fixture(scope="session")
def wide_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose layers are as wide as bitsandbytes' blocks of 64 weights."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide") / "wide-llama"
    config = LlamaConfig.from_pretrained(tiny_base)
    config.hidden_size, config.intermediate_size, config.head_dim = 64, 128, 16
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


RECIPE = LoraRecipe(epochs=4, learning_rate=0.01, batch_rows=4, rank=4, patience=99, bits=4, harm_check=False)


def _settled(**values: object) -> SettledLora:
    return settle(LoraRecipe.model_validate(values), 24, 32)


@needs_bitsandbytes
@pytest.mark.parametrize("init", ["zero", "loftq"])
def test_it_learns_and_plain_peft_loads_it_on_the_base_as_it_is(
    workspace: Workspace, wide_base: Path, card_rows: list[Row], tmp_path: Path, init: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tiny = UseCase(name="tiny", base_model=str(wide_base))
    report = train_lora(tmp_path / "a", tiny, workspace, card_rows, RECIPE.model_copy(update={"init": init}))
    lines = (report.folder / "metrics.jsonl").read_text().splitlines()
    losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
    assert losses[-1] < 0.95 * losses[0]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(wide_base), report.folder)
    assert plain.peft_config["default"].r == (8 if init == "loftq" else 4)


@needs_bitsandbytes
def test_loftq_gives_back_what_four_bits_took(wide_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[1, 520, 3521, 640, 28, 1201, 99, 17]])

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(input_ids=ids).logits.float()  # type: ignore[no-any-return]

    exact = logits(AutoModelForCausalLM.from_pretrained(wide_base, dtype=torch.float32))
    lost = {}
    for init in ("zero", "loftq"):
        recipe = _settled(bits=4, init=init, rank=64, device="cpu")
        lost[init] = float((logits(make_learner(wide_base, recipe, torch.device("cpu"), 20).causal) - exact).norm())
    # A rank as high as the weights can hold all of it; what is left is the rounding of the computation.
    assert lost["loftq"] < 0.3 * lost["zero"]


def test_a_missing_extra_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'tunefork\[qlora\]'"):
        check_variant(_settled(bits=4))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"init": "loftq"}, "it needs --bits 4"),
        ({"init": "pissa", "bits": 4}, "--bits 4 does not go with --init pissa"),
        ({"dora": True, "bits": 4}, "--bits 4 does not go with --dora"),
    ],
)
def test_flags_that_exclude_each_other_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_variant(_settled(**values))


def test_the_flag_reaches_the_check_before_anything_is_trained(
    home: Path, tiny_base: Path, card_rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"input": r.input, "output": r.output}) + "\n" for r in card_rows))
    flags = ["--train", str(train), "--base-model", str(tiny_base), "--method", "lora", "--init", "loftq"]
    assert main(["tune", "bank", *flags]) == 2
    assert "--init loftq makes up for what 4 bits lose; it needs --bits 4" in capsys.readouterr().err.splitlines()[-1]
