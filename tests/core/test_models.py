"""From a name to a model on this disk, without asking a hub that nobody named."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ArtifactError, ConfigError, EngineUnavailable, UnknownName
from core.files import read_json, write_json
from core.models import Remote, local_folder, remote, starter


def test_a_starter_is_known_by_its_name_and_its_hub_id() -> None:
    assert starter("smollm2-135m-instruct") is starter("HuggingFaceTB/SmolLM2-135M-Instruct")
    assert starter("sentence-transformers/all-MiniLM-L6-v2") is not None
    assert starter("gpt-4o") is None


def test_an_unknown_name_lists_near_ones_and_asks_no_hub(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'smollm2-135m'; did you mean smollm2-135m-instruct"):
        local_folder("smollm2-135m", tmp_path)


def test_a_hub_id_without_a_network_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="'nobody/nothing' is not on this machine") as caught:
        local_folder("nobody/nothing", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        local_folder(str(tmp_path), tmp_path)


def test_remote_names_are_taken_apart() -> None:
    assert remote("gpt-4o-mini@https://api.example.com/v1/") == Remote("gpt-4o-mini", "https://api.example.com/v1")
    assert remote("org/model") is None
    with pytest.raises(ConfigError, match="names no model"):
        remote("@https://api.example.com/v1")


def test_the_converted_starter_answers_like_a_language_model(starter_folder: Path) -> None:
    """The weights survived the conversion: the next word after a well-known beginning is the right one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert read_json(starter_folder / "origin.json")["starter"] == "smollm2-135m-instruct"
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    model = AutoModelForCausalLM.from_pretrained(starter_folder, dtype=torch.bfloat16)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        best = model(ids).logits[0, -1].topk(5).indices.tolist()
    assert " Paris" in [tokenizer.decode(token) for token in best]
    assert tokenizer.chat_template is not None


@pytest.mark.usefixtures("starter_folder")
def test_a_converted_model_of_another_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "smollm2-135m-instruct").mkdir()
    write_json(tmp_path / "smollm2-135m-instruct" / "origin.json", {"starter": "other"})
    with pytest.raises(ArtifactError, match="converted from something else"):
        local_folder("smollm2-135m-instruct", tmp_path)


def test_an_adapter_is_no_base_model_and_names_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}', encoding="utf-8")
    with pytest.raises(ConfigError, match="an adapter, not a model; name the base model it was trained on, org/base"):
        local_folder(str(tmp_path), tmp_path / "models")
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="trained on$"):
        local_folder(str(tmp_path), tmp_path / "models")
