"""Pairs of texts drawn from concepts that are named in several languages."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from skillmatch_ray.config import AdaptationSettings
from skillmatch_ray.sample.taxonomy import LANGUAGES
from skillmatch_ray.training.translations import Drawn, TranslationPairs

CONCEPTS = [
    {language: (f"{language}{i}", f"{language}{i}b") for language in LANGUAGES[: 2 if i == 7 else 5]} for i in range(40)
]
CODE = {f"{language}{i}{end}": (language, i) for i in range(40) for language in LANGUAGES for end in ("", "b")}


def drawn(step: int = 0, seed: int = 0, **settings: float) -> Drawn:
    return TranslationPairs(CONCEPTS, AdaptationSettings(pairs_per_step=12, **settings), seed).draw(step)


def said(text: str) -> tuple[set[str], list[int]]:
    names = [CODE[name] for name in text.split(", ")]
    return {language for language, _ in names}, [concept for _, concept in names]


@pytest.mark.parametrize("step", range(20))
def test_partners_say_the_same_in_two_languages_and_no_concept_stands_in_two_pairs(step: int) -> None:
    texts = drawn(step, same_language_share=0)
    concepts = []
    for left, right in zip(texts.left, texts.right, strict=True):
        (one, here), (other, there) = said(left), said(right)
        assert len(one) == len(other) == 1
        assert one != other
        assert here == there[::-1]
        concepts += here
    assert len(concepts) == len(set(concepts))
    assert 6 <= len(texts.left) <= 12


def test_pairs_of_one_language_come_as_often_as_asked() -> None:
    same = Counter(
        said(left)[0] == said(right)[0]
        for step in range(100)
        for texts in [drawn(step, same_language_share=0.25)]
        for left, right in zip(texts.left, texts.right, strict=True)
    )
    assert same[True] / same.total() == pytest.approx(0.25, abs=0.05)  # about 1,200 pairs, seeded


def test_a_step_is_a_function_of_seed_and_step() -> None:
    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)
    assert drawn(3) != drawn(3, seed=1)


def test_texts_that_are_equal_are_no_negatives_of_each_other() -> None:
    signs = Drawn(["a", "b", "a", "c"], ["A", "B", "X", "B"]).signs()
    assert signs.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    assert signs.dtype == np.int8
