"""Hard filters: Milvus lets pass exactly those whom an oracle in Python lets pass."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_helpers import LANGUAGES, World, random_rows
from pydantic import ValidationError
from strategies import filters

from skillmatch_ray.documents import Freelancer, Project
from skillmatch_ray.index.filters import Filters, compile_filters, exclude, passes, quote
from skillmatch_ray.index.plan import SAMPLED, ColumnSample
from skillmatch_ray.index.retriever import Retriever, survives
from skillmatch_ray.index.schema import scalar_values

PEOPLE = [Freelancer.model_validate(row) for row in random_rows(400, seed=3)]
SCALARS = [scalar_values(person) for person in PEOPLE]
SAMPLE = ColumnSample({name: [row[name] for row in SCALARS] for name in SAMPLED})


def person(**fields: object) -> Freelancer:
    return Freelancer.model_validate({"freelancer_id": "x", "headline": "h", **fields})


@pytest.mark.parametrize(
    ("wish", "yes", "no"),
    [
        ({"countries": ["FR", "BE"]}, {"country": "be"}, {"country": "DE"}),
        ({"categories": "it"}, {"job_category": "it"}, {"job_category": "IT"}),
        ({"remote": True}, {"remote": True}, {"remote": False}),
        ({"spoken_languages": ["fr", "en"]}, {"spoken_languages": ["en", "de", "fr"]}, {"spoken_languages": ["en"]}),
        ({"max_daily_rate_eur": 500}, {"daily_rate_eur": 500}, {"daily_rate_eur": 500.01}),
        ({"available_by": dt.date(2026, 3, 1)}, {"available_from": "2026-03-01"}, {"available_from": "2026-03-02"}),
        (
            {"latitude": 0, "longitude": 0, "radius_km": 120},
            {"latitude": 0, "longitude": 1},
            {"latitude": 0, "longitude": 1.2},
        ),
        (
            {"latitude": 0, "longitude": 0},
            {"latitude": 0, "longitude": 1},
            {"latitude": 0, "longitude": 1, "mobility_radius_km": 100},
        ),
    ],
)
def test_each_filter_and_its_unknown_value(
    wish: dict[str, object], yes: dict[str, object], no: dict[str, object]
) -> None:
    strict, lenient = Filters.model_validate(wish), Filters.model_validate({**wish, "include_unknown": True})
    for asked in (strict, lenient):
        assert passes(person(**yes), asked)
        assert not passes(person(**no), asked)
    assert not passes(person(), strict)
    assert passes(person(), lenient)


def test_a_remote_project_ignores_distance_and_an_onsite_one_does_not_ask_for_remote() -> None:
    far = person(latitude=50, longitude=50, remote=True)
    assert passes(far, Filters(remote=True, latitude=0, longitude=0, radius_km=10))
    assert not passes(far, Filters(remote=False, latitude=0, longitude=0, radius_km=10))
    assert passes(person(latitude=0, longitude=0, remote=False), Filters(remote=False, latitude=0, longitude=0))


def test_a_projects_wishes_become_filters() -> None:
    project = Project(
        project_id="p", title="t", country="FR", spoken_languages=("fr",), max_daily_rate_eur=400, radius_km=30,
        start_date=dt.date(2026, 1, 1),
    )  # fmt: skip
    found = Filters.from_project(project)
    assert found.countries == ("FR",)
    assert found.radius_km is None  # a radius needs a place
    assert found.available_by == dt.date(2026, 1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"latitude": 1},
        {"radius_km": 5},
        {"countries": ["France"]},
        {"countries": [None]},
        {"max_daily_rate_eur": -1},
        {"max_daily_rate_eur": float("inf")},
        {"spoken_languages": ["lang == true or "]},
        {"latitude": 91, "longitude": 0},
        {"unknown_filter": 1},
    ],
)
def test_bad_filters_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Filters.model_validate(bad)


@given(st.text())
@settings(deadline=None)
def test_a_quoted_text_is_one_literal_of_the_same_text(text: str) -> None:
    """Read back by the parser of Milvus Lite itself."""
    from milvus_lite.search.filter.tokens import TokenKind, tokenize

    tokens = tokenize(f"category == {quote(text)} and remote == 1")
    assert [token.kind for token in tokens][:4] == [TokenKind.IDENT, TokenKind.EQ, TokenKind.STRING, TokenKind.AND]
    assert tokens[2].value == text
    assert len(tokens) == 8


@given(filters())
@settings(max_examples=200, deadline=None)
def test_the_sample_says_what_the_oracle_says(asked: Filters) -> None:
    asked = asked.model_copy(update={"exclude_ids": ()})
    assert SAMPLE.passing(asked).tolist() == [passes(one, asked) for one in PEOPLE]


@given(filters(), st.sets(st.sampled_from(LANGUAGES)))
@settings(max_examples=200, deadline=None)
def test_the_expression_loses_nobody_and_the_check_lets_nobody_in(asked: Filters, columns: set[str]) -> None:
    """With any choice of language columns; the expression is read by the vectorised sample."""
    asked = asked.model_copy(update={"exclude_ids": ()})
    compiled = compile_filters(asked, columns)
    sent = SAMPLE.in_expression(asked, compiled)
    kept = [bool(s) and survives(row, asked, compiled) for s, row in zip(sent, SCALARS, strict=True)]
    assert kept == [passes(one, asked) for one in PEOPLE]
    if compiled.exact:
        assert sent.tolist() == kept


@given(asked=filters())
@settings(max_examples=30, deadline=None)
def test_milvus_returns_exactly_whom_the_oracle_lets_pass(asked: Filters, read_only: tuple[World, Retriever]) -> None:
    world, retriever = read_only
    found = retriever.search(
        world.vectors[0], asked, len(world.rows) + 1, fingerprint=retriever.release.fingerprint, plan=True
    )
    assert found.exhausted
    expected = {row.id for row in world.rows if passes(row, asked)}
    assert {candidate.freelancer_id for candidate in found.candidates} == expected
    assert len(found.candidates) == len(expected)


@given(text=st.text(min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_no_text_changes_the_meaning_of_an_expression(text: str, read_only: tuple[World, Retriever]) -> None:
    """An arbitrary category, added to a known one, finds just those of the known one; excluded ids likewise."""
    world, retriever = read_only
    # Ids are cleaned of what no reader sees; a text of nothing else is no id.
    visible = text.encode("utf-8", "ignore").decode().replace("\x00", "").strip()
    cleaned = Filters.model_validate({"exclude_ids": [text]}).exclude_ids if visible else ()
    known = world.rows[next(i for i, row in enumerate(world.rows) if row.job_category)].job_category
    assert known is not None
    asked = Filters.model_construct(categories=(text, known), exclude_ids=cleaned)
    expected = sum(row.job_category in {text, known} for row in world.rows)
    backend, collection = retriever.backend, retriever.release.collection
    assert backend.count(collection, compile_filters(asked, ()).expression, "Bounded") == expected
    assert backend.count(collection, exclude(f"category == {quote(text)}", ["nobody"]), "Bounded") == sum(
        row.job_category == text for row in world.rows
    )
