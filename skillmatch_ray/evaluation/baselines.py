"""The five floors that every report shows: what can be had without training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.documents import Document
from skillmatch_ray.evaluation.ranking import Scorer, Scores

_NO_LIMIT = 1_000_000
"""Tokens of a document: the floors cut no document short."""

POOLING_FLOORS: Final = {
    "e5_mean": ModelSettings(layers=0, alpha=0.0, max_document_tokens=_NO_LIMIT),
    "e5_sections": ModelSettings(layers=0, alpha=1.0, max_document_tokens=_NO_LIMIT),
    "e5_title_skills": ModelSettings(
        layers=0, alpha=1.0, max_document_tokens=_NO_LIMIT, section_types=("title", "headline", "skills")
    ),
}
"""Mean over all tokens; tokens weighted by inverse section length; the same over titles and skills only."""

FLOORS: Final = ("random", "bm25", *POOLING_FLOORS)

K1: Final = 1.5
B: Final = 0.75

_WORD = re.compile(r"\w+")
_RANDOM_ROWS = 1024


def random_scorer(queries: int, freelancers: int, seed: int) -> Scorer:
    """Uniform scores, (Q, N), the same for the same seed; made anew for each block that is asked for."""

    def chunk(number: int) -> Scores:
        return np.random.default_rng([seed, 0, number]).random((queries, _RANDOM_ROWS), dtype=np.float32)

    def score(start: int, end: int) -> Scores:
        first = start // _RANDOM_ROWS
        numbers = range(first, -(-min(end, freelancers) // _RANDOM_ROWS))
        chunks = np.concatenate([chunk(number) for number in numbers], axis=1)
        return chunks[:, start - first * _RANDOM_ROWS :][:, : end - start]

    return score


class Bm25:
    """BM25 (Lucene's, k1 1.5, b 0.75) over the whole text of documents that stream by.

    Only the words of the queries are counted, so that of a corpus of millions some hundred bytes a document stay.

    Args:
        projects: Q queries.
    """

    def __init__(self, projects: Sequence[Document]) -> None:
        self._queries = [Counter(words(project)) for project in projects]
        self._column = {word: i for i, word in enumerate(dict.fromkeys(w for q in self._queries for w in q))}
        self._lengths: list[int] = []
        self._parts: list[Any] = []
        """(documents, words) sparse counts, one a call of `add`."""

    def add(self, documents: Iterable[Document]) -> None:
        """Count the words of more documents."""
        known = []
        for document in documents:
            said = words(document)
            self._lengths.append(len(said))
            known.append(Counter(word for word in said if word in self._column))
        self._parts.append(self._count(known))

    def _count(self, texts: Sequence[Counter[str]]) -> Any:
        """(texts, words) sparse: how often each text holds each word of the queries."""
        from scipy.sparse import csr_matrix

        sizes = np.cumsum([0, *map(len, texts)])
        columns = np.array([self._column[word] for text in texts for word in text], dtype=np.int32)
        counts = np.array([n for text in texts for n in text.values()], dtype=np.float32)
        return csr_matrix((counts, columns, sizes), (len(texts), len(self._column)))

    def scorer(self) -> Scorer:
        """(Q, N) scores, 0 where no word is shared."""
        weights, queries = self._weights(), self._count(self._queries)

        def score(start: int, end: int) -> Scores:
            block = (weights[start:end] @ queries.T).toarray().T
            return np.ascontiguousarray(block, dtype=np.float32)

        return score

    def _weights(self) -> Any:
        """(N, words) sparse: what one occurrence of a word in a query adds to a document's score."""
        from scipy.sparse import vstack

        counts = vstack(self._parts or [self._count([])], format="csr")
        lengths = np.array(self._lengths, dtype=np.float64)
        holding = np.bincount(counts.indices, minlength=len(self._column))  # documents that hold each word
        rarity = np.log1p((len(lengths) - holding + 0.5) / (holding + 0.5))
        relative = lengths / lengths.mean() if lengths.any() else lengths
        room = np.repeat(K1 * (1 - B + B * relative), np.diff(counts.indptr))
        counts.data = (rarity[counts.indices] * counts.data / (counts.data + room)).astype(np.float32)
        return counts


def words(document: Document) -> list[str]:
    """Unicode words of all sections, in lower case; no stemming, since documents are of any language."""
    return _WORD.findall("\n".join(section.text for section in document.sections()).lower())
