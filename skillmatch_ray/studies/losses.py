"""Which loss over the relation matrix teaches most in the same number of steps."""

from __future__ import annotations

from typing import Any

from skillmatch_ray.studies.study import Contrast, Study, Variant


def _with(**parts: dict[str, Any]) -> dict[str, Any]:
    return {"training": {"loss": parts}}


STUDY = Study(
    name="losses",
    summary="InfoNCE, triplet, A-triplet, dual A-triplet and sums of them",
    question=(
        "Which loss teaches most in the same steps? Batches are the same for all: two positives and two stated "
        "negatives of each project, as the dual A-triplet wants. The triplet loss reads stated negatives only; the "
        "others read every unknown pair of the batch as a negative too."
    ),
    variants=(
        Variant("infonce", "InfoNCE", _with(infonce={}), headline=True),
        Variant("triplet", "triplet", _with(triplet={}), headline=True),
        Variant("a-triplet", "A-triplet", _with(a_triplet={}), headline=True),
        Variant("dual-a-triplet", "dual A-triplet", _with(dual_a_triplet={}), headline=True),
        Variant("infonce-a-triplet", "InfoNCE + A-triplet", _with(infonce={}, a_triplet={})),
        Variant("infonce-dual", "InfoNCE + dual A-triplet", _with(infonce={}, dual_a_triplet={})),
    ),
    contrasts=(
        Contrast("a-triplet", "triplet"),
        Contrast("dual-a-triplet", "a-triplet"),
        Contrast("infonce", "a-triplet"),
        Contrast("infonce-a-triplet", "infonce"),
        Contrast("infonce-dual", "infonce"),
    ),
    notes=(
        "The formulas of A-triplet and dual A-triplet are a reconstruction of arXiv 2409.12097.",
        "Each loss runs with its default temperature or margin and the same learning rate; none was tuned.",
    ),
)
