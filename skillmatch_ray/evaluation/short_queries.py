"""A few words typed into a search box, beside the brief that they stand for.

The judgements are those of the brief, so that what a query leaves unsaid counts against it; the check `short_query`
of `check-model` compares queries with briefs that say no more than they do. Shapes: Q projects, S queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from skillmatch_ray.documents import Project
from skillmatch_ray.evaluation.bootstrap import compare, interval
from skillmatch_ray.evaluation.metrics import Values

SKILLS: Final = 3
MADE_OF: Final = f"the first {SKILLS} skills that the brief lists, as a title; nothing else"


@dataclass(frozen=True)
class ShortQueries:
    """Queries made from briefs.

    Attributes:
        rows: (S,) position of each one's brief; briefs that list no skill have none.
        projects: (S,) the queries, as projects that have only a title.
    """

    rows: Sequence[int]
    projects: Sequence[Project]

    @classmethod
    def of(cls, projects: Sequence[Project]) -> ShortQueries:
        """One for each project that lists a skill."""
        rows = [q for q, project in enumerate(projects) if project.skills]
        return cls(rows, [short_query(projects[q]) for q in rows])

    def summarise(self, queries: Mapping[str, Values], briefs: Mapping[str, Values], seed: int) -> dict[str, Any]:
        """System -> MAP of queries and of their briefs, with the paired difference, its interval and p.

        Args:
            queries: system -> (S,) average precision of the queries; empty where there are none.
            briefs: system -> (Q,) average precision of the briefs.
            seed: of resampling.
        """
        systems = {name: _beside(found, briefs[name][self.rows], seed) for name, found in queries.items()}
        return {"projects": len(self.rows), "made_of": MADE_OF, "systems": systems}


def short_query(project: Project) -> Project:
    """What is typed instead of a brief.

    Example:
        >>> short_query(Project(project_id="p", title="Help!", skills=("SQL", "dbt", "R", "Go"))).title
        'SQL dbt R'
    """
    return Project(project_id=project.id, title=" ".join(project.skills[:SKILLS]), language=project.language)


def _beside(queries: Values, briefs: Values, seed: int) -> dict[str, Any]:
    found = compare(queries, briefs, seed)
    return {
        "map": round(float(queries.mean()), 6),
        "map_of_briefs": round(float(briefs.mean()), 6),
        "difference": round(found.difference, 6),
        "intervals": {"map": list(interval(queries, seed)), "difference": list(found.interval)},
        "p": found.p,
    }
