"""Shapes of the models of the published table that are not language models: Whisper, Stable Diffusion 1.5, YOLOv8.

Parameter counts are exact (Whisper, YOLO: counted; Stable Diffusion: published per
part). The activations of the image models are a count of feature maps, good to
about a third, and the estimate's range says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advisor.model_shape import Linear, ModelShape
from core.errors import DataError

MEDIA: dict[str, tuple[str, ...]] = {
    "openai/whisper-tiny": (),
    "openai/whisper-base": (),
    "openai/whisper-small": (),
    "openai/whisper-medium": ("whisper",),
    "openai/whisper-large-v2": (),
    "openai/whisper-large-v3": ("whisper-large",),
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "stable-diffusion",
        "stable-diffusion-1.5",
        "runwayml/stable-diffusion-v1-5",
        "sd1.5",
    ),
    "ultralytics/yolov8n": ("yolo", "yolov8"),
    "ultralytics/yolov8s": (),
    "ultralytics/yolov8m": (),
    "ultralytics/yolov8l": (),
    "ultralytics/yolov8x": (),
}

_WHISPER = {  # size: width, layers (encoder = decoder), heads
    "tiny": (384, 4, 6),
    "base": (512, 6, 8),
    "small": (768, 12, 12),
    "medium": (1024, 24, 16),
    "large-v2": (1280, 32, 20),
    "large-v3": (1280, 32, 20),
}
# Depth and width multiples and the cap on channels, from ultralytics' yolov8.yaml.
_YOLO = {
    "n": (0.33, 0.25, 1024),
    "s": (0.33, 0.50, 1024),
    "m": (0.67, 0.75, 768),
    "l": (1.00, 1.00, 512),
    "x": (1.00, 1.25, 512),
}


def media_shape(hub_id: str) -> ModelShape:
    """Shape of one of `MEDIA`."""
    name = hub_id.rpartition("/")[2]
    if name.startswith("whisper"):
        size = name.removeprefix("whisper-")
        width, layers, heads = _WHISPER[size]
        config = {
            "d_model": width,
            "encoder_layers": layers,
            "decoder_layers": layers,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width,
            "decoder_ffn_dim": 4 * width,
            "vocab_size": 51866 if size == "large-v3" else 51865,
            "num_mel_bins": 128 if size == "large-v3" else 80,
        }
        return whisper(hub_id, config, None)
    return _yolo(hub_id, name[-1]) if name.startswith("yolo") else _stable_diffusion(hub_id)


def whisper(name: str, config: Mapping[str, Any], path: Path | None) -> ModelShape:
    """Shape of a Whisper config: 30 s of audio are 1,500 encoder positions, the text goes through the decoder."""

    def count(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError(f"{key} = {value!r} is not a positive whole number", path)
        return value

    width, vocab = count("d_model"), count("vocab_size")
    encoder, decoder = count("encoder_layers"), count("decoder_layers")
    heads = count("decoder_attention_heads")
    if width % heads:
        raise DataError(f"decoder_attention_heads = {heads} does not divide d_model = {width}", path)
    frames, positions, mels = (
        count("max_source_positions", 1500),
        count("max_target_positions", 448),
        count("num_mel_bins", 80),
    )
    attentions = encoder + 2 * decoder  # the decoder attends to itself and to the audio
    linears = [Linear(part, width, width, attentions) for part in ("q", "k", "v", "o")]
    for layers, inner in ((encoder, count("encoder_ffn_dim")), (decoder, count("decoder_ffn_dim"))):
        linears += [Linear("up", width, inner, layers), Linear("down", inner, width, layers)]
    weights = sum(part.inputs * part.outputs * part.copies for part in linears)
    biases = sum(part.outputs * part.copies for part in linears if part.part != "k")  # k_proj has none
    norms = 2 * width * (2 * encoder + 3 * decoder + 2)
    convolutions = 3 * width * (mels + width) + 2 * width
    embeddings = width * (vocab + positions + frames)
    return ModelShape(
        name=name,
        kind="speech",
        params=weights + biases + norms + convolutions + embeddings,
        linears=tuple(linears),
        hidden=width,
        layers=encoder + decoder,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        vocab=vocab,
        element_scale=width * decoder,
        fixed_elements=frames * width * encoder,
        max_positions=positions,
        notes=("a batch row is 30 s of audio; the sequence length is the transcript's, at most 448 tokens",),
    )


def _stable_diffusion(name: str) -> ModelShape:
    """Stable Diffusion 1.5 at 512 x 512: UNet 859,520,964, text encoder 123,060,480, VAE 83,653,863 parameters.

    LoRA adapts the attention of the UNet's 16 transformer blocks, as diffusers' scripts do (rank 4: 797,184).
    """
    # channels: transformer blocks, residual blocks, latent positions at 64 x 64 latents
    levels = ((320, 5, 5, 64 * 64), (640, 5, 5, 32 * 32), (1280, 5, 5, 16 * 16), (1280, 1, 7, 8 * 8))
    linears: list[Linear] = []
    elements = 0.0
    for channels, blocks, residuals, positions in levels:
        linears += [
            Linear("q", channels, channels, 2 * blocks),
            Linear("k", channels, channels, blocks),
            Linear("v", channels, channels, blocks),
            Linear("k", 768, channels, blocks),  # from the text encoder
            Linear("v", 768, channels, blocks),
            Linear("o", channels, channels, 2 * blocks),
        ]
        # In units of 34 bytes: a transformer block with two attentions and a GEGLU twice as wide as a
        # plain MLP keeps about 58 B an element; a residual block, with its skip input, about 36 B.
        elements += channels * positions * (blocks * 58 + residuals * 36) / 34
    return ModelShape(
        name=name,
        kind="diffusion",
        params=859_520_964 + 123_060_480 + 83_653_863,
        linears=tuple(linears),
        hidden=320,
        layers=22,
        heads=8,
        kv_heads=8,
        head_dim=40,
        vocab=0,
        fixed_elements=round(elements),
        assumed=True,
        notes=("a batch row is one 512 x 512 image, sequence length does not matter",),
    )


def _yolo(name: str, size: str) -> ModelShape:
    """YOLOv8 detection, 80 classes, 640 x 640 pixels, layer by layer as in yolov8.yaml."""
    depth, width, cap = _YOLO[size]
    convs: list[tuple[int, int, int, int]] = []  # inputs, outputs, kernel, side of the output

    def ch(channels: int) -> int:
        return math.ceil(min(channels, cap) * width / 8) * 8

    def c2f(inputs: int, outputs: int, repeats: int, side: int) -> None:
        blocks, half = max(round(repeats * depth), 1), outputs // 2
        convs.append((inputs, 2 * half, 1, side))
        convs.extend([(half, half, 3, side)] * (2 * blocks))
        convs.append(((2 + blocks) * half, outputs, 1, side))

    c1, c2, c3, c4, c5 = ch(64), ch(128), ch(256), ch(512), ch(1024)
    convs.append((3, c1, 3, 320))
    convs.append((c1, c2, 3, 160))
    c2f(c2, c2, 3, 160)
    convs.append((c2, c3, 3, 80))
    c2f(c3, c3, 6, 80)
    convs.append((c3, c4, 3, 40))
    c2f(c4, c4, 6, 40)
    convs.append((c4, c5, 3, 20))
    c2f(c5, c5, 3, 20)
    convs += [(c5, c5 // 2, 1, 20), (2 * c5, c5, 1, 20)]  # SPPF
    c2f(c5 + c4, c4, 3, 40)
    c2f(c4 + c3, c3, 3, 80)
    convs.append((c3, c3, 3, 40))
    c2f(c3 + c4, c4, 3, 40)
    convs.append((c4, c4, 3, 20))
    c2f(c4 + c5, c5, 3, 20)
    box, classes = max(16, c3 // 4, 64), max(c3, 80)
    plain: list[tuple[int, int, int, int]] = []  # convolutions with a bias and no batch norm
    for inputs, side in ((c3, 80), (c4, 40), (c5, 20)):
        convs += [(inputs, box, 3, side), (box, box, 3, side), (inputs, classes, 3, side), (classes, classes, 3, side)]
        plain += [(box, 64, 1, side), (classes, 80, 1, side)]
    weights = sum(i * o * k * k for i, o, k, _ in convs + plain)
    offsets = sum(2 * o for _, o, _, _ in convs) + sum(o for _, o, _, _ in plain)
    dfl = 16  # the fixed convolution that reads a box side from its distribution
    # A convolution keeps its output, the batch norm's and the SiLU's: about 8 B an element in mixed precision.
    maps = sum(o * side * side for _, o, _, side in convs + plain)
    return ModelShape(
        name=name,
        kind="detection",
        params=weights + offsets + dfl,
        linears=tuple(Linear("conv", i * k * k, o, 1) for i, o, k, _ in convs + plain),
        hidden=c5,
        layers=len(convs) + len(plain),
        heads=1,
        kv_heads=1,
        head_dim=c5,
        vocab=0,
        head_params=sum(i * o + o for i, o, _, _ in plain),
        fixed_elements=round(maps * 8 / 34),
        assumed=True,
        notes=("a batch row is one 640 x 640 image, sequence length does not matter",),
    )
