"""Memory of a remedy by components, and the rows it wants, from a model's shape alone.

Formulas, their sources and the points they were checked against: docs/estimate.md.
All sizes are bytes; a GB is 1e9 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from advisor.model_shape import Linear, ModelShape
from core.errors import ConfigError

Method = Literal["full", "lora", "qlora", "head", "inference", "rag"]
Targets = Literal["all", "qv", "attn", "mlp"]
Dtype = Literal["bf16", "fp32"]
Device = Literal["gpu", "cpu"]

METHODS: tuple[Method, ...] = get_args(Method)
TARGETS: dict[Targets, tuple[str, ...] | None] = {
    "all": None,
    "qv": ("q", "v", "qkv"),
    "attn": ("q", "k", "v", "qkv", "o"),
    "mlp": ("gate", "up", "gate_up", "down"),
}
BYTES: dict[Dtype, int] = {"bf16": 2, "fp32": 4}

# Bytes a weight of a quantised linear layer: NF4 keeps one fp32 scale per 64 weights (4.5 bits);
# LLM.int8 one per row. Double quantisation (4.127 bits) is the lower end of the range.
QUANTISED = {4: 0.5625, 8: 1.0}
DOUBLE_QUANTISED = 0.516

ADAM_FP32 = 16  # a trained fp32 parameter: weight 4, gradient 4, Adam's two moments 8
ACTIVATION = 34  # bytes an element of a transformer layer keeps for the backward pass in 16 bit
# (Korthikanti et al. 2022, "Reducing Activation Recomputation", without the attention's own matrix)
LORA_COPY = 4  # PEFT casts the input of each adapted layer to the adapter's fp32 and keeps the copy
READS = dict.fromkeys(("q", "k", "v", "qkv"), "attention") | dict.fromkeys(("gate", "up", "gate_up"), "mlp")
READS |= {"o": "heads", "down": "mlp_hidden"}
"""What a linear layer reads, by its part; neighbours read the same."""
FORWARD_ONLY = 20  # bytes an element of the one layer at work without gradients: 4 h + 6 x 2.67 h
LOGIT_TRAINING = 12  # bytes a logit: log-softmax, its gradient and the gradient of the logits, each in fp32
RUNTIME = (0.5e9, 0.75e9, 1.0e9)  # CUDA context, kernels and workspaces: low, mid, high

# On the CPU the figure is peak resident memory: the imports (0.47 GB for torch, transformers and PEFT), and
# what glibc's allocator keeps of the activations that went through it, less what the first step puts there:
# gradients and Adam's moments come after the first forward pass. The factors are fitted to FITTED of
# benchmarks/estimate.py on SmolLM2-135M and checked on its CHECKED; with MALLOC_MMAP_THRESHOLD_=1000000 in
# the environment it retains nearly nothing.
CPU_RUNTIME = {True: 0.6e9, False: 0.5e9}  # training or not
CPU_RETAINED: dict[Dtype, float] = {"bf16": 0.4, "fp32": 0.9}
MMAP_THRESHOLD = 32 * 1024**2  # glibc's largest: a bigger block is mapped on its own and given back at once

LLAMA3_VOCAB = 128_256  # the large vocabulary that a plain --params may turn out to have

AUDIO_POSITIONS = 1500  # Whisper's encoder output, which the decoder attends to
EMBEDDING_PARAMS = 22_713_216  # all-MiniLM-L6-v2, the default embedding model, kept in fp32


@dataclass(frozen=True)
class Plan:
    """What is to be run, with the defaults of `tunefork estimate`.

    Raises:
        ConfigError: a number out of range, or `bits` that do not go with `method`.
    """

    method: Method
    rank: int = 16
    targets: Targets = "all"
    batch: int = 4
    seq_len: int = 1024
    dtype: Dtype = "bf16"
    bits: int | None = None
    """Of the base model's linear layers; None: 4 for qlora, else as `dtype`."""
    checkpointing: bool = True
    """Keep only each layer's input and compute the layer again in the backward pass."""
    labels: int = 100
    """Classes of a classification head."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        for name, value, least in (
            ("rank", self.rank, 1),
            ("batch", self.batch, 1),
            ("seq-len", self.seq_len, 1),
            ("labels", self.labels, 1),
        ):
            if value < least:
                raise ConfigError(f"--{name} {value} is too small; it must be a whole number of at least {least}")
        if self.bits not in (None, 4, 8, 16):
            raise ConfigError(f"--bits {self.bits} is not one of 4, 8, 16")
        if self.method == "qlora" and self.bits == 16:
            raise ConfigError("--bits 16 with --method qlora is plain LoRA; use --method lora")
        if self.method == "lora" and self.bits in (4, 8):
            raise ConfigError(f"--bits {self.bits} with --method lora is QLoRA; use --method qlora")
        if self.method == "full" and self.bits in (4, 8):
            raise ConfigError(f"--bits {self.bits} with --method full cannot be trained; use --method qlora")

    @property
    def trains(self) -> bool:
        """Gradients go through the model itself (not only through a head on frozen features)."""
        return self.method in ("full", "lora", "qlora")

    @property
    def quantised(self) -> int | None:
        """Bits of the linear layers where they are quantised."""
        bits = 4 if self.method == "qlora" and self.bits is None else self.bits
        return bits if bits in (4, 8) else None


class Components(NamedTuple):
    """Bytes. `adapter` is everything training adds a parameter: adapter weights, gradients, optimiser state."""

    weights: float
    adapter: float
    activations: float
    logits: float
    runtime: float


class Memory(NamedTuple):
    """Bytes: `low` with every saving in use, `high` with none and a fragmented allocator; `mid` has the components."""

    low: float
    high: float
    mid: Components

    @property
    def total(self) -> float:
        return sum(self.mid)


def check(shape: ModelShape, plan: Plan) -> None:
    """Raises ConfigError where the method does not exist for this kind of model."""
    generates = shape.kind == "decoder"
    if plan.method == "rag" and not generates:
        raise ConfigError(f"--method rag needs a model that writes text; {shape.name} is {_KIND_TEXT[shape.kind]}")
    if plan.method == "head" and shape.kind == "diffusion":
        raise ConfigError(f"--method head: {shape.name} draws images, there is no classification head to train")
    if plan.method in ("lora", "qlora") and not adapted(shape, plan.targets):
        raise ConfigError(f"--targets {plan.targets}: {shape.name} has no such layer; use --targets all")


_KIND_TEXT = {
    "decoder": "a decoder",
    "encoder": "an encoder",
    "speech": "a speech recogniser",
    "diffusion": "an image generator",
    "detection": "an object detector",
}


def adapted(shape: ModelShape, targets: Targets) -> tuple[Linear, ...]:
    """The linear layers an adapter sits on. A fused qkv counts as q and v: PEFT can only adapt it whole."""
    parts = TARGETS[targets]
    return tuple(p for p in shape.linears if parts is None or p.part in parts)


def adapter_params(shape: ModelShape, rank: int, targets: Targets = "all") -> int:
    """Parameters of a LoRA adapter: rank * (inputs + outputs) for each adapted layer."""
    return sum(rank * (p.inputs + p.outputs) * p.copies for p in adapted(shape, targets))


def trainable_params(shape: ModelShape, plan: Plan) -> int:
    """Parameters the method trains; 0 for inference and rag."""
    if plan.method == "full":
        return shape.params
    if plan.method in ("lora", "qlora"):
        return adapter_params(shape, plan.rank, plan.targets)
    if plan.method == "head":
        return shape.head_params if shape.kind == "detection" else (shape.hidden + 1) * plan.labels
    return 0


def kv_bytes_per_token(shape: ModelShape, dtype: Dtype = "bf16") -> int:
    """Keys and values the cache keeps for one token: 2 * layers * kv_heads * head_dim * bytes; 0 without a cache."""
    if shape.kind not in ("decoder", "speech"):
        return 0
    layers = shape.element_scale // shape.hidden  # the decoder's, where there is an encoder too
    return 2 * layers * shape.kv_heads * shape.head_dim * BYTES[dtype]


def memory(shape: ModelShape, plan: Plan, device: Device = "gpu") -> Memory:
    """Peak memory of one device that holds everything, no offload and no sharding.

    Raises:
        ConfigError: the method does not exist for this kind of model.
    """
    check(shape, plan)
    adapter = _adapter_bytes(shape, plan)
    activations = _activation_bytes(shape, plan)
    logits = _logit_bytes(shape, plan)
    low_runtime, runtime, high_runtime = RUNTIME
    if device == "cpu":
        base = CPU_RUNTIME[plan.trains]
        retained = _retained_bytes(shape, plan)
        low_runtime, runtime, high_runtime = base, base + retained, base + 1.5 * retained
    mid = Components(weight_bytes(shape, plan), adapter, activations, logits, runtime)

    spread = (0.5, 1.6) if shape.assumed else (0.75, 1.3)
    low_weights = mid.weights
    high_weights = mid.weights
    if plan.quantised == 4:
        low_weights -= shape.linear_params * (QUANTISED[4] - DOUBLE_QUANTISED)
    if plan.quantised and plan.trains and plan.dtype == "bf16":
        # peft.prepare_model_for_kbit_training casts what is not quantised to fp32.
        high_weights += 2 * (shape.params - shape.linear_params)
    # Low: logits only where there is a label, or in chunks. High: the largest common vocabulary, where it was a guess.
    vocab_growth = max(1.0, LLAMA3_VOCAB / shape.vocab) if shape.vocab_assumed and shape.vocab else 1.0
    low = low_weights + adapter + spread[0] * activations + 0.1 * logits + low_runtime
    moving = spread[1] * activations + logits * vocab_growth
    high = high_weights + adapter + moving * 1.1 + high_runtime  # 10 %: blocks the caching allocator cannot reuse
    return Memory(low, high, mid)


def weight_bytes(shape: ModelShape, plan: Plan) -> float:
    """The base model as loaded; for rag with the embedding model."""
    params = shape.params
    if plan.method == "head" and shape.kind != "detection":
        params -= shape.head_params  # the output layer over the vocabulary is not loaded
    size = BYTES[plan.dtype]
    if plan.quantised:
        total = shape.linear_params * QUANTISED[plan.quantised] + (params - shape.linear_params) * size
    else:
        total = float(params * size)
    return total + (4 * EMBEDDING_PARAMS if plan.method == "rag" else 0)


def _adapter_bytes(shape: ModelShape, plan: Plan) -> float:
    trained = trainable_params(shape, plan)
    if plan.method == "full":
        # Pure bf16: gradient and both moments in bf16 too, 8 B with the weight. fp32: 16 B with the weight.
        return trained * 3 * BYTES[plan.dtype]
    return trained * ADAM_FP32


def _elements(shape: ModelShape, plan: Plan) -> float:
    """Activation elements of one batch through all layers: batch * positions * hidden * layers."""
    return plan.batch * (shape.fixed_elements + plan.seq_len * shape.element_scale)


def _kept_bytes(shape: ModelShape, plan: Plan) -> float:
    """What all layers keep for the backward pass without checkpointing."""
    per_element: float = ACTIVATION * BYTES[plan.dtype] / 2
    if plan.method in ("lora", "qlora") and shape.element_scale:
        if plan.dtype == "bf16":
            inputs = sum(p.inputs * p.copies for p in adapted(shape, plan.targets))
            per_element += LORA_COPY * inputs / (shape.hidden * shape.layers)
        else:
            per_element -= _frozen_inputs(shape, plan.targets) * BYTES[plan.dtype] / shape.hidden
    return _elements(shape, plan) * per_element


def _frozen_inputs(shape: ModelShape, targets: Targets) -> int:
    """Elements a token and layer that a decoder's linear layers do not keep, having no weight to train.

    An input is kept for the gradient of a weight; where none of the layers that read it is adapted, it is let go. In bf16 the
    norms' fp32 copies, which the formula leaves out, weigh as much: 0.73 MB a token measured with q and v adapted, 0.73 without this.
    """
    if shape.kind != "decoder":
        return 0
    inputs = {READS[p.part]: p.inputs for p in shape.linears if p.part in READS}
    return sum(inputs[place] for place in set(inputs) - {READS.get(p.part) for p in adapted(shape, targets)})


def _retained_bytes(shape: ModelShape, plan: Plan) -> float:
    """What glibc's heap keeps on the CPU of the activations that went through it, and nothing else fills again."""
    block = plan.batch * plan.seq_len * shape.hidden * BYTES[plan.dtype]
    if not plan.trains or block >= MMAP_THRESHOLD:
        return 0.0
    # All but an adapter's own weights; what full fine-tuning trains is counted with the model.
    first_step = _adapter_bytes(shape, plan) * (1 if plan.method == "full" else 3 / 4)
    return max(0.0, CPU_RETAINED[plan.dtype] * _kept_bytes(shape, plan) - first_step)


