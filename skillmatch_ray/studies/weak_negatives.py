"""Whether pairs of differing job categories should count as negatives, and how much."""

from __future__ import annotations

from typing import Any

from skillmatch_ray.studies.study import Contrast, Study, Variant


def _weights(*, weak: float, unknown: float) -> dict[str, Any]:
    return {"training": {"loss": {"infonce": {"weak_weight": weak, "unknown_weight": unknown}}}}


STUDY = Study(
    name="weak-negatives",
    summary="weak negatives (differing job categories) on, off and at several weights, with and without other unknowns",
    question=(
        "Do weak negatives (pairs of which nothing is known, from differing job categories) teach? They are weighed in "
        "InfoNCE beside the stated negatives, once with the other unknown pairs of the batch as negatives too, once "
        "without them."
    ),
    variants=(
        Variant("on", "all unknown pairs, weak weight 1", _weights(weak=1.0, unknown=1.0), headline=True),
        Variant("off", "all unknown pairs but the weak", _weights(weak=0.0, unknown=1.0), headline=True),
        Variant("light", "all unknown pairs, weak weight 0.3", _weights(weak=0.3, unknown=1.0)),
        Variant("heavy", "all unknown pairs, weak weight 3", _weights(weak=3.0, unknown=1.0)),
        Variant("stated-weak", "stated and weak negatives only", _weights(weak=1.0, unknown=0.0), headline=True),
        Variant("stated", "stated negatives only", _weights(weak=0.0, unknown=0.0), headline=True),
    ),
    contrasts=(
        Contrast("on", "off"),
        Contrast("stated-weak", "stated"),
        Contrast("on", "stated-weak"),
        Contrast("light", "on"),
        Contrast("heavy", "on"),
    ),
    base={"training": {"groups_per_step": 4}},
    notes=("A batch holds projects of four job categories, so that three quarters of its unknown pairs are weak.",),
)
