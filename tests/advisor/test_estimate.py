"""The estimate: against published and measured points, and what the command says and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.estimate import (
    METHODS,
    Plan,
    adapter_params,
    kv_bytes_per_token,
    memory,
    rule_2_5x,
    trainable_params,
)
from advisor.estimate_time import compute_time_s, flops
from advisor.hardware import GPUS, find_gpu, this_machine
from advisor.known_models import KNOWN, known_shape
from advisor.media_shapes import MEDIA
from advisor.model_shape import ModelShape
from advisor.published import PUBLISHED, published_for
from advisor.shape_numbers import shape_from_numbers
from core.cli import main
from core.errors import ConfigError, UnknownName

GIB = 2**30
ALL_NAMES = [row.hub_id for row in KNOWN] + list(MEDIA)


def known(name: str) -> ModelShape:
    shape = known_shape(name)
    assert shape is not None, name
    return shape


# ---- adapters and caches: exact


@pytest.mark.parametrize(
    ("model", "rank", "targets", "params"),
    [
        ("llama-7b", 8, "qv", 4_194_304),
        ("llama-7b", 8, "all", 19_988_480),
        ("llama-3-8b", 16, "all", 41_943_040),
        ("smollm2-135m", 16, "all", 4_884_480),
        ("whisper-large-v2", 32, "qv", 15_728_640),  # PEFT's int8 Whisper example
        ("stable-diffusion-v1-5", 4, "all", 797_184),  # diffusers' LoRA scripts
    ],
)
def test_adapter_parameters_are_exact(model: str, rank: int, targets: Any, params: int) -> None:
    assert adapter_params(known(model), rank, targets) == params


def test_attention_and_mlp_targets_add_up_to_all() -> None:
    shape = known("llama-3-8b")
    parts = [adapter_params(shape, 16, targets) for targets in ("attn", "mlp", "all")]
    assert parts[0] + parts[1] == parts[2]


def test_key_value_bytes_follow_grouped_queries() -> None:
    assert kv_bytes_per_token(known("llama-3-8b")) == 131_072
    assert kv_bytes_per_token(known("llama-2-7b")) == 4 * 131_072
    assert kv_bytes_per_token(known("all-minilm-l6-v2")) == 0


# ---- memory: measured points, within 15 % whether the source's GB are 1e9 or 2^30 bytes


@pytest.mark.parametrize(
    ("model", "plan", "measured"),
    [
        ("llama-3.2-3b", Plan("lora", 32, "qv", 4, 768, checkpointing=False), 20.76 * GIB),
        ("llama-3.2-3b", Plan("full", batch=4, seq_len=768, checkpointing=False), 36.20 * GIB),
        ("llama-2-7b", Plan("lora", 8, "all", 4, 1024), 18e9),
        ("llama-2-7b", Plan("lora", 8, "all", 4, 1024), 18 * GIB),
        ("llama-2-7b", Plan("qlora", 8, "all", 4, 1024), 9e9),
        ("llama-2-7b", Plan("qlora", 8, "all", 4, 1024), 9 * GIB),
    ],
)
def test_memory_is_within_15_percent_of_the_measured_point(model: str, plan: Plan, measured: float) -> None:
    used = memory(known(model), plan)
    assert used.total == pytest.approx(measured, rel=0.15)
    assert used.low < measured < used.high


@pytest.mark.parametrize(
    ("params", "method", "published_gb"),
    [
        (7e9, "lora", 16),
        (14e9, "lora", 32),
        (30e9, "lora", 64),
        (70e9, "lora", 160),
        (7e9, "qlora", 6),
        (14e9, "qlora", 12),
        (30e9, "qlora", 24),
        (70e9, "qlora", 48),
    ],
)
def test_memory_is_within_15_percent_of_llama_factorys_table(params: float, method: Any, published_gb: int) -> None:
    """Rank 8 on all layers and one row of 1,024 tokens, its examples' defaults; the table itself names no length.

    It is per size class, from the time of 32,000-token vocabularies, so the shape is the generic one. Models with
    150,000 tokens need more than the table says: the next test.
    """
    shape = shape_from_numbers(round(params))
    plan = Plan(method, 8, "all", batch=1, seq_len=1024)
    assert memory(shape, plan).total / 1e9 == pytest.approx(published_gb, rel=0.15)


def test_a_large_vocabulary_needs_more_than_llama_factorys_table_says() -> None:
    plan = Plan("qlora", 8, "all", batch=1, seq_len=1024)
    assert memory(known("qwen2.5-7b"), plan).total / 1e9 > 1.15 * 6
    assert memory(known("qwen2.5-14b"), plan).total / 1e9 > 1.15 * 12


@pytest.mark.parametrize(
    ("plan", "peak_gb"),
    [  # the loop of benchmarks/estimate.py: torch 2.13 CPU, transformers 5.19, peft 0.21, two cores
        (Plan("lora", batch=1, seq_len=128, checkpointing=False), 1.156),
        (Plan("lora", batch=4, seq_len=128, checkpointing=False), 1.929),
        (Plan("lora", batch=1, seq_len=1024, checkpointing=False), 3.222),
        (Plan("lora", batch=8, seq_len=256, checkpointing=False), 5.705),
        (Plan("lora", batch=4, seq_len=512, checkpointing=True), 3.222),
        (Plan("lora", batch=1, seq_len=512, dtype="fp32", checkpointing=False), 2.610),
        (Plan("lora", batch=8, seq_len=256, dtype="fp32", checkpointing=True), 4.389),
        (Plan("full", batch=4, seq_len=256, checkpointing=False), 3.255),
        (Plan("full", batch=4, seq_len=256, dtype="fp32", checkpointing=False), 5.056),
        (Plan("inference", batch=4, seq_len=256), 0.813),
        # not used to fit the CPU's factors:
        (Plan("lora", batch=16, seq_len=64), 2.24),
        (Plan("lora", batch=6, seq_len=192, checkpointing=False), 3.44),
        (Plan("lora", targets="qv", batch=4, seq_len=256, checkpointing=False), 2.38),
        (Plan("lora", batch=3, seq_len=384, dtype="fp32"), 2.91),
        (Plan("lora", targets="attn", batch=6, seq_len=200, dtype="fp32", checkpointing=False), 3.57),
        (Plan("full", batch=2, seq_len=256), 1.94),
        (Plan("inference", batch=8, seq_len=512, dtype="fp32"), 1.54),
    ],
)
def test_cpu_memory_is_within_20_percent_of_the_measured_peak(plan: Plan, peak_gb: float) -> None:
    assert memory(known("smollm2-135m"), plan, "cpu").total / 1e9 == pytest.approx(peak_gb, rel=0.20)


def test_the_formula_is_the_sum_of_its_published_parts() -> None:
    """LLaMA-2-7B by hand: 2 P, 16 r(...), 2bshL + (34 bsh + LoRA's fp32 copies), 12 bsV, 0.75 GB."""
    shape, plan = known("llama-2-7b"), Plan("lora", 8, "all", 4, 1024)
    rows = 4 * 1024
    copies = 4 * (4096 * 6 + 11008)  # the inputs of q, k, v, o, gate, up and of down, in fp32
    expected = {
        "weights": 2 * 6_738_415_616,
        "adapter": 16 * 19_988_480,
        "activations": rows * (2 * 4096 * 32 + 34 * 4096 + copies),
        "logits": 12 * rows * 32_000,
        "runtime": 0.75e9,
    }
    assert memory(shape, plan).mid._asdict() == pytest.approx(expected)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_low_mid_and_high_are_in_order_for_every_method_a_model_has(name: str) -> None:
    shape = known(name)
    tried = 0
    for method in METHODS:
        for device in ("gpu", "cpu"):
            try:
                used = memory(shape, Plan(method), device)  # type: ignore[arg-type]
            except ConfigError:
                continue
            tried += 1
            assert 0 < used.low <= used.total <= used.high
    assert tried >= 6  # full, inference and one more, on both


@given(st.sampled_from(("full", "lora", "qlora", "inference")), st.integers(1, 64), st.integers(1, 8192), st.booleans())
def test_memory_grows_with_batch_and_length(method: Any, batch: int, seq_len: int, checkpointing: bool) -> None:
    shape = known("llama-3.2-1b")
    plan = Plan(method, batch=batch, seq_len=seq_len, checkpointing=checkpointing)
    for more in (replace(plan, batch=batch + 1), replace(plan, seq_len=seq_len + 1)):
        assert memory(shape, more).total > memory(shape, plan).total


def test_methods_are_ordered_by_what_they_need() -> None:
    shape = known("llama-2-7b")
    sizes = [memory(shape, Plan(method)).total for method in ("qlora", "lora", "full")]
    assert sizes == sorted(sizes)
    assert memory(shape, Plan("lora")).total < memory(shape, Plan("lora", checkpointing=False)).total


def test_a_guessed_shape_has_a_wider_range() -> None:
    guessed = memory(shape_from_numbers(6_738_415_616), Plan("lora"))
    exact = memory(known("llama-2-7b"), Plan("lora"))
    assert guessed.high - guessed.low > exact.high - exact.low


def test_a_head_on_frozen_features_trains_one_layer() -> None:
    shape = known("all-minilm-l6-v2")
    assert trainable_params(shape, Plan("head", labels=77)) == 385 * 77
    assert trainable_params(shape, Plan("inference")) == 0
    assert trainable_params(shape, Plan("full")) == shape.params


# ---- rules, published table, time


def test_the_rule_of_thumb_gives_70_gb_for_7e9_fp32() -> None:
    assert rule_2_5x(shape_from_numbers(7_000_000_000), "fp32") == 70e9


@pytest.mark.parametrize(
    ("model", "memory_gb", "memory_gb_4bit", "data"),
    [
        ("llama-2-7b", 65, 10, "1K datapoints"),
        ("falcon-40b", 400, 50, "50K datapoints"),
        ("stable-diffusion", 6, None, "10 images (DreamBooth)"),
        ("yolo", None, None, "100 images"),
        ("whisper-medium", 5, None, "50 hours"),
        ("whisper-large", 10, None, "50 hours"),
    ],
)
def test_every_published_row_is_found(model: str, memory_gb: int, memory_gb_4bit: int, data: str) -> None:
    row = published_for(known(model).params)
    assert row is not None
    assert (row.memory_gb, row.memory_gb_4bit, row.data) == (memory_gb, memory_gb_4bit, data)


def test_published_rows_are_about_known_models_only() -> None:
    sizes = {known(name).params for name in ALL_NAMES}
    assert all(set(row.params) <= sizes for row in PUBLISHED)
    assert published_for(known("llama-3-8b").params) is None


def test_labels_of_the_published_figures_are_true() -> None:
    """What `fits` claims, by the estimate itself."""
    llama, falcon = known("llama-2-7b"), known("falcon-40b")
    assert memory(llama, Plan("full")).total / 1e9 == pytest.approx(65, rel=0.15)
    assert memory(llama, Plan("qlora")).total / 1e9 == pytest.approx(10, rel=0.15)
    assert rule_2_5x(falcon, "fp32") / 1e9 == pytest.approx(400, rel=0.05)
    assert memory(falcon, Plan("qlora")).total / 1e9 == pytest.approx(36, rel=0.02)
    for size, published_gb in (("medium", 5), ("large", 10)):
        plan = Plan("inference", batch=1, seq_len=448, dtype="fp32")
        speech = known(f"whisper-{size}")
        inference, full = memory(speech, plan).total / 1e9, memory(speech, replace(plan, method="full")).total / 1e9
        assert abs(inference - published_gb) < abs(full - published_gb)


def test_compute_is_4_p_d_for_lora_and_6_for_full() -> None:
    shape = known("llama-2-7b")
    assert flops(shape, Plan("lora"), 1e6) == 4 * shape.params * 1e6
    assert flops(shape, Plan("qlora"), 1e6) == 4 * shape.params * 1e6
    assert flops(shape, Plan("full"), 1e6) == 6 * shape.params * 1e6


def test_a_mixture_of_experts_computes_with_its_active_parameters() -> None:
    shape = known("mixtral-8x7b")
    assert flops(shape, Plan("lora"), 10) == 40 * shape.active_params < 40 * shape.params


def test_time_follows_flop_peak_and_recomputation() -> None:
    shape = known("llama-2-7b")
    plain = compute_time_s(shape, Plan("lora", checkpointing=False), 1e6, 100, 1000)
    assert plain == pytest.approx(4 * shape.params * 1e6 / (100e12 * 0.40))
    assert compute_time_s(shape, Plan("lora"), 1e6, 100, 1000) == pytest.approx(plain * 6 / 4)


def test_generation_of_one_sequence_is_bound_by_memory_bandwidth() -> None:
    shape = known("llama-2-7b")
    alone = compute_time_s(shape, Plan("inference", batch=1, seq_len=1), 1000, 1e6, 1000)
    assert alone == pytest.approx(1000 * 2 * shape.params / (1000e9 * 0.6), rel=0.01)
    assert compute_time_s(shape, Plan("inference", batch=8, seq_len=1), 1000, 1e6, 1000) < alone / 7


@pytest.mark.parametrize("spelling", ["RTX-4090", "rtx 4090", "4090", "NVIDIA GeForce RTX 4090"])
def test_a_gpu_is_found_in_any_spelling(spelling: str) -> None:
    assert find_gpu(spelling).name == "RTX-4090"


def test_every_gpu_is_found_by_its_own_name_and_an_unknown_one_lists_near_names() -> None:
    assert all(find_gpu(gpu.name) is gpu for gpu in GPUS)
    with pytest.raises(UnknownName, match="H100"):
        find_gpu("H1000")


def test_this_machine_is_the_cpu() -> None:
    gpu, machine = find_gpu("cpu"), this_machine()
    assert (gpu.name, gpu.usd_per_hour) == ("cpu", None)
    assert gpu.memory_gb == round(machine.ram_gb) > 0


# ---- the command


def estimate(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(["estimate", *args, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


def test_json_has_the_contracts_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "--model", "llama-2-7b", "--method", "lora", "--rank", "8")
    assert found["method"] == "lora"
    assert found["trainable_params"] == 19_988_480
    assert set(found["memory_gb"]) == {"low", "mid", "high", "components"}
    assert set(found["memory_gb"]["components"]) == {"weights", "adapter", "activations", "logits", "runtime"}
    assert sum(found["memory_gb"]["components"].values()) == pytest.approx(found["memory_gb"]["mid"], abs=0.01)
    assert found["published"]["hardware"] == "GPU 65 GB; 4-bit 10 GB"
    assert set(found["fits"]) == {"8", "12", "16", "24", "40", "48", "80", "141"}
    assert found["fits"]["16"] is False
    assert found["fits"]["24"] is True
    assert all(isinstance(value, float) for value in found["rules"].values())
    assert found["time_s"] is None
    assert found["usd"] is None


def test_plain_numbers_of_the_issue_give_the_70_gb_rule(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "--params", "7e9", "--dtype", "fp32", "--method", "full")
    assert found["params"] == 7_000_000_000
    assert found["rules"]["2.5x"] == 70.0
    assert found["published"] is None


def test_time_and_money_come_with_tokens_and_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "--model", "llama-2-7b", "--method", "lora", "--tokens", "10M", "--gpu", "l4")
    assert found["flops"] == 4 * 6_738_415_616 * 1e7
    assert found["time_s"] == pytest.approx(4 * 6_738_415_616 * 1e7 / (121e12 * 0.4 * 4 / 6), rel=1e-3)
    assert found["usd"] == pytest.approx(found["time_s"] / 3600 * 0.80, rel=1e-3)
    assert any("peak 121 TFLOP/s" in note for note in found["notes"])


def test_a_model_over_several_cards_costs_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "--model", "llama-2-70b", "--method", "lora", "--tokens", "1e6", "--gpu", "A100-80GB")
    assert found["gpus"] == 2
    assert found["usd"] == pytest.approx(found["time_s"] / 3600 * 2.50 * 2, rel=1e-3)


def test_the_processor_has_time_but_no_price(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "--model", "smollm2-135m", "--method", "lora", "--tokens", "1e5", "--gpu", "cpu")
    assert found["time_s"] > 0
    assert found["usd"] is None


def test_fits_stays_about_cards_when_the_processor_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("--model", "llama-3.2-1b", "--method", "lora", "--batch", "8")
    assert estimate(capsys, *args)["fits"] == estimate(capsys, *args, "--gpu", "cpu")["fits"]


def test_config_and_its_shape_are_read_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 576,
                "num_hidden_layers": 30,
                "num_attention_heads": 9,
                "num_key_value_heads": 3,
                "intermediate_size": 1536,
                "vocab_size": 49152,
                "tie_word_embeddings": True,
            }
        )
    )
    found = estimate(capsys, "--config", str(config), "--method", "lora")
    assert (found["params"], found["trainable_params"]) == (134_515_008, 4_884_480)


