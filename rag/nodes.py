"""Chunks as LlamaIndex nodes, and the pipeline that embeds them and hands them to Chroma.

No document store sits in the pipeline: with nodes that are split already, its
upserts keep one chunk a document. Changes are found by content hashes before it,
and a version is always built whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import (
    BaseNode,
    MetadataMode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
    TransformComponent,
)
from pydantic import PrivateAttr

from rag.embedding import Vectors
from rag.passages import Entry, PassageRow


class EmbedNodes(TransformComponent):  # type: ignore[misc]
    """Gives each node the vector of its context line and text."""

    _embed: Callable[[Sequence[str]], Vectors] = PrivateAttr()

    def __init__(self, embed: Callable[[Sequence[str]], Vectors]) -> None:
        super().__init__()
        self._embed = embed

    def __call__(self, nodes: Sequence[BaseNode], **_: Any) -> Sequence[BaseNode]:
        vectors = self._embed([node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes])
        for node, vector in zip(nodes, vectors, strict=True):
            node.embedding = vector.tolist()
        return nodes


def pipeline(embed: Callable[[Sequence[str]], Vectors], vector_store: Any) -> Any:
    """A pipeline from nodes to `vector_store`. Uncached: its cache would hash and keep every text."""
    return IngestionPipeline(transformations=[EmbedNodes(embed)], vector_store=vector_store, disable_cache=True)


def text_node(entry: Entry, row: PassageRow, number: int) -> Any:
    """The chunk in row `number` of the index as a node. It embeds context line and text, and shows the text."""
    values: dict[str, Any] = {
        **entry.metadata,
        "title": row["title"],
        "file": entry.file,
        "start": row["start"],
        "end": row["end"],
        "chunk": f"{entry.id}#{row['number']}",
    }
    if row["headings"]:
        values["headings"] = " > ".join(row["headings"])
    if row["page"] is not None:
        values["page"] = row["page"]
    if row["line"] is not None:
        values["line"] = row["line"]
    if row["context"]:
        values["context"] = row["context"]
    others = [name for name in values if name != "context"]
    return TextNode(
        id_=str(number),
        text=row["text"],
        metadata=values,
        metadata_template="{value}",
        text_template="{metadata_str}\n{content}",
        excluded_embed_metadata_keys=others,
        excluded_llm_metadata_keys=[*others, "context"],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=entry.id)},
    )
