"""Preference tuning: pairs of a better and a worse answer -> LoRA adapter, by DPO (Rafailov 2023) through TRL.

For style and judgement that are easier to choose than to write. The result is an adapter like any other.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from core.errors import ConfigError, DataError, MissingExtra
from core.files import append_jsonl, read_json, sha256_text
from core.models import local_folder, remote, starter
from core.openmp import brief_team
from core.progress import say
from core.prompts import instructed
from core.records import Record, read_records
from core.settings import UseCase
from core.types import Message
from core.workspace import Workspace
from tuning.checks import dev_split
from tuning.interrupt import interruptible
from tuning.recipe import Device
from tuning.tracking import Track

if TYPE_CHECKING:
    from tuning.train import TrainReport

_INPUTS = ("messages", "prompt", "input", "question")


class DpoRecipe(BaseModel):
    """Direct preference optimisation of a LoRA adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=16, ge=1, le=256)
    alpha: float = Field(default=32.0, gt=0)
    learning_rate: float = Field(default=5e-5, gt=0)
    """A tenth or less of what rows are taught with: pairs say which way, not how far."""
    beta: float = Field(default=0.1, gt=0)
    """How dear distance from the base model is (the paper's default)."""
    epochs: float = Field(default=2.0, gt=0)
    batch_rows: int = Field(default=4, ge=1)
    max_rows: int | None = Field(default=None, ge=2)
    dev_share: float = Field(default=0.1, ge=0, le=0.5)
    max_dev_rows: int = Field(default=100, ge=1)
    harm_check: bool = True
    device: Device = "auto"
    checkpoint_seconds: float = Field(default=60.0, gt=0)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Preference:
    messages: tuple[Message, ...]
    """Ends with a user turn."""
    chosen: str
    rejected: str
    line: int


def read_preferences(path: Path) -> list[Preference]:
    """Pairs from any row format: an input (`prompt`, `input`, `question` or `messages`), `chosen` and `rejected`.

    The two answers are texts, or chats whose last assistant turn is the answer (as TRL's data sets have them).

    OpenAI's names (`preferred_output`, `non_preferred_output`, an `input` that holds `messages`) are read too.

    Raises:
        DataError: the file cannot be read, or a row has no input, lacks an answer, or has the same answer twice.
    """
    return [_preference(record, path) for record in read_records(path)]


def _preference(record: Record, path: Path) -> Preference:
    fields = {key.strip().lower(): value for key, value in record.fields.items()}
    answers = []
    for name, other in (("chosen", "preferred_output"), ("rejected", "non_preferred_output")):
        value = fields.get(name, fields.get(other))
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1].get("content")
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"`{name}` is missing or empty; a preference row has `prompt`, `chosen` and `rejected`",
                path,
                record.line,
            )
        answers.append(value.strip())
    if answers[0] == answers[1]:
        raise DataError("`chosen` and `rejected` are the same answer, which prefers nothing", path, record.line)
    asked = next((fields[name] for name in _INPUTS if fields.get(name)), None)
    if isinstance(asked, dict):
        asked = asked.get("messages")
    if asked is None and isinstance(fields.get("chosen"), list):
        asked = fields["chosen"][:-1]
    if isinstance(asked, str) and asked.strip():
        messages = [Message("user", asked)]
    elif (
        isinstance(asked, list)
        and asked
        and all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in asked)
    ):
        messages = [Message(m.get("role", "user"), m["content"]) for m in asked]
    else:
        raise DataError(f"no input; wanted one of {', '.join(f'`{name}`' for name in _INPUTS)}", path, record.line)
    if messages[-1].role != "user":
        raise DataError("the input must end with a user turn", path, record.line)
    return Preference(tuple(messages), answers[0], answers[1], record.line)


