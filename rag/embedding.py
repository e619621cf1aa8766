"""The sentence encoder: texts to unit vectors, and the tokenizer that says how long a text is for it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import ArtifactError
from core.models import local_folder

Vectors = NDArray[np.float32]

BATCH = 32

PREFIXES: tuple[tuple[str, str, str], ...] = (
    ("e5", "query: ", "passage: "),
    ("bge-small-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-base-en", "Represent this sentence for searching relevant passages: ", ""),
    ("bge-large-en", "Represent this sentence for searching relevant passages: ", ""),
    ("mxbai-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("snowflake-arctic-embed", "Represent this sentence for searching relevant passages: ", ""),
    ("nomic-embed", "search_query: ", "search_document: "),
)
"""(part of the model's name, query prefix, passage prefix) from the models' cards, for models whose files do not say."""


class Encoder:
    """One embedding model in memory. Thread-safe; calls take turns."""

    def __init__(self, name: str, folder: Path) -> None:
        """Load the sentence-transformers model in `folder`, onto the GPU where there is one.

        Raises:
            ArtifactError: the folder holds no model that sentence-transformers can load.
        """
        from sentence_transformers import SentenceTransformer
        from tokenizers import Tokenizer

        options = {"dtype": "bfloat16"} if _fast_bf16() else {}
        try:
            self._model: Any = SentenceTransformer(str(folder), local_files_only=True, model_kwargs=options)
        except (OSError, ValueError, KeyError) as exc:
            raise ArtifactError(
                f"{folder}: {name!r} cannot be loaded as a sentence encoder ({str(exc).splitlines()[0]})"
            ) from exc
        self.name = name
        self.fingerprint = fingerprint(folder)
        self.dimensions = int(self._model.get_embedding_dimension())
        self.languages = _languages(folder)
        """ISO codes of the languages that the model's card says it is for; () when it does not say."""
        self._query_prefix, self._passage_prefix = _prefixes(name, folder, self._model.prompts)
        # A copy of its own for counting: the model's sets its truncation anew on every call.
        self._tokenizer: Any = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = len(self._tokenizer.encode("").ids)
        prefix = len(self._tokenizer.encode(self._passage_prefix, add_special_tokens=False).ids)
        self.max_tokens = int(self._model.max_seq_length or 512) - special - prefix
        """Longest passage that is embedded whole."""
        self._turn = threading.Lock()

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Character spans of the tokens of each text, without special tokens."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[span for span in one.offsets if span[1] > span[0]] for one in encoded]

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (n, dimensions) of texts to be found."""
        return self._encode(texts, self._passage_prefix)

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (n, dimensions) of texts to search with."""
        return self._encode(texts, self._query_prefix)

    def _encode(self, texts: Sequence[str], prefix: str) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        with self._turn:
            # It batches by length itself, so one call with many texts wastes no padding.
            vectors = self._model.encode(
                [prefix + text for text in texts],
                batch_size=BATCH,
                show_progress_bar=False,
                # The prefix is in the text; the model's own default must not be added to it.
                prompt="",
            )
        # Normalised here: in bf16 the lengths would be off by some 0.3 %.
        raw = np.array(vectors, np.float32)
        raw /= np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
        return raw


def load_encoder(name: str, models: Path) -> Encoder:
    """The encoder `name` (a starter, a folder or a hub id), loaded once a process.

    Raises:
        UnknownName, EngineUnavailable, ConfigError: as `core.models.local_folder`.
        ArtifactError: not a sentence encoder.
    """
    return _loaded(name, local_folder(name, models))


@lru_cache(maxsize=4)
def _loaded(name: str, folder: Path) -> Encoder:
    return Encoder(name, folder)


def fingerprint(folder: Path) -> str:
    """A short hash that changes when the model in `folder` is another: its small files, and the ends of its weights."""
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
    return digest.hexdigest()[:16]


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
    return tuple(re.findall(r"\b[a-z]{2,3}\b", found[1])) if found else ()


def _prefixes(name: str, folder: Path, prompts: dict[str, str]) -> tuple[str, str]:
    """(query, passage) prefix: what the model's files say, else what its name is known for."""
    query, passage = prompts.get("query") or "", prompts.get("document") or prompts.get("passage") or ""
    if query or passage:
        return query, passage
    config = folder / "config.json"
    hub = json.loads(config.read_text(encoding="utf-8")).get("_name_or_path", "") if config.is_file() else ""
    for part, known_query, known_passage in PREFIXES:
        if any(part in text.lower() for text in (name, str(hub), folder.name)):
            return known_query, known_passage
    return "", ""
