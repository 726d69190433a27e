"""The five floors that every report shows: what can be had without training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from skillmatch_ray.config import ModelSettings
from skillmatch_ray.documents import Document
from skillmatch_ray.evaluation.ranking import Scorer, Scores, matrix_scorer

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

_WORD = re.compile(r"\w+")


def random_scorer(queries: int, freelancers: int, seed: int) -> Scorer:
    """Uniform scores, (Q, N), the same for the same seed."""
    return matrix_scorer(np.random.default_rng([seed, 0]).random((queries, freelancers), dtype=np.float32))


def bm25_scorer(projects: Sequence[Document], freelancers: Sequence[Document]) -> Scorer:
    """BM25 (Lucene's, k1 1.5, b 0.75) over the whole text of documents, (Q, N); 0 where no word is shared."""
    import bm25s

    numbers: dict[str, int] = {}
    corpus = [[numbers.setdefault(word, len(numbers)) for word in words(document)] for document in freelancers]
    scores: Scores = np.zeros((len(projects), len(corpus)), dtype=np.float32)
    if numbers:
        index = bm25s.BM25()
        index.index((corpus, numbers), show_progress=False)
        for row, project in enumerate(projects):
            known = [numbers[word] for word in words(project) if word in numbers]
            if known:
                scores[row] = index.get_scores_from_ids(known)
    return matrix_scorer(scores)


def words(document: Document) -> list[str]:
    """Unicode words of all sections, in lower case; no stemming, since documents are of any language."""
    return _WORD.findall("\n".join(section.text for section in document.sections()).lower())
