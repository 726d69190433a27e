"""Projects that ask for what the history does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from skillmatch_ray.dataset import INTERACTIONS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.evaluation.skills import skill_ids
from skillmatch_ray.split import split_projects

NEW_SKILLS_SHARE = 0.5
"""Share of a project's listed skills that no earlier project asked for, from which on its skills are new."""


def cold_start(dataset: Dataset, projects: Mapping[str, Project], judged: Iterable[str]) -> dict[str, frozenset[str]]:
    """Judged projects of a category, or with skills, that no project of the history has: name -> ids.

    The history is what training may see; without interactions nothing is known of it, and the answer is empty.
    """
    if not dataset.has(INTERACTIONS):
        return {}
    held_out = split_projects(dataset, projects.values(), 0.0).test
    known = [project for project in projects.values() if project.id not in held_out]
    categories = {project.job_category for project in known}
    skills = {skill for project in known for label in project.skills for skill in skill_ids(label)}
    asked = [projects[project_id] for project_id in judged if project_id in held_out]
    found = {
        "new_category": frozenset(p.id for p in asked if p.job_category and p.job_category not in categories),
        "new_skills": frozenset(p.id for p in asked if _are_new(p, skills)),
    }
    return {name: ids for name, ids in found.items() if ids}


def _are_new(project: Project, known: set[str]) -> bool:
    new = sum(skill_ids(label).isdisjoint(known) for label in project.skills)
    return bool(project.skills) and new >= NEW_SKILLS_SHARE * len(project.skills)
