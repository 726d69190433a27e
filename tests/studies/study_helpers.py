"""Sizes that the tiny backbone trains in no time."""

from __future__ import annotations

from skillmatch_ray.config import Config, load_config, merged
from skillmatch_ray.studies.runner import study_base
from skillmatch_ray.studies.study import Study

TINY = {
    "model": {"layers": 1, "heads": 4, "ffn": 32, "max_document_tokens": 64},
    "training": {
        "steps": 2, "projects_per_step": 8, "dtype": "float32", "threads_per_worker": 1, "validation_share": 0.0,
    },
}  # fmt: skip


def shrunk(study: Study, config: Config) -> Config:
    """The study's own base with the tiny sizes over it, as `--set` would do."""
    backbone = {"backbone": config.backbone.model_dump(mode="json")}
    return load_config(base=merged(merged(study_base(study, full=False), TINY), backbone))
