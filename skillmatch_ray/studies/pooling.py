"""How token states become one vector: mean, by section length, by section type, by attention."""

from __future__ import annotations

from skillmatch_ray.studies.study import Contrast, Study, Variant

_FIXED = {"learned_section_weights": False}
_ATTENTION = {"model": {"alpha": 0.0, "pooling": "attention", **_FIXED}}

STUDY = Study(
    name="pooling",
    summary="mean, length-weighted (several exponents), learned section weights, attention; static against dynamic",
    question=(
        "Which weights should tokens have in a document's vector? Static weights depend on the length (1 / length ** "
        "alpha) and the type of the section only, dynamic ones (attention) on what the token says."
    ),
    variants=(
        Variant("mean", "plain mean", {"model": {"alpha": 0.0, **_FIXED}}, headline=True),
        Variant("half", "1 / length ** 0.5", {"model": {"alpha": 0.5, **_FIXED}}),
        Variant("inverse", "1 / length", {"model": {"alpha": 1.0, **_FIXED}}, headline=True),
        Variant("double", "1 / length ** 2", {"model": {"alpha": 2.0, **_FIXED}}),
        Variant("learned", "learned section weights over 1 / length", {"model": {"alpha": 1.0}}, headline=True),
        Variant("attention", "attention alone", _ATTENTION, headline=True),
        Variant("both", "learned section weights with attention", {"model": {"pooling": "attention"}}),
    ),
    contrasts=(
        Contrast("inverse", "mean"),
        Contrast("learned", "inverse"),
        Contrast("attention", "learned"),
        Contrast("half", "inverse"),
        Contrast("double", "inverse"),
        Contrast("both", "learned"),
    ),
    notes=(
        "By default no transformer block stands before the pooling; one could make up for a poor pooling in part.",
        "Attention is one linear score of a token, which starts at zero and learns in the same few steps.",
    ),
)
