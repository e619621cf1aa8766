"""Tiny training sets."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.rows import Row
from core.settings import UseCase
from core.types import Message


def row(text: str, answer: str | None, line: int = 1) -> Row:
    answers = () if answer is None else (answer,)
    return Row(id=f"r{line}", messages=(Message("user", text),), answers=answers, line=line)


def run(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """A Python of its own that runs `code`."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stderr=subprocess.PIPE)


def run_and_kill(once: Callable[[], bool], code: str, *arguments: object) -> None:
    """The same, killed outright as soon as `once` says so."""
    child = run(code, *arguments)
    deadline = time.monotonic() + 240
    while child.poll() is None and time.monotonic() < deadline and not once():
        time.sleep(0.02)
    child.kill()
    child.communicate()


@pytest.fixture
def settings() -> UseCase:
    return UseCase(name="tiny")


@pytest.fixture
def card_rows() -> list[Row]:
    """24 questions of a bank's customers with three labels."""
    asked = {
        "card_lost": [
            "I lost my card",
            "my card is gone",
            "someone stole my card",
            "I cannot find my card anywhere",
            "I left my card in a taxi",
            "my wallet with the card was stolen",
            "where is my card, I think it is lost",
            "please block my lost card",
        ],
        "exchange_rate": [
            "what is the exchange rate for euros",
            "how do you compute exchange rates",
            "which rate applies to dollars",
            "is the exchange rate fair",
            "the rate for yen seems wrong",
            "do you use the interbank exchange rate",
            "when do exchange rates change",
            "rate of pounds to euros today",
        ],
        "top_up": [
            "how do I top up my account",
            "can I top up by bank transfer",
            "my top-up did not arrive",
            "top up with a credit card",
            "automatic top-up please",
            "is there a fee for a top-up",
            "add money to my account",
            "the top-up was declined",
        ],
    }
    pairs = [(text, label) for label, texts in asked.items() for text in texts]
    return [row(text, label, line) for line, (text, label) in enumerate(pairs, start=1)]


@pytest.fixture(scope="session")
def tiny_base(starter_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model of random weights with the starter's tokenizer: steps take milliseconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny") / "tiny-llama"
    tokenizer = AutoTokenizer.from_pretrained(starter_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_base: Path) -> UseCase:
    return UseCase(name="tiny", base_model=str(tiny_base))
