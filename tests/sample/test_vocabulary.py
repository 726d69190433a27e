"""The built-in vocabulary, and concepts that users bring along."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from taxonomy_form import write_taxonomy

from skillmatch_ray.errors import ConfigError
from skillmatch_ray.sample.taxonomy import BUILTIN_DIRECTORY, LANGUAGES, builtin_taxonomy
from skillmatch_ray.sample.vocabulary import VOCABULARY_DIRECTORY, builtin_vocabulary, read_concepts, vocabulary


def test_every_concept_is_named_once_or_twice_in_every_language() -> None:
    for labels in builtin_vocabulary():
        assert tuple(labels) == LANGUAGES
        assert all(
            1 <= len(names) <= 2 and all(name == name.strip() != "" for name in names) for names in labels.values()
        )


def test_no_concept_stands_there_twice() -> None:
    names = Counter(labels["en"][0].casefold() for labels in builtin_vocabulary())
    assert not [name for name, count in names.items() if count > 1]


def test_languages_differ() -> None:
    """Few names are the same word in two languages: a column that was copied would show."""
    for one in LANGUAGES:
        for other in LANGUAGES[: LANGUAGES.index(one)]:
            same = sum(labels[one][0].casefold() == labels[other][0].casefold() for labels in builtin_vocabulary())
            assert same < 0.1 * len(builtin_vocabulary()), (one, other)


def test_all_files_are_read() -> None:
    lines = sum(len(file.read_bytes().splitlines()) for file in VOCABULARY_DIRECTORY.glob("*.jsonl"))
    assert len(builtin_vocabulary()) == lines > 4000


def test_the_concepts_of_users_stand_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "names.jsonl"
    rows = [{"en": ["invoice", "bill"], "fr": ["facture"]}, {"en": ["plumber"], "fr": []}, {"pl": ["x"], "en": ["y"]}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    mine = ({"en": ("invoice", "bill"), "fr": ("facture",)}, {"pl": ("x",), "en": ("y",)})  # one language is too few
    assert vocabulary([file]) == (*builtin_vocabulary(), *mine)
    assert vocabulary() == builtin_vocabulary()


def test_a_taxonomy_gives_its_skills_and_titles(tmp_path: Path) -> None:
    taxonomy = builtin_taxonomy()
    found = read_concepts(BUILTIN_DIRECTORY)
    assert len(found) == len(taxonomy.skills) + len(taxonomy.occupations)
    write_taxonomy(taxonomy, tmp_path / "parquet")
    assert len(read_concepts(tmp_path / "parquet")) == len(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"en": ["a"], "fr": ["b"]}\n{"en": "a"}', "line 2"), ("{", "line 1"), (None, "cannot be read")],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "names.jsonl"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        read_concepts(file)
