"""Documents to the vectors of several systems, block by block: sections pass the backbone once for all its towers.

Shapes: n documents of a block, N of the corpus, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.backbone.store import TokenStateStore, section_states
from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Towers, Vectors, section_prefix

BLOCK_DOCUMENTS = 512


class Encoder(Protocol):
    """One or more systems that turn documents into vectors."""

    @property
    def names(self) -> Sequence[str]:
        """Of the systems."""

    def encode(self, kind: DocumentKind, documents: Sequence[Document]) -> dict[str, Vectors]:
        """System -> (n, D) float32 vectors whose dot product is a match."""


@dataclass(frozen=True)
class TowerEncoder:
    """Towers that stand on one backbone.

    Attributes:
        backbone: the one that all towers stand on.
        towers: by name.
        store: token states that need not be computed.
        glossary: of all towers.
    """

    backbone: Backbone
    towers: Mapping[str, Towers]
    store: TokenStateStore | None = None
    glossary: Glossary = NO_GLOSSARY

    @property
    def names(self) -> Sequence[str]:
        """Of the towers."""
        return list(self.towers)

    def encode(self, kind: DocumentKind, documents: Sequence[Document]) -> dict[str, Vectors]:
        """The backbone reads each section once, whatever the number of towers."""
        prefix = section_prefix(kind, self.backbone.settings)
        sections = [self.glossary.read(document).sections() for document in documents]
        read = {name for towers in self.towers.values() for name in towers.settings.section_types}
        texts = list(dict.fromkeys(prefix + s.text for document in sections for s in document if s.type in read))
        states = dict(zip(texts, section_states(self.backbone, texts, self.store), strict=True))
        result = {}
        for name, towers in self.towers.items():
            encoded = []
            for document in sections:
                typed = zip(towers.section_type_ids(document), document, strict=True)
                kept = [(i, states[prefix + section.text]) for i, section in typed if i is not None]
                encoded.append(EncodedDocument(tuple(i for i, _ in kept), tuple(state for _, state in kept)))
            result[name] = towers.encode(kind, encoded)
        return result


def encode_all(
    encoders: Iterable[Encoder],
    kind: DocumentKind,
    documents: Iterable[Document],
    on_block: Callable[[Sequence[Document]], None] = lambda _: None,
) -> dict[str, Vectors]:
    """(N, D) float32 vectors of documents under every system, in their order, in memory."""
    parts = list(_blocks(encoders, kind, documents, on_block))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


@contextmanager
def encoded_corpus(
    encoders: Iterable[Encoder],
    kind: DocumentKind,
    documents: Iterable[Document],
    on_block: Callable[[Sequence[Document]], None] = lambda _: None,
) -> Iterator[dict[str, Vectors]]:
    """Like `encode_all`, but the vectors lie in mapped temporary files: memory does not grow with the corpus."""
    with TemporaryDirectory(prefix="skillmatch-vectors-") as folder, ExitStack() as files:
        written: dict[str, tuple[Any, int]] = {}
        for part in _blocks(encoders, kind, documents, on_block):
            for place, (name, vectors) in enumerate(part.items()):
                if name not in written:
                    file = files.enter_context((Path(folder) / f"{place}.f32").open("wb"))
                    written[name] = (file, vectors.shape[1])
                vectors.tofile(written[name][0])
        files.close()
        yield {
            name: np.memmap(file.name, dtype=np.float32, mode="r").reshape(-1, dim)
            for name, (file, dim) in written.items()
        }


def _blocks(
    encoders: Iterable[Encoder],
    kind: DocumentKind,
    documents: Iterable[Document],
    on_block: Callable[[Sequence[Document]], None],
) -> Iterator[dict[str, Vectors]]:
    encoders, rest = list(encoders), iter(documents)
    while block := list(islice(rest, BLOCK_DOCUMENTS)):
        yield {name: vectors for encoder in encoders for name, vectors in encoder.encode(kind, block).items()}
        on_block(block)
