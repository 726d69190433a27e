"""Sentence material: loaded, checked, filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from skillmatch_ray.sample.phrases import KEYS, PHRASES_DIRECTORY, Template, builtin_phrases, read_phrases
from skillmatch_ray.sample.taxonomy import LANGUAGES, TaxonomyError


def test_all_languages_have_all_keys() -> None:
    phrases = builtin_phrases()
    assert set(phrases) == set(LANGUAGES)
    for language in LANGUAGES:
        assert set(phrases[language].templates) == set(KEYS)
        assert all(len(phrases[language].templates[key]) >= 5 for key in KEYS)


def test_generic_titles_tell_nothing() -> None:
    for phrases in builtin_phrases().values():
        for key in ("generic_headlines", "project_generic_titles"):
            assert all(not t.slots & {"title", "skill", "skill2", "skills", "task"} for t in phrases.templates[key])


def test_asides_speak_of_tasks_only() -> None:
    """A slot for a title or a skill would be filled with what the document is about."""
    for phrases in builtin_phrases().values():
        for key in ("bio_asides", "experience_asides", "project_asides"):
            assert all(t.slots == {"task"} for t in phrases.templates[key])


def test_fill_begins_with_a_capital() -> None:
    assert Template("{skill}, {years}", frozenset({"skill", "years"})).fill({"skill": "été", "years": "3"}) == "Été, 3"


@pytest.mark.parametrize(
    ("language", "labels", "expected"),
    [
        ("en", ["a"], "a"),
        ("en", ["a", "b", "c"], "a, b and c"),
        ("de", ["a", "b"], "a und b"),
        ("es", ["a", "interfaces"], "a e interfaces"),
        ("es", ["a", "b"], "a y b"),
    ],
)
def test_join(language: str, labels: list[str], expected: str) -> None:
    assert builtin_phrases()[language].join(labels) == expected


@pytest.mark.parametrize(
    ("key", "phrases", "message"),
    [
        ("headlines", ["{titel}"], "unknown slots"),
        ("headlines", ["{title"], "broken braces"),
        ("headlines", [], "must be a list"),
        ("headlines", [3], "not a phrase"),
        ("sectors", ["{city}"], "must not have slots"),
        ("project_musts", ["You know {skill}."], "needs phrases with the slots"),
        ("bio_skills", ["{skill}"], "needs phrases with the slots"),
        ("unheard_of", ["x"], "unknown keys"),
    ],
)
def test_broken_phrases_are_named(tmp_path: Path, key: str, phrases: object, message: str) -> None:
    content = yaml.safe_load((PHRASES_DIRECTORY / "en.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "en.yaml"
    path.write_text(yaml.safe_dump({**content, key: phrases}), encoding="utf-8")
    with pytest.raises(TaxonomyError, match=message):
        read_phrases(path, "en")
