"""Random filters."""

from __future__ import annotations

import datetime as dt

from hypothesis import strategies as st
from index_helpers import COUNTRIES, LANGUAGES, NASTY

from skillmatch_ray.index.filters import Filters

places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
poles_and_date_line = st.sampled_from([(90.0, 0.0), (-90.0, 33.0), (0.0, 180.0), (0.0, -180.0), (65.0, 179.99)])


@st.composite
def filters(draw: st.DrawFn) -> Filters:
    """Any combination; each kind of filter is there about every other time."""
    place = draw(st.one_of(st.none(), places, poles_and_date_line))
    radius = draw(st.one_of(st.none(), st.floats(0, 20_000))) if place else None
    return Filters(
        countries=tuple(draw(st.lists(st.sampled_from(COUNTRIES), max_size=3))),
        categories=tuple(draw(st.lists(st.sampled_from(NASTY), max_size=3))),
        remote=draw(st.sampled_from([None, None, False, True])),
        spoken_languages=tuple(draw(st.one_of(st.just([]), st.lists(st.sampled_from(LANGUAGES), max_size=2)))),
        max_daily_rate_eur=draw(st.one_of(st.none(), st.floats(0, 1000))),
        available_by=draw(st.one_of(st.none(), st.dates(dt.date(2025, 12, 1), dt.date(2027, 1, 1)))),
        latitude=place[0] if place else None,
        longitude=place[1] if place else None,
        radius_km=radius,
        exclude_ids=tuple(draw(st.lists(st.sampled_from(["f000001", "f000002", 'f"]']), max_size=2))),
        include_unknown=draw(st.booleans()),
    )
