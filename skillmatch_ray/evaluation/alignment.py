"""Language alignment: where a document's own translation stands, and what a foreign language costs a project.

The sample generator writes the same freelancer (same skills, same assignments, same asides) in each language, in
that language's own words. The untrained towers of the same model stand beside the trained ones.

Shapes: N documents, P projects, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.table import Table

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import BackboneSettings
from skillmatch_ray.console import Advance
from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.evaluation.language_gap import LanguageGap, TranslatedPool, gap_table, language_gap, translated_pool
from skillmatch_ray.model.matcher import Matcher, Vectors, load_matcher, read_model_config

BEFORE: Final = "before"
AFTER: Final = "after"


@dataclass(frozen=True)
class PairAlignment:
    """One direction of one pair of languages.

    Attributes:
        mean_rank: of the translation, 1 = always first.
        first: share of documents whose translation stands first.
    """

    mean_rank: float
    first: float


@dataclass(frozen=True)
class AlignmentReport:
    """Translations found before and after training.

    Attributes:
        documents: N in each language.
        seed: that made them.
        taxonomy: whose words they use.
        pairs: "before" and "after" -> "en-fr" -> figures.
        projects: P that were asked in each of these pools.
        gaps: "before" and "after" -> what another language than the project's costs.
    """

    documents: int
    seed: int
    taxonomy: str
    pairs: Mapping[str, Mapping[str, PairAlignment]]
    projects: int
    gaps: Mapping[str, LanguageGap]

    def mean(self, system: str) -> PairAlignment:
        """Mean over pairs."""
        return mean_alignment(self.pairs[system].values())

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "documents": self.documents,
            "seed": self.seed,
            "taxonomy": self.taxonomy,
            "mean": {system: vars(self.mean(system)) for system in self.pairs},
            "pairs": {system: {k: vars(v) for k, v in found.items()} for system, found in self.pairs.items()},
            "projects": self.projects,
            "gaps": {system: found.as_dict() for system, found in self.gaps.items()},
        }

    def render(self) -> Group:
        """A row for each pair of languages; below, MAP in one's own language and in others."""
        title = f"MAP of {self.projects} projects in the same pool, written in their language and in others"
        return Group(self._pairs_table(), gap_table(self.gaps, title))

    def _pairs_table(self) -> Table:
        where = f"{self.documents} of its language, {self.taxonomy}, seed {self.seed}"
        title = f"rank of a document's translation among {where}"
        table = Table(title=title, title_justify="left")
        for name in ("pair", "mean rank before", "after", "first before", "after"):
            table.add_column(name, justify="left" if name == "pair" else "right")
        for pair in self.pairs[BEFORE]:
            table.add_row(pair, *_cells(self.pairs[BEFORE][pair], self.pairs[AFTER][pair]))
        table.add_section()
        table.add_row("mean", *_cells(self.mean(BEFORE), self.mean(AFTER)))
        return table


def _cells(before: PairAlignment, after: PairAlignment) -> list[str]:
    ranks = [f"{found.mean_rank:.2f}" for found in (before, after)]
    return ranks + [f"{found.first:.0%}" for found in (before, after)]


def align(
    model_dir: Path,
    documents: int,
    projects: int,
    seed: int,
    *,
    taxonomy: Path | None = None,
    device: str = "auto",
    progress: Advance = lambda *_: None,
) -> AlignmentReport:
    """Alignment of a model, beside that of its towers before training.

    Args:
        model_dir: of the model.
        documents: freelancers, each written in every language.
        projects: that are asked in each of these pools.
        seed: that makes them; another one than the training data's, or the model has seen them.
        taxonomy: directory of another taxonomy in Parquet; None: the built-in one.
        device: where to run.
        progress: called with (languages encoded, languages, note).

    Raises:
        ModelError: if the directory is not a model.
        ConfigError: if there are fewer than two documents.
        TaxonomyError: if the taxonomy cannot be used.
    """
    if documents < 2:
        raise ConfigError(f"alignment needs 2 documents or more, not {documents}: a single one is always first")
    base = Backbone.load(BackboneSettings(**read_model_config(model_dir)["backbone"]), device)
    trained = load_matcher(model_dir, backbone=base)
    untrained = Matcher.untrained(base, trained.towers.settings, trained.glossary)
    pool = translated_pool(documents, projects, seed, taxonomy)
    asked, found = _vectors(untrained, trained, "project", pool.projects), {}
    for done, (language, people) in enumerate(pool.freelancers.items(), 1):
        found[language] = _vectors(untrained, trained, "freelancer", people)
        progress(done, len(pool.freelancers), f"freelancers in {language} encoded")
    vectors = {system: {language: both[system] for language, both in found.items()} for system in (BEFORE, AFTER)}
    return AlignmentReport(
        documents,
        seed,
        taxonomy.name if taxonomy else "built-in taxonomy",
        {system: pair_alignments(written) for system, written in vectors.items()},
        projects,
        {system: _gap(asked[system], written, pool, seed) for system, written in vectors.items()},
    )


def _vectors(
    untrained: Matcher, trained: Matcher, kind: DocumentKind, documents: Sequence[Document]
) -> dict[str, Vectors]:
    """(N, D) before and after training; token states are computed once where the backbone stayed as it was."""
    states = untrained.token_states(kind, documents)
    own = trained.token_states(kind, documents) if trained.backbone.tuned else states
    return {BEFORE: untrained.towers.encode(kind, states), AFTER: trained.towers.encode(kind, own)}


def _gap(projects: Vectors, freelancers: Mapping[str, Vectors], pool: TranslatedPool, seed: int) -> LanguageGap:
    languages = [str(project.language) for project in pool.projects]
    return language_gap(projects, freelancers, languages, pool.relevant, seed)


def pair_alignments(vectors: Mapping[str, Vectors]) -> dict[str, PairAlignment]:
    """Pair such as "en-fr" -> where the French translations of English documents stand.

    Args:
        vectors: language -> (N, D); row i of all of them is one document.
    """
    result = {}
    for one, other in permutations(vectors, 2):
        ranks = translation_ranks(vectors[one], vectors[other])
        result[f"{one}-{other}"] = PairAlignment(round(float(ranks.mean()), 3), round(float((ranks == 1).mean()), 4))
    return result


def mean_alignment(pairs: Iterable[PairAlignment]) -> PairAlignment:
    """Mean over pairs of languages, each of which counts alike."""
    found = list(pairs)
    ranks, firsts = [pair.mean_rank for pair in found], [pair.first for pair in found]
    return PairAlignment(round(sum(ranks) / len(found), 3), round(sum(firsts) / len(found), 4))


def translation_ranks(queries: Vectors, corpus: Vectors) -> NDArray[np.int64]:
    """(N,) rank of row i of `corpus` for row i of `queries`; ties count against it.

    Example:
        >>> translation_ranks(np.eye(2, dtype=np.float32), np.array([[1, 0], [1, 0]], dtype=np.float32))
        array([2, 2])
    """
    scores = queries @ corpus.T
    own = np.diag(scores)[:, None]
    ranks: NDArray[np.int64] = (scores >= own).sum(axis=1)
    return ranks