@brief_team()
def train_preferences(
    target: Path,
    settings: UseCase,
    workspace: Workspace,
    pairs: Sequence[Preference],
    recipe: DpoRecipe,
    *,
    source: Path | None = None,
    track: Track | None = None,
) -> TrainReport:
    """Train a LoRA adapter that prefers the chosen answers into the folder `target` (new, or empty).

    The weights of the last step are kept. The state of the training is kept in the use case's folder until it is done, by
    content: the same pairs and recipe go on where they stopped.

    Args:
        track: is given the metrics as they come.

    Raises:
        DataError: fewer than two pairs.
        ConfigError: the base model is remote, or a GPU is asked for where there is none.
        MissingExtra: TRL is not installed.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    if find_spec("trl") is None:
        raise MissingExtra("preference tuning", "dpo")
    from tuning.adapters import Origin, base_fingerprint, library_versions, now, save_origin, staged
    from tuning.checkpoint import state_folder
    from tuning.device import fast_bfloat16, pick_device
    from tuning.examples import TrainingTokenizer
    from tuning.general import general_set, harm, harm_warning, right_answers
    from tuning.train import TrainReport

    started = time.monotonic()
    if len(pairs) < 2:
        raise DataError(
            f"{len(pairs)} pairs; preference tuning needs two at the very least, and 100 to say anything", source
        )
    if remote(settings.base_model) is not None:
        raise ConfigError(f"base model {settings.base_model!r} is remote, its weights are not here to tune")
    device = pick_device(recipe.device)
    base = local_folder(settings.base_model, workspace.models)
    known = starter(settings.base_model)
    tokenizer = TrainingTokenizer(base)
    used = list(pairs)[: recipe.max_rows]
    train, dev = dev_split(used, recipe.dev_share, recipe.max_dev_rows, recipe.seed)
    pairs_sha256 = sha256_text(repr([asdict(pair) for pair in used]))
    template_sha256 = sha256_text(tokenizer.template)
    decides = (base_fingerprint(base), settings.instruction, template_sha256, pairs_sha256)
    state = state_folder(workspace, settings, recipe, *decides)
    trainer = _trainer(base, settings, train, dev, recipe, device, fast_bfloat16(device), state)
    model = trainer.model
    general = general_set(tokenizer) if recipe.harm_check else None
    # A new adapter changes nothing, so this is the base model.
    before = None if general is None else right_answers(model.get_base_model(), general, 1, packed=False)
    say(f"preference tuning on {len(train)} pairs ({len(dev)} held out)")
    _train(trainer, state, recipe.checkpoint_seconds, track)
    scores = _scores(trainer, len(dev))
    warnings = []
    if general is not None and before is not None:
        scores["general"] = harm(before, right_answers(model.get_base_model(), general, 1, packed=False))
        harmed = harm_warning(scores["general"])
        warnings += [] if harmed is None else [harmed]
    name = known.name if known is not None else settings.base_model
    with staged(target) as folder:
        model.peft_config["default"].base_model_name_or_path = known.hub_id if known is not None else name
        model.save_pretrained(folder, save_embedding_layers=False)
        for row in trainer.state.log_history:
            if "loss" in row:
                append_jsonl(folder / "metrics.jsonl", {"step": row["step"], "loss": row["loss"]})
        train_s = time.monotonic() - started
        origin = Origin(
            method="lora",
            base_model=name,
            base_fingerprint=base_fingerprint(base),
            template_sha256=template_sha256,
            instruction=settings.instruction,
            data={
                "file": None if source is None else source.name,
                "sha256": pairs_sha256,
                "rows": len(train),
                "dev_rows": len(dev),
            },
            recipe=recipe.model_dump(mode="json") | {"objective": "dpo"},
            scores=scores,
            train_s=train_s,
            versions=library_versions(),
            created=now(),
        )
        save_origin(folder, origin)
    shutil.rmtree(state, ignore_errors=True)
    return TrainReport("lora", target, name, len(train), len(dev), train_s, scores, tuple(warnings))


def _train(trainer: Any, state: Path, checkpoint_seconds: float, track: Track | None) -> None:
    """Train, from the last checkpoint in `state` where there is one. Raises KeyboardInterrupt when Ctrl-C was pressed."""
    from transformers import TrainerCallback

    with interruptible() as stop_asked:

        class Watch(TrainerCallback):  # type: ignore[misc]
            def __init__(self) -> None:
                self.saved_at = time.monotonic()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if stop_asked() or time.monotonic() - self.saved_at > checkpoint_seconds:
                    control.should_save = True
                    self.saved_at = time.monotonic()
                control.should_training_stop = control.should_training_stop or stop_asked()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if track is not None and logs:
                    track({"step": state.global_step, **logs})

        trainer.add_callback(Watch())
        last = _last_checkpoint(state)
        if last is not None:
            say(f"going on after step {last.name.rpartition('-')[2]}")
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        if stop_asked() and trainer.state.global_step < trainer.state.max_steps:
            raise KeyboardInterrupt


def _last_checkpoint(state: Path) -> Path | None:
    """The newest whole one; trainer_state.json is what is written last."""

    def whole(folder: Path) -> bool:
        try:
            read_json(folder / "trainer_state.json")
        except (OSError, ValueError):
            return False
        return True

    found = sorted(state.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return next((folder for folder in reversed(found) if whole(folder)), None)


def _trainer(
    base: Path,
    settings: UseCase,
    train: Sequence[Preference],
    dev: Sequence[Preference],
    recipe: DpoRecipe,
    device: Any,
    bfloat16: bool,
    state: Path,
) -> Any:
    import torch
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()
    torch.manual_seed(recipe.seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16 if bfloat16 else torch.float32).to(device)
    arguments = DPOConfig(
        output_dir=str(state),
        beta=recipe.beta,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_rows,
        per_device_eval_batch_size=recipe.batch_rows,
        max_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        gradient_checkpointing=False,
        bf16=False,  # the weights are in it already; autocast would only add casts
        use_cpu=device.type == "cpu",
        logging_steps=1,
        save_strategy="no",  # but where `_train` asks for it
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=recipe.seed,
        dataloader_pin_memory=False,
    )
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list([_conversation(pair, settings.instruction) for pair in train]),
        eval_dataset=Dataset.from_list([_conversation(pair, settings.instruction) for pair in dev]) if dev else None,
        processing_class=AutoTokenizer.from_pretrained(base, local_files_only=True),
        peft_config=LoraConfig(
            r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which belongs to results
    return trainer


def _conversation(pair: Preference, instruction: str) -> dict[str, Any]:
    """TRL's conversational form; it applies the model's own template to it."""
    asked = [{"role": m.role, "content": m.content} for m in instructed(pair.messages, instruction)]
    answers = {
        name: [{"role": "assistant", "content": text}]
        for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }
    return {"prompt": asked, **answers}


def _scores(trainer: Any, dev_rows: int) -> dict[str, Any]:
    """How often the tuned model moved towards the chosen answer more than towards the rejected one."""
    from core.stats import wilson

    logged = [row for row in trainer.state.log_history if "loss" in row]
    scores: dict[str, Any] = {"objective": "dpo", "steps": int(trainer.state.global_step)}
    scores["loss_first"], scores["loss_last"] = logged[0]["loss"], logged[-1]["loss"]
    if dev_rows:
        found = trainer.evaluate()
        right = round(found["eval_rewards/accuracies"] * dev_rows)
        scores["dev_preferred"] = asdict(wilson(right, dev_rows))
        scores["dev_loss"] = found["eval_loss"]
    return scores
