"""Sentence encoders: texts to unit vectors, and the tokenizer that says how long a text is for them."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError, ConfigError
from core.files import read_json
from core.models import Remote, local_folder, remote
from core.openmp import brief_team, one_thread

Vectors = NDArray[np.float32]

BATCH = 32

PAD = 16
"""Batches are as long as a multiple of it on a CPU in bf16, where torch compiles and keeps kernels for each length it
meets: texts of 20 to 250 tokens cost 965 MB of them, in multiples of 16 75 MB, at the same rate."""

_INSTRUCTED = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

PREFIXES: tuple[tuple[str, str, str], ...] = (
    ("e5-large-instruct", f"{_INSTRUCTED} ", ""),
    ("e5-mistral-7b-instruct", f"{_INSTRUCTED} ", ""),
    ("qwen3-embedding", _INSTRUCTED, ""),
    ("embeddinggemma", "task: search result | query: ", "title: none | text: "),
    ("e5", "query: ", "passage: "),
    ("bge-small-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-base-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-large-en", "Represent this sentence for searching relevant passages: ", ""),
    ("mxbai-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("snowflake-arctic-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("nomic-embed", "search_query: ", "search_document: "),
)
"""(part of the model's name, at a word's beginning; query prefix, passage prefix) from the models' cards, for models whose files do not say."""


class Encoder(Protocol):
    """What turns texts into vectors, wherever it runs. Thread-safe."""

    @property
    def name(self) -> str:
        """As the user wrote it."""

    @property
    def fingerprint(self) -> str:
        """Changes when the vectors of the same texts would: another model, or other prefixes."""

    @property
    def dimensions(self) -> int: ...

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO codes of the languages it is known to be for ("multilingual" for many); () when nothing is known."""

    @property
    def max_tokens(self) -> int:
        """Longest passage that is embedded whole."""

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character spans of the tokens of each text, without special tokens."""

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (n, dimensions) of texts to be found."""

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (n, dimensions) of texts to search with."""


@runtime_checkable
class TokenEncoder(Protocol):
    """An encoder that shows its tokens."""

    def token_vectors(self, texts: Sequence[str], *, query: bool) -> list[Vectors]:
        """Unit vectors (tokens, dimensions) of each text's tokens, in context."""


