"""Documents to the vectors of several encoders in one pass: the backbone reads each section once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore, section_states
from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Towers, Vectors, section_prefix

BLOCK_DOCUMENTS = 512


def encode_all(
    backbone: Backbone,
    towers_by_name: Mapping[str, Towers],
    kind: DocumentKind,
    documents: Sequence[Document],
    store: TokenStateStore | None = None,
    on_block: Callable[[int], None] = lambda _: None,
) -> dict[str, Vectors]:
    """(n, D) float32 vectors of documents under every encoder, in their order.

    Args:
        backbone: the one that all towers stand on.
        towers_by_name: encoders.
        kind: of the documents.
        documents: n of them, encoded in blocks.
        store: token states that need not be computed.
        on_block: called with the number of documents of each block that is done.
    """
    vectors = {
        name: np.zeros((len(documents), towers.dim), dtype=np.float32) for name, towers in towers_by_name.items()
    }
    for start in range(0, len(documents), BLOCK_DOCUMENTS):
        block = documents[start : start + BLOCK_DOCUMENTS]
        for name, found in _encode_block(backbone, towers_by_name, kind, block, store).items():
            vectors[name][start : start + len(block)] = found
        on_block(len(block))
    return vectors


def _encode_block(
    backbone: Backbone,
    towers_by_name: Mapping[str, Towers],
    kind: DocumentKind,
    documents: Sequence[Document],
    store: TokenStateStore | None,
) -> dict[str, Vectors]:
    prefix = section_prefix(kind, backbone.settings)
    sections = [document.sections() for document in documents]
    read = {name for towers in towers_by_name.values() for name in towers.settings.section_types}
    texts = list(dict.fromkeys(prefix + s.text for document in sections for s in document if s.type in read))
    states = dict(zip(texts, section_states(backbone, texts, store), strict=True))
    result = {}
    for name, towers in towers_by_name.items():
        encoded = []
        for document in sections:
            typed = zip(towers.section_type_ids(document), document, strict=True)
            kept = [(i, states[prefix + section.text]) for i, section in typed if i is not None]
            encoded.append(EncodedDocument(tuple(i for i, _ in kept), tuple(state for _, state in kept)))
        result[name] = towers.encode(kind, encoded)
    return result
