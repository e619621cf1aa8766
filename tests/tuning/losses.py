"""The loss on the dev rows as plain transformers computes it, to hold against the one a training reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from core.rows import Row
from tuning.checks import dev_split
from tuning.examples import TrainingTokenizer, make_example


def dev_loss(model: Any, tokenizer: Path, rows: Sequence[Row]) -> float:
    """Mean loss a supervised token.

    Args:
        tokenizer: folder of a model that has it.
    """
    tokens = TrainingTokenizer(tokenizer)
    _, dev = dev_split([make_example(r, tokens, "") for r in rows], 0.1, 100, 0)
    total = 0.0
    with torch.no_grad():
        for example in dev:
            labels = torch.tensor([[-100] * example.prompt + list(example.ids[example.prompt :])])
            total += float(model(input_ids=torch.tensor([example.ids]), labels=labels).loss) * example.supervised
    return total / sum(example.supervised for example in dev)
