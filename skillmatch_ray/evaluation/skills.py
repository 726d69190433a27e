"""When two listed skills are the same: by label, whatever the case, or as one skill of the built-in taxonomy.

Labels that the built-in taxonomy knows as one skill are one, so that "bookkeeping" and "comptabilité" agree. What
only the prose of a document tells is not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.sample.taxonomy import builtin_taxonomy

Skills = frozenset[str]


@cache
def _known_labels() -> Mapping[str, Skills]:
    """Label in any language, case folded -> ids of the skills that it may mean."""
    found: dict[str, set[str]] = {}
    for skill, labels in builtin_taxonomy().skills.items():
        for label in {label.casefold() for names in labels.values() for label in names}:
            found.setdefault(label, set()).add(f"skill:{skill}")
    return {label: frozenset(ids) for label, ids in found.items()}


def skill_ids(label: str) -> Skills:
    """What a label may mean: ids of the built-in taxonomy, or itself where that does not know it."""
    folded = label.casefold()
    return _known_labels().get(folded, frozenset([folded]))


def listed_skills(freelancer: Freelancer) -> Skills:
    """Everything that the skill lists of a profile and of its experiences may mean."""
    labels = [*freelancer.skills, *(skill for experience in freelancer.experiences for skill in experience.skills)]
    return frozenset(skill for label in labels for skill in skill_ids(label))


def skill_share(project: Project, skills: Collection[str]) -> float:
    """Share of the project's listed skills that are among `skills`; NaN where it lists none."""
    wanted = [skill_ids(label) for label in project.skills]
    return sum(not ids.isdisjoint(skills) for ids in wanted) / len(wanted) if wanted else float("nan")
