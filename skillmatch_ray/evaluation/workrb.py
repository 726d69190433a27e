"""A model directory as a model of the WorkRB benchmark (package workrb, tested with 0.6.0).

    import workrb
    from skillmatch_ray.evaluation.workrb import SkillMatchModel

    tasks = [workrb.tasks.ProjectCandidateRanking(split="test", languages=["en", "fr"])]
    mode = workrb.types.LanguageAggregationMode.CROSSLINGUAL_GROUP_OUTPUT_LANGUAGES
    workrb.evaluate(SkillMatchModel("workspace/models/head-..."), tasks, "results", language_aggregation_mode=mode)

Without `mode` WorkRB leaves out all pairs of two languages, and the queries are English.
WorkRB hands documents over as strings; they are parsed back into sections (`evaluation.flattened`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from workrb.models.base import ModelInterface
from workrb.types import ModelInputType

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.evaluation.flattened import parse_brief, parse_profile
from skillmatch_ray.model.matcher import load_matcher

BLOCK_DOCUMENTS = 512


class SkillMatchModel(ModelInterface):  # type: ignore[misc]
    """Ranks targets as freelancers for queries as projects.

    Args:
        path: a model directory.
        device: where to run it.

    Raises:
        ModelError: if the directory is not a model.
    """

    def __init__(self, path: Path | str, device: str = "auto") -> None:
        self.matcher = load_matcher(path, device)

    @property
    def name(self) -> str:
        """Names the weights: results of two models never share a file."""
        return f"skillmatch-{self.matcher.fingerprint[:12]}"

    @property
    def description(self) -> str:
        """What it is."""
        return "Two-tower matcher of freelancers and projects over a frozen multilingual E5 (skillmatch-ray)"

    @property
    def classification_label_space(self) -> list[str] | None:
        """None: there is no classification head, labels are ranked."""
        return None

    def _compute_rankings(
        self,
        queries: Sequence[str],
        targets: Sequence[str],
        query_input_type: ModelInputType,
        target_input_type: ModelInputType,
    ) -> Tensor:
        """(queries, targets) scores."""
        projects = [project_of(text, query_input_type, str(i)) for i, text in enumerate(queries)]
        freelancers = [freelancer_of(text, target_input_type, str(i)) for i, text in enumerate(targets)]
        asked = torch.from_numpy(self.matcher.encode_projects(projects))
        parts = [
            torch.from_numpy(self.matcher.encode_freelancers(freelancers[start : start + BLOCK_DOCUMENTS]))
            for start in range(0, len(freelancers), BLOCK_DOCUMENTS)
        ]
        return asked @ torch.cat(parts).T

    def _compute_classification(
        self,
        texts: Sequence[str],
        targets: Sequence[str],
        input_type: ModelInputType,
        target_input_type: ModelInputType | None = None,
    ) -> Tensor:
        """(texts, labels) scores: labels are ranked like any other target."""
        return self._compute_rankings(texts, targets, input_type, target_input_type or input_type)


def project_of(text: str, input_type: ModelInputType, project_id: str) -> Project:
    """A query as a project: a brief in its parts, anything else (a search query, a job title) as a title."""
    if input_type == ModelInputType.PROJECT_BRIEF_STRING:
        return parse_brief(text, project_id)
    return Project(project_id=project_id, title=text.strip() or "?")


def freelancer_of(text: str, input_type: ModelInputType, freelancer_id: str) -> Freelancer:
    """A target as a freelancer: a profile in its parts, anything else (a job title, a skill) as a headline."""
    if input_type == ModelInputType.CANDIDATE_PROFILE_STRING:
        return parse_profile(text, freelancer_id)
    return Freelancer(freelancer_id=freelancer_id, headline=text.strip() or "?")
