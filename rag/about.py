"""What is known about a document besides its text: what it says itself, its language, its file's date."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

from rag.documents import Document, Found, Scalar
from rag.readers.facts import date

_SAMPLE = 1_000
_LEAST = 20
"""Characters: a shorter text could be of many languages."""
_CONFIDENT = 0.5


def metadata(document: Document, found: Found) -> dict[str, Scalar]:
    """The document's own metadata, with `language` (ISO 639) and `modified` where it does not say them itself.

    `modified` is the file's, as it was when the file was read; rows of a corpus have none of it.
    """
    values = dict(document.metadata)
    if "language" not in values:
        language = guess(document.text)
        if language:
            values["language"] = language
    if document.id == found.id and "modified" not in values:
        try:
            changed = found.path.stat().st_mtime
        except OSError:
            return values
        values["modified"] = date(datetime.fromtimestamp(changed, UTC))
    return values


def guess(text: str) -> str:
    """ISO 639 code of the language `text` is in; "" when it is too short or mixed to tell."""
    sample = text[:_SAMPLE]
    if len("".join(sample.split())) < _LEAST:
        return ""
    language, confidence = _classifier()(sample)
    return language if confidence >= _CONFIDENT and language != "zxx" else ""


@lru_cache(maxsize=1)
def _classifier() -> Callable[[str], tuple[str, float]]:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # Written Cantonese and Mandarin share most of their characters, and one word index.
    identifier.set_languages([label for label in identifier.labels if label != "yue"])
    classify: Callable[[str], tuple[str, float]] = identifier.classify
    return classify
