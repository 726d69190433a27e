"""What outcomes that contradict the skills do to a head that learns from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from skillmatch_ray.relations import Relations
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.study import Contrast, Study, Variant


@dataclass(frozen=True)
class FlipOutcomes:
    """Turn a share of the history's stated relations into their opposite.

    Attributes:
        share: of the relations; what is flipped at a share is flipped at every greater one too.
    """

    share: float

    def __call__(self, material: Material, seed: int) -> Material:
        """The judged projects and their truth stay."""
        draws = np.random.default_rng([seed, 11])
        signs = {
            project: {f: -sign if draws.random() < self.share else sign for f, sign in sorted(known.items())}
            for project, known in sorted(material.history.relations.signs.items())
        }
        return replace(material, history=replace(material.history, relations=Relations(signs)))


def _variant(percent: int, *, headline: bool = False) -> Variant:
    change = FlipOutcomes(percent / 100) if percent else None
    label = f"{percent} % of outcomes flipped" if percent else "outcomes as they are"
    return Variant(f"flip-{percent}", label, headline=headline, change=change, curve="history", x=percent / 100)


STUDY = Study(
    name="label-noise",
    summary="a growing share of the history's outcomes turned into their opposite",
    question=(
        "How much wrong feedback does training bear? A share of the stated outcomes (skills there, skills lacking) is "
        "turned into its opposite before training; what is judged stays as it is."
    ),
    variants=(
        _variant(0, headline=True),
        _variant(10),
        _variant(20, headline=True),
        _variant(30),
        _variant(40, headline=True),
        _variant(50),
    ),
    contrasts=tuple(Contrast(f"flip-{percent}", "flip-0") for percent in (10, 20, 30, 40, 50)),
    notes=("A generated sample holds 3 % of such outcomes from the start.",),
    axis="share of outcomes flipped",
)
