"""Published minimum hardware and data, kept beside the computed estimate and labelled for what they fit.

Source: a well-known five-row table of fine-tuning requirements (docs/estimate.md).
The labels come from comparing each figure with the estimate by components.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    model: str
    task: str
    hardware: str
    """As printed."""
    data: str
    """As printed."""
    memory_gb: float | None
    """The GPU figure for this size of the model; None where the table says CPU."""
    memory_gb_4bit: float | None
    fits: str
    """What the figure agrees with."""
    params: tuple[int, ...]
    """The models the row is about, told by their parameter count."""


PUBLISHED: tuple[Published, ...] = (
    Published(
        "LLaMA-2 7B",
        "text generation",
        "GPU 65 GB; 4-bit 10 GB",
        "1K datapoints",
        65,
        10,
        "65 GB fits full fine-tuning in pure bf16 (16-bit LoRA needs about 18); 10 GB fits QLoRA",
        (6_738_415_616,),
    ),
    Published(
        "Falcon 40B",
        "text generation",
        "GPU 400 GB; 4-bit 50 GB",
        "50K datapoints",
        400,
        50,
        "400 GB is 2.5 x the fp32 weights, full fine-tuning with room; 50 GB is generous for QLoRA (about 36)",
        (41_303_293_952,),
    ),
    Published(
        "Stable Diffusion",
        "image generation",
        "GPU 6 GB",
        "10 images (DreamBooth)",
        6,
        None,
        "covers a 16-bit LoRA (DreamBooth) or inference with room; full fine-tuning needs about 9 GB and more",
        (1_066_235_307,),
    ),
    Published(
        "YOLO",
        "object detection",
        "CPU",
        "100 images",
        None,
        None,
        "fits the small sizes: a few million parameters train on a CPU in hours",
        (3_157_200, 11_166_560, 25_902_640, 43_691_520, 68_229_648),
    ),
    Published(
        "Whisper medium",
        "audio transcription",
        "GPU 5 GB (medium), 10 GB (large)",
        "50 hours",
        5,
        None,
        "nearest to inference with fp32 weights; training needs more",
        (763_857_920,),
    ),
    Published(
        "Whisper large",
        "audio transcription",
        "GPU 5 GB (medium), 10 GB (large)",
        "50 hours",
        10,
        None,
        "nearest to inference with fp32 weights; training needs more",
        (1_543_304_960, 1_543_490_560),
    ),
)

RULE_2_5X_FITS = (
    "2.5 x the fp32 bytes matches full fine-tuning in pure bf16; 2.5 x the 16-bit bytes is about twice too high for"
    " 16-bit LoRA at 7-70B; both are far too low for small models with large vocabularies"
)


def published_for(params: int) -> Published | None:
    """The table's row about a model of exactly that many parameters; None where the table is silent."""
    return next((row for row in PUBLISHED if params in row.params), None)
