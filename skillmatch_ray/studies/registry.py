"""The studies by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.studies import (
    backbone,
    cold_start,
    glossary,
    label_noise,
    losses,
    noise,
    pooling,
    scale,
    sections,
    weak_negatives,
)
from skillmatch_ray.studies.study import Study

_MODULES: Final = (pooling, weak_negatives, losses, sections, noise, cold_start, scale, label_noise, backbone, glossary)
STUDIES: Final[Mapping[str, Study]] = {module.STUDY.name: module.STUDY for module in _MODULES}


def find_study(name: str) -> Study:
    """The study of this name.

    Raises:
        ConfigError: if there is none; names the nearest.
    """
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown study {name!r}: did you mean {near!r}? `skillmatch study --list` shows all")
    return STUDIES[name]


def list_lines() -> list[str]:
    """One line for each study: its name and what it asks."""
    width = max(map(len, STUDIES))
    return [f"{name:{width}}  {study.summary}" for name, study in STUDIES.items()]