class LocalEncoder:
    """One sentence-transformers model in memory. Calls take turns."""

    def __init__(self, name: str, folder: Path) -> None:
        """Load the sentence-transformers model in `folder`, onto the GPU where there is one.

        Raises:
            ArtifactError: the folder holds no model that sentence-transformers can load.
        """
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        bf16 = _fast_bf16()
        options = {"dtype": "bfloat16"} if bf16 else {}
        try:
            with brief_team():
                self._model: Any = SentenceTransformer(str(folder), local_files_only=True, model_kwargs=options)
        except (OSError, ValueError, KeyError) as exc:
            raise ArtifactError(
                f"{folder}: {name!r} cannot be loaded as a sentence encoder ({str(exc).splitlines()[0]})"
            ) from exc
        self.name = name
        self.fingerprint = _fingerprint(name, folder)
        self.dimensions = int(self._model.get_embedding_dimension())
        self.languages = _languages(folder)
        self._query_prefix, self._passage_prefix = _prefixes(name, folder)
        # A copy of its own for counting: the model's sets its truncation anew on every call.
        self._tokenizer: Any = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = len(self._tokenizer.encode("").ids)
        prefix = len(self._tokenizer.encode(self._passage_prefix, add_special_tokens=False).ids)
        self.reads = int(self._model.max_seq_length or 512) - special
        """Longest text, without any prefix, that is read whole."""
        self.special_tokens = special
        """Tokens that are added to each text."""
        self.shortens = _shortens(name, folder)
        """Whether the beginning of a vector, made a unit vector again, serves as a shorter one (Matryoshka training)."""
        self.max_tokens = self.reads - prefix
        read = int(self._model.max_seq_length or 0)
        # Not where a text of the greatest length would grow past what the model has positions for.
        padded = bf16 and self._model.device.type == "cpu" and read % PAD == 0
        self._options: dict[str, Any] = {
            "batch_size": BATCH,
            "show_progress_bar": False,
            # The prefix is in the text; the model's own default must not be added to it.
            "prompt": "",
            "processing_kwargs": {"text": {"pad_to_multiple_of": PAD if padded else None}},
        }
        self._turn = threading.Lock()

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[span for span in one.offsets if span[1] > span[0]] for one in encoded]

    def passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode(texts, self._passage_prefix)

    def queries(self, texts: Sequence[str]) -> Vectors:
        with one_thread() if len(texts) == 1 else nullcontext():
            return self._encode(texts, self._query_prefix)

    def token_vectors(self, texts: Sequence[str], *, query: bool) -> list[Vectors]:
        """Unit vectors (tokens, dimensions) of each text's tokens, in context; special tokens and prefix are left out."""
        prefix = self._query_prefix if query else self._passage_prefix
        with self._turn, brief_team():
            found = self._model.encode(
                [prefix + text for text in texts], output_value="token_embeddings", **self._options
            )
        first = 1 + len(self._tokenizer.encode(prefix, add_special_tokens=False).ids)
        return [unit(tokens.float().cpu().numpy()[first:-1]) for tokens in found]

    def plain(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (n, dimensions) of texts as they are, without a prefix."""
        return self._encode(texts, "")

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of token ids of this model; special tokens are left out. Raises ValueError for an id it lacks."""
        if any(i >= self._tokenizer.get_vocab_size() for i in ids):
            raise ValueError(f"a token id is not among the model's {self._tokenizer.get_vocab_size()}")
        return str(self._tokenizer.decode(list(ids)))

    def _encode(self, texts: Sequence[str], prefix: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        with self._turn, brief_team():
            # It batches by length itself, so one call with many texts wastes no padding.
            vectors = self._model.encode([prefix + text for text in texts], **self._options)
        # Normalised here: in bf16 the lengths would be off by some 0.3 %.
        return unit(np.array(vectors, np.float32))


def unit(vectors: Vectors) -> Vectors:
    """`vectors` scaled to length 1; zero ones stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = vectors / np.maximum(lengths, 1e-12)
    return scaled


def load_encoder(name: str, models: Path) -> Encoder:
    """The encoder `name` (a starter, a folder, a hub id or `MODEL@URL`), loaded once a process.

    Raises:
        UnknownName, EngineUnavailable, ConfigError: as `core.models.local_folder`.
        ArtifactError: not a sentence encoder.
    """
    endpoint = remote(name)
    return _loaded(name, local_folder(name, models)) if endpoint is None else _reached(endpoint)


def fingerprint(name: str, models: Path) -> str:
    """The fingerprint that `load_encoder(name, models)` would have; loads no model and asks no endpoint."""
    endpoint = remote(name)
    return _fingerprint(name, local_folder(name, models)) if endpoint is None else remote_fingerprint(endpoint)


@lru_cache(maxsize=4)
def _loaded(name: str, folder: Path) -> Encoder:
    return LocalEncoder(name, folder)


@lru_cache(maxsize=4)
def _reached(endpoint: Remote) -> Encoder:
    from rag.remote_embedding import RemoteEncoder

    return RemoteEncoder(
        endpoint.model, endpoint.base_url, remote_fingerprint(endpoint), *known_prefixes(endpoint.model)
    )


def remote_fingerprint(endpoint: Remote) -> str:
    """By the model's name and its prefixes: one model may move from server to server."""
    return sha256(repr(("remote", endpoint.model, known_prefixes(endpoint.model))).encode()).hexdigest()[:16]


def _fingerprint(name: str, folder: Path) -> str:
    """A short hash over the model's small files, the ends of its weights, and its prefixes."""
    digest = sha256()
    names = ("config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "tokenizer.json")
    for name in names:
        path = folder / name
        if path.is_file():
            digest.update(name.encode() + path.read_bytes())
    for path in sorted(folder.rglob("*.safetensors")) or sorted(folder.rglob("*.bin")):
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1 << 20)
            file.seek(max(0, size - (1 << 20)))
            digest.update(str(size).encode() + head + file.read())
    prefixes = _prefixes(name, folder)
    if any(prefixes):
        digest.update(repr(prefixes).encode())
    return digest.hexdigest()[:16]


MATRYOSHKA = (
    "nomic-embed-text-v1.5",
    "mxbai-embed-large",
    "arctic-embed-m-v1.5",
    "arctic-embed-l-v2",
    "qwen3-embedding",
)
"""Models trained so, by their cards, where the card is not beside the weights."""


def _shortens(name: str, folder: Path) -> bool:
    if any(part in text.lower() for part in MATRYOSHKA for text in (name, folder.name)):
        return True
    try:
        return "matryoshka" in (folder / "README.md").read_text(encoding="utf-8").lower()
    except (OSError, UnicodeDecodeError):
        return False


def _fast_bf16() -> bool:
    """Whether this machine multiplies bf16 faster than fp32: 2.8 x on a CPU with AVX512_BF16, at equal retrieval quality."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _languages(folder: Path) -> tuple[str, ...]:
    """`language:` of the model card's front matter, one code or a list of them."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")[:20_000]
    except (OSError, UnicodeDecodeError):
        return ()
    found = re.search(r"\A---\n(?:.*\n)*?language:[ ]*(.*(?:\n[ ]*-[ ]+.*)*)\n(?:.*\n)*?---\n", card)
    return tuple(re.findall(r"\b(?:[a-z]{2,3}|multilingual)\b", found[1])) if found else ()


def _prefixes(name: str, folder: Path) -> tuple[str, str]:
    """(query, passage) prefix: what the model's files say, else what its name is known for.

    sentence-transformers keeps them under `prompts`, and the names differ: "passage" and "document", "query" and
    the question-like ones of some models. A default prompt goes before every text.
    """
    try:
        declared = _json(folder / "config_sentence_transformers.json")
        prompts = {str(key).lower(): str(text) for key, text in (declared.get("prompts") or {}).items() if text}
        default = prompts.get(str(declared.get("default_prompt_name") or "").lower(), "")
        query = next((prompts[key] for key in _QUERY_PROMPTS if key in prompts), default)
        passage = next((prompts[key] for key in _PASSAGE_PROMPTS if key in prompts), default)
        if query or passage:
            return query, passage
        return known_prefixes(name, str(_json(folder / "config.json").get("_name_or_path", "")), folder.name)
    except (ArtifactError, AttributeError) as exc:
        raise ConfigError(f"{folder}: the model's configuration cannot be read ({exc})") from exc


_QUERY_PROMPTS = ("query", "retrieval_query", "search_query", "retrieval.query", "web_search_query", "s2p_query")
_PASSAGE_PROMPTS = ("passage", "document", "retrieval_document", "search_document", "retrieval.passage", "corpus")


def known_prefixes(*names: str) -> tuple[str, str]:
    """(query, passage) prefix that a model of one of these names was trained with, by its card; else none."""
    for part, query, passage in PREFIXES:
        if any(re.search(rf"(?<![a-z0-9]){re.escape(part)}(?![a-z0-9])", name.lower()) for name in names):
            return query, passage
    return "", ""


def _json(path: Path) -> dict[str, Any]:
    value = read_json(path) if path.is_file() else {}
    assert isinstance(value, dict)
    return value
