"""Profiles that WorkRB flattened, parsed back: exact where the form allows it, nothing lost where it does not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workrb.tasks import ProjectCandidateRanking

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.evaluation.flattened import flatten_profile, parse_brief, parse_profile

flatten = ProjectCandidateRanking._candidate_profile_to_str
LABELS = st.lists(st.from_regex(r"[A-Za-zé#+.]{1,8}( [A-Za-z]{1,8})?[a-z]", fullmatch=True), min_size=1, max_size=4)
TEXT = st.from_regex(r"[A-Z][a-zäß ,:]{3,40}[.]", fullmatch=True)
EXPERIENCES = st.lists(
    st.fixed_dictionaries({"title": TEXT, "description": st.lists(TEXT, max_size=3).map("\n".join), "skills": LABELS}),
    max_size=3,
)


def profile(**changes):
    return {
        "headline": "Data engineer", "description": "I build pipelines.", "skills": ["Spark"], "soft_skills": ["calm"],
        "experiences": [], **changes,
    }  # fmt: skip


def experience(title="Lead", description="Did it.", skills=("SQL",)):
    return {"title": title, "description": description, "skills": list(skills)}


def clean(row):
    """As our own model of a row has it: texts without outer white space, empty ones missing."""
    past = [
        {**e, "title": e["title"].strip(), "description": e["description"].strip() or None} for e in row["experiences"]
    ]
    return {**row, "headline": row["headline"].strip(), "description": row["description"].strip(), "experiences": past}


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, LABELS, LABELS, EXPERIENCES)
def test_what_has_no_blank_lines_comes_back_exactly(headline, description, skills, soft, experiences):
    given_profile = profile(
        headline=headline, description=description, skills=skills, soft_skills=soft, experiences=experiences
    )
    assert flatten_profile(Freelancer(freelancer_id="f", **given_profile)) == flatten(clean(given_profile))
    found = parse_profile(flatten(given_profile), "f")
    assert (found.headline, found.description) == (headline.strip(), description.strip())
    assert found.skills == (*skills, *soft)
    assert [(e.title, e.description or "", list(e.skills)) for e in found.experiences] == [
        (e["title"].strip(), e["description"].strip(), e["skills"]) for e in experiences
    ]


def test_blank_lines_in_the_bio_and_headings_in_it():
    text = "First.\n\nSkills:\nmany, really\n\nSecond."
    found = parse_profile(flatten(profile(description=text)), "f")
    assert found.description == text
    assert found.skills == ("Spark", "calm")


def test_commas_inside_labels_stay_inside():
    found = parse_profile(flatten(profile(skills=["SAP FI, CO", "C++"], soft_skills=["patient, kind"])), "f")
    assert found.skills == ("SAP FI, CO", "C++", "patient, kind")


def test_blank_lines_in_an_experience():
    several = [experience("Lead", "First part.\n\nSecond part.", ["SQL", "dbt"]), experience("Dev", "Short.", ["Go"])]
    found = parse_profile(flatten(profile(experiences=several)), "f").experiences
    assert [e.title for e in found] == ["Lead", "Dev"]
    assert found[0].description == "First part.\n\nSecond part."
    assert [e.skills for e in found] == [("SQL", "dbt"), ("Go",)]


def test_experiences_without_skills_or_description():
    several = [experience(skills=[]), experience("Dev", None, ["Go"]), experience("Boss", "Led.", [])]
    found = parse_profile(flatten(profile(experiences=several)), "f").experiences
    assert [(e.title, e.description, e.skills) for e in found] == [
        ("Lead", "Did it.", ()), ("Dev", None, ("Go",)), ("Boss", "Led.", ())
    ]  # fmt: skip


@pytest.mark.parametrize("missing", [None, ""])
def test_missing_values_are_missing(missing):
    found = parse_profile(flatten(profile(headline=missing, description=missing, skills=[], soft_skills=[])), "f")
    assert (found.description, found.skills, found.experiences) == (None, (), ())
    assert found.headline == "?"
    taken = parse_profile(flatten(profile(headline=missing, experiences=[experience()])), "f")
    assert taken.headline == "Lead"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_some_profile_and_some_brief(text):
    assert parse_profile(text, "f").headline
    assert parse_brief(text, "p").title


def test_nothing_of_a_wild_profile_is_lost():
    """Blank lines everywhere: the borders are guessed, but every word is in some section."""
    wild = [
        experience("alpha\n\nbravo", "charlie\n\n\ndelta", ["echo"]),
        experience("", "foxtrot\n\ngolf\n\nhotel", []),
        experience("india", "juliett", ["kilo"]),
    ]
    text = flatten(profile(description="lima\n\n\nmike", experiences=wild))
    sections = " ".join(section.text for section in parse_profile(text, "f").sections())
    words = [
        "alpha",
        "bravo",
        "charlie",
        "delta",
        "echo",
        "foxtrot",
        "golf",
        "hotel",
        "india",
        "juliett",
        "kilo",
        "lima",
        "mike",
    ]
    assert [word for word in words if word not in sections] == []


def test_a_brief_is_a_title_and_a_description_and_a_query_only_a_title():
    brief = parse_brief("React developer\n\nWe build.\n\nTwo months.", "p")
    assert (brief.title, brief.description) == ("React developer", "We build.\n\nTwo months.")
    assert [section.type for section in parse_brief("react accessibility", "q").sections()] == ["title"]
