"""The glossary: which concepts a text names, by hand, and in every language of the sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillmatch_ray.config import BUILTIN
from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.evaluation.language_gap import translated_pool
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary, concepts_in
from skillmatch_ray.sample.taxonomy import LANGUAGES, builtin_taxonomy
from skillmatch_ray.sample.vocabulary import builtin_vocabulary, read_glossary

GLOSSARY = Glossary(
    (
        {"en": ("bookkeeping", "keeping the books"), "fr": ("comptabilité", "tenue des comptes")},
        {"en": ("payroll accounting",), "fr": ("comptabilité de la paie",), "de": ("Lohnbuchhaltung",)},
        {"en": ("art",), "fr": ("art",), "de": ("Kunst",)},
        {"en": ("IT",), "fr": ("IT",), "de": ("IT",)},
        {"en": ("C++",), "fr": ("C++",), "de": ("C++",)},
        {"en": ("Node.js",), "fr": ("Node.js",), "de": ("Node.js",)},
        {"de": ("Winzer",), "fr": ("vigneron",)},
        {"en": ("accounts",), "fr": ("comptabilité",)},
    )
)


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Comptabilité, et la tenue des comptes.", "fr", ["bookkeeping"]),
        ("comptabilité de la paie", "fr", ["payroll accounting"]),
        ("paie, comptabilité de gestion", "fr", ["bookkeeping"]),
        ("Node.js und C++, sonst Kunst", "de", ["C++", "Node.js", "art"]),
        ("C, C# oder Node", "de", []),
        ("we do it for IT", "en", ["IT"]),
        ("Keeping the books - and keeping on", "en", ["bookkeeping"]),
        ("vigneron", "fr", ["Winzer"]),
        ("ma comptabilite\u0301", "fr", ["bookkeeping"]),
        ("Kunstbuchhaltung", "de", []),
        ("Payroll accounting auf diese Art", "de", ["payroll accounting"]),
        ("Bookkeeping", "de", []),
        ("bookkeeping, Kunst, vigneron", None, ["Winzer", "art", "bookkeeping"]),
        ("vigneron, Kunst, bookkeeping", "pl", ["Winzer", "art", "bookkeeping"]),
        ("", "en", []),
    ],
)
def test_names_by_hand(text: str, language: str | None, found: list[str]) -> None:
    assert list(GLOSSARY.find(text, language)) == found


def test_a_name_is_known_as_a_whole() -> None:
    assert GLOSSARY.knows("Tenue des comptes", "fr")
    assert GLOSSARY.knows("comptabilité", "fr"), "longer names begin like it"
    assert not GLOSSARY.knows("tenue des comptes clients", "fr")
    assert not GLOSSARY.knows("la comptabilité", "fr")
    assert not GLOSSARY.knows("tenue", "fr")
    assert not GLOSSARY.knows(" ", "fr")
    assert not NO_GLOSSARY.knows("comptabilité", "fr")


def test_a_document_is_told_the_concepts_of_all_its_sections() -> None:
    freelancer = Freelancer(
        freelancer_id="f",
        headline="Vigneron",
        skills=("comptabilité",),
        experiences=({"title": "chef", "skills": ["C++"]},),
        language="fr",
    )
    read = GLOSSARY.read(freelancer)
    assert read.concepts == ("C++", "Winzer", "bookkeeping")
    assert [section.type for section in read.sections()] == ["headline", "skills", "experience", "concepts"]
    assert read.sections()[-1].labels == read.concepts
    assert read.content_hash() != freelancer.content_hash()
    assert GLOSSARY.read(read) is read, "what a document brings itself is believed"
    assert NO_GLOSSARY.read(freelancer) is freelancer


def test_a_document_that_names_nothing_stays_as_it_is() -> None:
    project = Project(project_id="p", title="Help", language="fr")
    assert GLOSSARY.read(project) is project


def test_a_document_of_another_class_stays_one_of_it() -> None:
    class Marked(Project):
        mark: int = 0

    assert GLOSSARY.read(Marked(project_id="p", title="IT", mark=3)) == Marked(
        project_id="p", title="IT", mark=3, concepts=("IT",)
    )


@given(
    name=st.sampled_from(sorted({name for labels in GLOSSARY.concepts for name in labels.get("fr", ())})),
    before=st.lists(st.sampled_from(["zut", "très", "!", "de"]), max_size=4),
    after=st.lists(st.sampled_from(["zut", "très", "!", ","]), max_size=4),
)
def test_a_name_is_found_wherever_it_stands(name: str, before: list[str], after: list[str]) -> None:
    assert GLOSSARY.find(" ".join([*before, name, *after]), "fr") == GLOSSARY.find(name, "fr") != ()


def test_a_saved_glossary_is_the_same(tmp_path: Path) -> None:
    GLOSSARY.save(tmp_path / "names.jsonl")
    loaded = Glossary(tuple(concepts_in(tmp_path / "names.jsonl")))
    assert loaded == GLOSSARY
    assert loaded.fingerprint == GLOSSARY.fingerprint != Glossary(GLOSSARY.concepts[1:]).fingerprint
    assert read_glossary([str(tmp_path / "names.jsonl")]) == GLOSSARY
    assert GLOSSARY.languages() == {"de": 6, "en": 8, "fr": 9}


def test_sources_stand_behind_one_another(tmp_path: Path) -> None:
    GLOSSARY.save(tmp_path / "names.jsonl")
    taxonomy = builtin_taxonomy()
    both = read_glossary([str(tmp_path / "names.jsonl"), BUILTIN])
    assert both.concepts[: len(GLOSSARY.concepts)] == GLOSSARY.concepts
    assert len(both.concepts) == len(GLOSSARY.concepts) + len(builtin_vocabulary()) + len(taxonomy.skills) + len(
        taxonomy.occupations
    )
    assert not read_glossary([])
    with pytest.raises(ConfigError, match="nowhere"):
        read_glossary([str(tmp_path / "nowhere.jsonl")])


def test_a_person_is_told_the_same_in_every_language() -> None:
    """Without a glossary the words of two languages share next to nothing; with it the concepts are nearly the same."""
    glossary = read_glossary([BUILTIN])
    people = translated_pool(40, 1, seed=7).freelancers
    told = {language: [set(glossary.read(one).concepts) for one in people[language]] for language in LANGUAGES}
    shared = [
        len(one & other) / len(one | other)
        for language in LANGUAGES[1:]
        for one, other in zip(told["en"], told[language], strict=True)
    ]
    assert np.mean(shared) > 0.85
    assert min(len(concepts) for own in told.values() for concepts in own) > 0


@given(st.permutations(["Winzer", "C++", "Kunst", "Node.js", "Lohnbuchhaltung"]))
def test_the_order_of_mention_does_not_matter(names: list[str]) -> None:
    assert GLOSSARY.find(", ".join(names), "de") == ("C++", "Node.js", "Winzer", "art", "payroll accounting")
