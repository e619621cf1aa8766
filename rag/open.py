"""A use case's index in force, checked against what it says of itself, ready to search."""

from __future__ import annotations

from pathlib import Path

from core.errors import ArtifactError, DataError
from core.settings import UseCase
from core.workspace import UseCaseFolder, Workspace
from rag.embedding import Encoder, load_encoder
from rag.lexical import Lexical
from rag.origin import INDEX_VERSION, load_origin
from rag.passages import Passages
from rag.retrieve import Retriever
from rag.store import open_store, version_lock
from rag.vectors import open_vectors


def open_retriever(folder: UseCaseFolder, settings: UseCase, workspace: Workspace) -> Retriever:
    """The index in force of a use case, ready to search. Close it.

    Raises:
        DataError: the use case has no index yet; says how to make one.
        Locked: another process (a server, say) has the index open.
        ArtifactError: it was made with another embedding model, or is damaged; says how to make it anew.
    """
    encoder = load_encoder(settings.embedding_model, workspace.models)
    while True:
        version = folder.index.active()
        if version is None:
            raise DataError(f"use case {folder.name!r} has no documents yet; run: tunefork ingest {folder.name} PATH")
        try:
            return _open(folder, version, settings, encoder, workspace.models)
        except ArtifactError as exc:
            # An ingest may have put another version in force and dropped this one just now.
            if folder.index.active() == version:
                raise ArtifactError(f"{exc}; run `tunefork ingest {folder.name} --rebuild` to make it anew") from exc


def _open(folder: UseCaseFolder, version: Path, settings: UseCase, encoder: Encoder, models: Path) -> Retriever:
    origin = load_origin(version)
    if origin.embedding_fingerprint != encoder.fingerprint:
        raise ArtifactError(
            f"the index of {folder.name!r} was made with the embedding model {origin.embedding_model!r}, the use case"
            f" declares {settings.embedding_model!r}"
        )
    if origin.index_version != INDEX_VERSION:
        raise ArtifactError(
            f"the index of {folder.name!r} was made by Tunefork {origin.tunefork_version} in another layout"
        )
    store = open_store(version, version_lock(version), f"the index of {folder.name!r}")
    try:
        passages = Passages(version)
        lexical = Lexical(version / "words")
        vectors = open_vectors(version, encoder.dimensions)
        counts = (store.count(), len(vectors), lexical.rows, len(passages))
        if set(counts) != {origin.passages} or len(passages.entries) != origin.documents:
            raise ArtifactError(
                f"{version}: damaged: {counts} vectors, vectors, words and passages of {len(passages.entries)} documents"
                f" where {origin.passages} of {origin.documents} are expected"
            )
        # A first search shows what is broken below the counts, and warms up.
        store.search(vectors[:1], 1)
    except BaseException:
        store.close()
        raise
    return Retriever(
        folder,
        version,
        origin,
        encoder,
        passages,
        store,
        lexical,
        vectors,
        settings.retrieval,
        models,
    )