def _activation_bytes(shape: ModelShape, plan: Plan) -> float:
    if plan.trains:
        kept = _kept_bytes(shape, plan)
        if not plan.checkpointing:
            return kept
        # Every layer's input, and the one layer that is being computed again.
        return _elements(shape, plan) * BYTES[plan.dtype] + kept / shape.layers
    working = FORWARD_ONLY * BYTES[plan.dtype] / 2 * _elements(shape, plan) / shape.layers
    if plan.method == "head":
        return working
    positions = plan.seq_len + (AUDIO_POSITIONS if shape.kind == "speech" else 0)
    cached = plan.batch * positions * kv_bytes_per_token(shape, plan.dtype)
    return working + cached


def _logit_bytes(shape: ModelShape, plan: Plan) -> float:
    if shape.kind in ("diffusion", "detection"):
        return 0.0
    if plan.method == "head" or shape.vocab == 0:
        return float(LOGIT_TRAINING * plan.batch * plan.labels) if plan.method != "inference" else 0.0
    if plan.trains:
        return float(LOGIT_TRAINING * plan.batch * plan.seq_len * shape.vocab)
    return float(4 * plan.batch * shape.vocab)  # generation computes the last position only


def rule_2_5x(shape: ModelShape, dtype: Dtype) -> float:
    """The rule of thumb "GPU memory is 2.5 times the model's bytes", in bytes: 7e9 fp32 parameters give 70 GB."""
    return 2.5 * shape.params * BYTES[dtype]


class DataNeed(NamedTuple):
    """Rows a remedy wants: `low` to try it at all, `mid` to expect something, `high` for a hard task."""

    unit: str
    low: int
    mid: int
    high: int
    source: str


def data_need(shape: ModelShape, plan: Plan) -> DataNeed | None:
    """Rows to collect; the advisor's learning curve replaces this once there are rows.

    None for plain inference, and for models of sound and images, where only the published row is known.
    """
    if plan.method == "inference" or shape.kind not in ("decoder", "encoder"):
        return None
    if plan.method == "rag":
        return DataNeed(
            "eval items with their gold passage", 20, 62, 170, "exact McNemar, 80 % power: 62 show +20 points"
        )
    if plan.method == "head":
        n = plan.labels
        return DataNeed(
            "labelled rows", 8 * n, 50 * n, 130 * n, "8 a label (SetFit) to 130 (BANKING77's own training set)"
        )
    return DataNeed(
        "training rows", 50, 1_000, 50_000, "50: no gain by then, stop; 1K and 50K: the published table's rows"
    )
