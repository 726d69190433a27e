"""Documents: cleaning, refusal, sections, hashes."""

from __future__ import annotations

import datetime as dt
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from skillmatch_ray.documents import SECTION_TYPES, Freelancer, Project, Section

FREELANCER = {"freelancer_id": "f1", "headline": "Data engineer"}


def freelancer(**fields):
    return Freelancer.model_validate(FREELANCER | fields)


def test_the_sections_of_a_whole_freelancer():
    found = freelancer(
        description="Ten years.",
        skills=["SQL", "Spark"],
        soft_skills=["calm"],
        experiences=[
            {"title": "Lead.", "description": "Built it.", "skills": ["Kafka", "Go"]},
            {"skills": ["dbt"]},
            {"title": " "},
        ],
        concepts=["structured queries", None],
    ).sections()
    assert found == [
        Section("headline", "Data engineer"),
        Section("skills", "SQL, Spark", ("SQL", "Spark")),
        Section("description", "Ten years."),
        Section("soft_skills", "calm", ("calm",)),
        Section("experience", "Lead. Built it. Kafka, Go", ("Kafka", "Go")),
        Section("experience", "dbt", ("dbt",)),
        Section("concepts", "structured queries", ("structured queries",)),
    ]
    assert {section.type for section in found} <= set(SECTION_TYPES)


def test_the_sections_of_a_project():
    project = Project(project_id="p1", title="Need SQL", skills=("SQL",), description=None)
    assert [(s.type, s.text) for s in project.sections()] == [("title", "Need SQL"), ("skills", "SQL")]
    told = project.model_copy(update={"concepts": ("a", "b")})
    assert told.sections() == [*project.sections(), Section("concepts", "a, b", ("a", "b"))]
    assert (project.id, project.kind) == ("p1", "project")


@pytest.mark.parametrize("missing", [None, "", "  \n", math.nan, "\x00", "\ud800"])
def test_every_spelling_of_a_missing_text_is_none(missing):
    found = freelancer(description=missing, language=missing, job_category=missing, country=missing, city=missing)
    assert (found.description, found.language, found.job_category, found.country, found.city) == (None,) * 5


@pytest.mark.parametrize("field", sorted(set(Freelancer.model_fields) - set(FREELANCER)))
@pytest.mark.parametrize("missing", [None, math.nan])
def test_an_optional_field_may_be_null_or_nan(field, missing):
    assert freelancer(**{field: missing}) == freelancer()


@pytest.mark.parametrize("field", FREELANCER)
@pytest.mark.parametrize("missing", [None, "", " ", math.nan, "\x00"])
def test_a_required_field_may_not_be_missing(field, missing):
    with pytest.raises(ValidationError, match=field):
        freelancer(**{field: missing})


def test_nan_among_skills_is_left_out():
    found = freelancer(skills=["SQL", math.nan, None, " "], experiences=[{"title": math.nan, "skills": math.nan}])
    assert found.skills == ("SQL",)
    assert [s.type for s in found.sections()] == ["headline", "skills"]


def test_what_no_reader_sees_is_dropped():
    assert freelancer(headline=" a\x00b\ud800c ").headline == "abc"


def test_codes_are_normalised():
    found = freelancer(language=" FR ", country="be", spoken_languages=["EN", "Nl"])
    assert (found.language, found.country, found.spoken_languages) == ("fr", "BE", ("en", "nl"))


def test_numbers_count_as_ids():
    assert freelancer(freelancer_id=17).id == "17"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"latitude": 91, "longitude": 0}, "latitude"),
        ({"latitude": 0, "longitude": -180.5}, "longitude"),
        ({"latitude": "nan", "longitude": "nan"}, "latitude"),
        ({"latitude": math.inf, "longitude": 0}, "latitude"),
        ({"latitude": 50.0}, "latitude .50.0. and longitude .None."),
        ({"latitude": math.nan, "longitude": 4.0}, "longitude"),
        ({"daily_rate_eur": -1}, "daily_rate_eur"),
        ({"daily_rate_eur": math.inf}, "daily_rate_eur"),
        ({"daily_rate_eur": 10**400}, "daily_rate_eur"),
        ({"daily_rate_eur": "much"}, "daily_rate_eur"),
        ({"mobility_radius_km": [3]}, "mobility_radius_km"),
        ({"language": "english"}, "language"),
        ({"country": "BEL"}, "country"),
        ({"spoken_languages": ["e"]}, "spoken_languages"),
        ({"skills": "SQL"}, "skills"),
        ({"skills": {"SQL": 1}}, "skills"),
        ({"experiences": [3]}, "experiences"),
        ({"remote": "perhaps"}, "remote"),
        ({"available_from": "2025-02-30"}, "available_from"),
        ({"updated_at": "yesterday"}, "updated_at"),
        ({"updated_at": "0001-01-01T00:00:00+05:00"}, "updated_at"),
        ({"updated_at": "9999-12-31T23:59:59-05:00"}, "updated_at"),
        ({"description": True}, "description"),
        ({"freelancer_id": "x" * 257}, "freelancer_id"),
    ],
)
def test_wrong_values_are_refused_by_name(fields, place):
    with pytest.raises(ValidationError, match=place):
        freelancer(**fields)


def test_days_and_moments_in_every_form():
    naive = dt.datetime(2025, 3, 1, 10)  # noqa: DTZ001 -- Parquet has moments without a zone
    for value in ("2025-03-01", "2025-03-01T10:00:00Z", dt.date(2025, 3, 1), naive):
        assert freelancer(available_from=value).available_from == dt.date(2025, 3, 1)
    ten = dt.datetime(2025, 3, 1, 10, tzinfo=dt.UTC)
    for value in ("2025-03-01T10:00:00", "2025-03-01T12:00:00+02:00", naive):
        assert freelancer(updated_at=value).updated_at == ten
    assert freelancer(updated_at=dt.date(2025, 3, 1)).updated_at == dt.datetime(2025, 3, 1, tzinfo=dt.UTC)


def test_the_content_hash_is_of_the_text_and_the_row_hash_of_everything():
    one, cheaper, other = freelancer(), freelancer(daily_rate_eur=10), freelancer(description="more")
    assert one.content_hash() == cheaper.content_hash() != other.content_hash()
    assert len({one.row_hash(), cheaper.row_hash(), other.row_hash()}) == 3
    moved = freelancer(skills=["a"]), freelancer(soft_skills=["a"])
    assert moved[0].content_hash() != moved[1].content_hash()


def test_unknown_fields_are_left_out():
    assert freelancer(shoe_size=43) == freelancer()


def test_a_megabyte_is_accepted():
    assert len(freelancer(description="word " * 200_000).sections()[1].text) == 999_999


def test_a_document_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        freelancer().headline = "other"


texts = st.text(max_size=12)


@settings(max_examples=60, deadline=None)
@given(headline=texts, skills=st.lists(texts, max_size=4), description=st.none() | texts)
def test_any_text_is_either_refused_or_gives_clean_sections(headline, skills, description):
    fields = FREELANCER | {"headline": headline, "skills": skills, "description": description}
    try:
        found = Freelancer.model_validate(fields)
    except ValidationError:
        assert not headline.replace("\x00", "").strip()
        return
    for section in found.sections():
        assert section.text
        assert section.text.encode()
        assert "\x00" not in section.text
    assert Freelancer.model_validate_json(found.model_dump_json()) == found