def test_speech_is_cut_to_the_positions_it_has(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "--model", "whisper-medium", "--method", "inference")
    assert found["settings"]["seq_len"] == 448
    assert any("computed for 448" in note for note in found["notes"])


def test_the_text_says_components_rules_published_row_and_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--model", "llama-2-7b", "--method", "qlora"]) == 0
    out = capsys.readouterr().out
    assert "weights of the base model" in out
    assert "67.4 GB by the fp32 bytes" in out
    assert "published for LLaMA-2 7B (text generation): GPU 65 GB; 4-bit 10 GB; 1K datapoints" in out
    assert "16 GB: inference no, QLoRA yes, LoRA 16-bit no, full no" in out.splitlines()
    assert "80 GB: inference yes, QLoRA yes, LoRA 16-bit yes, full yes" in out.splitlines()
    assert "this machine" in out


def test_a_folder_name_is_not_taken_for_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "[bold]model"
    folder.mkdir()
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["estimate", "--model", str(folder), "--method", "inference"]) == 0
    assert "[bold]model" in capsys.readouterr().out


BAD = [
    (["--method", "lora"], "which model?"),
    (["--model", "llama-2-7b"], "--method"),
    (["--model", "llama-2-7b", "--params", "7e9", "--method", "lora"], "--model and --params each name a model"),
    (["--model", "llama-2-7b", "--config", "c.json", "--method", "lora"], "--model and --config"),
    (["--model", "llama-2-7b", "--layers", "3", "--method", "lora"], "--layers only goes with --params"),
    (["--model", "lama-2-7b", "--method", "lora"], "did you mean"),
    (["--model", "./nothing", "--method", "lora"], "no such file"),
    (["--config", "nothing.json", "--method", "lora"], "nothing.json: no such file"),
    (["--params", "lots", "--method", "lora"], "--params 'lots'"),
    (["--params", "", "--method", "lora"], "--params ''"),
    (["--params", "-7e9", "--method", "lora"], "--params '-7e9'"),
    (["--params", "0", "--method", "lora"], "--params '0'"),
    (["--params", "nan", "--method", "lora"], "--params 'nan'"),
    (["--params", "inf", "--method", "lora"], "--params 'inf'"),
    (["--params", "7e9", "--hidden", "0", "--method", "lora"], "--hidden 0"),
    (["--params", "7e9", "--hidden", "4096", "--heads", "33", "--method", "lora"], "--heads 33"),
    (["--params", "7e9", "--method", "loras"], "loras"),
    (["--params", "7e9", "--method", "lora", "--rank", "0"], "--rank 0"),
    (["--params", "7e9", "--method", "lora", "--rank", "x"], "--rank"),
    (["--params", "7e9", "--method", "lora", "--batch", "-1"], "--batch -1"),
    (["--params", "7e9", "--method", "lora", "--seq-len", "0"], "--seq-len 0"),
    (["--params", "7e9", "--method", "qlora", "--bits", "5"], "--bits 5"),
    (["--params", "7e9", "--method", "qlora", "--bits", "16"], "use --method lora"),
    (["--params", "7e9", "--method", "lora", "--bits", "4"], "use --method qlora"),
    (["--params", "7e9", "--method", "full", "--bits", "8"], "use --method qlora"),
    (["--params", "7e9", "--method", "lora", "--tokens", "many"], "--tokens 'many'"),
    (["--params", "7e9", "--method", "lora", "--gpu", "B4090"], "unknown GPU"),
    (["--model", "yolo", "--method", "lora", "--targets", "qv"], "use --targets all"),
    (["--model", "yolo", "--method", "rag"], "is an object detector"),
    (["--model", "stable-diffusion", "--method", "head"], "no classification head"),
    (["--model", "gpt-4o@https://api.example.com/v1", "--method", "rag"], "behind an endpoint"),
]


@pytest.mark.parametrize(("args", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_input_is_one_clear_line(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_the_command_needs_neither_torch_nor_a_hub() -> None:
    code = (
        "import sys; from core.cli import main;"
        "main(['estimate', '--model', 'llama-2-7b', '--method', 'lora', '--json']);"
        "heavy = {'torch', 'transformers', 'numpy', 'scipy', 'huggingface_hub', 'pydantic'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
