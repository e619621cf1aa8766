"""What LoRA training is measured against: the loop of a PEFT tutorial, and TRL's SFTTrainer.

The plain loop is bf16 base, fp32 adapters, batches of 8 shuffled rows padded to the longest, the model's own loss over
full logits. SFTTrainer keeps TRL's defaults (batch of 8, gradient checkpointing, bf16 autocast over fp32 weights, loss
on the answers alone) but for what makes the training the same: adapter, learning rate, schedule, epochs.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.progress import say

if TYPE_CHECKING:
    from core.rows import Row
    from tuning.examples import Example
    from tuning.recipe import SettledLora

BATCH = 8


class Plain:
    """A PEFT model and its optimizer."""

    def __init__(self, base: Path, recipe: SettledLora) -> None:
        import torch
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(recipe.seed)
        self.model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), _adapter(recipe))
        self.model.train()
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self._parameters, lr=recipe.learning_rate, weight_decay=0.0)
        self._pad = AutoTokenizer.from_pretrained(base).eos_token_id
        self._most = recipe.max_grad_norm

    def step(self, batch: Sequence[Example]) -> int:
        """One step; the tokens it saw."""
        import torch

        pad, width = self._pad, max(len(e.ids) for e in batch)
        ids = torch.tensor([[*e.ids, *[pad] * (width - len(e.ids))] for e in batch])
        seen = torch.tensor([[1] * len(e.ids) + [0] * (width - len(e.ids)) for e in batch])
        labels = torch.tensor(
            [[-100] * e.prompt + list(e.ids[e.prompt :]) + [-100] * (width - len(e.ids)) for e in batch]
        )
        self.model(input_ids=ids, attention_mask=seen, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._most)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return int(seen.sum())


def plain_loop(base: Path, examples: Sequence[Example], recipe: SettledLora) -> tuple[Any, dict[str, Any]]:
    """The trained PEFT model, and the figures of its training."""
    from transformers import get_linear_schedule_with_warmup

    plain = Plain(base, recipe)
    per_epoch = -(-len(examples) // BATCH)
    steps = max(1, round(per_epoch * recipe.epochs))
    schedule = get_linear_schedule_with_warmup(plain.optimizer, round(recipe.warmup * steps), steps)
    rng = random.Random(recipe.seed)
    order: list[int] = []
    tokens, speeds = 0, []
    start, cpu = time.perf_counter(), time.process_time()
    for step in range(steps):
        if step % per_epoch == 0:
            order = rng.sample(range(len(examples)), len(examples))
        before = time.perf_counter()
        at = step % per_epoch * BATCH
        seen = plain.step([examples[i] for i in order[at : at + BATCH]])
        schedule.step()
        tokens += seen
        speeds.append(seen / (time.perf_counter() - before))
        if step % 10 == 9:
            say(f"plain loop: {step + 1}/{steps} steps, {tokens / (time.perf_counter() - start):.0f} tokens/s")
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return plain.model, {
        "wall_s": wall,
        "cpu_s": cpu,
        "tokens": tokens,
        "tokens_per_s": tokens / wall,
        "tokens_per_s_p50": statistics.median(speeds),
    }


def sft_trainer(base: Path, rows: Sequence[Row], tokens: int, recipe: SettledLora) -> tuple[Any, dict[str, Any]]:
    """The PEFT model that TRL's SFTTrainer trains, and the figures of its training.

    Args:
        tokens: of the rows, by the model's template.
    """
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    conversations = [
        {
            "prompt": [{"role": message.role, "content": message.content} for message in row.messages],
            "completion": [{"role": "assistant", "content": row.output}],
        }
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base),
            args=SFTConfig(
                output_dir=scratch,
                learning_rate=recipe.learning_rate,
                lr_scheduler_type="linear",
                warmup_steps=recipe.warmup,
                num_train_epochs=recipe.epochs,
                use_cpu=True,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=recipe.seed,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list(conversations),
            processing_class=AutoTokenizer.from_pretrained(base),
            peft_config=_adapter(recipe),
        )
        trainer.remove_callback(PrinterCallback)
        start, cpu = time.perf_counter(), time.process_time()
        trainer.train()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    seen = round(tokens * recipe.epochs)
    figures = {"wall_s": wall, "cpu_s": cpu, "tokens": seen, "tokens_per_s": seen / wall}
    return trainer.model, figures | {"steps": int(trainer.state.global_step)}


def _adapter(recipe: SettledLora) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
