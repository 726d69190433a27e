"""Hard filters: one typed definition for the API, the command line and Python, and what it means.

Three readings of a filter exist and are tested against each other: `passes` (the oracle, row by row in
plain Python), `compile_filters` (an expression for Milvus plus what must be checked afterwards), and
`plan.ColumnSample` (vectorised, to guess how many rows pass).

Semantics: a freelancer whose value is unknown fails a filter on it, unless `include_unknown`.
`spoken_languages` asks for all of them. A remote project ignores distance. An on-site project with a
place asks for great-circle distance <= min(`radius_km`, the freelancer's mobility radius); a missing
radius is no limit.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from skillmatch_ray.documents import (
    Amount,
    Country,
    Day,
    DocumentId,
    Freelancer,
    LanguageList,
    Latitude,
    Longitude,
    Project,
    RequiredText,
)
from skillmatch_ray.index.geo import Box, bounding_box, haversine_km

UNKNOWN_TEXT = ""
UNKNOWN_REMOTE = -1
UNKNOWN_RATE = -1.0
UNKNOWN_DAY = 10_000_000
"""Days since 1970 (year 29349): later than any wish."""
UNKNOWN_DEGREES = 999.0
NO_RADIUS = -1.0

_LONGEST_CATEGORY_BYTES = 512
_MOBILITY_BANDS_KM = (50.0, 200.0)
"""A box for freelancers of like mobility: few who would not travel are looked at, and the expression stays short."""


def _one_or_many(value: Any) -> Any:
    """A single value stands for a list of one; order and repetition mean nothing."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple, set, frozenset)):
        return value
    try:
        return tuple(dict.fromkeys(value))
    except TypeError:  # objects or lists inside: the check that follows names them
        return tuple(value)


Countries = Annotated[tuple[Country, ...], BeforeValidator(_one_or_many)]
Texts = Annotated[tuple[RequiredText, ...], BeforeValidator(_one_or_many)]
Ids = Annotated[tuple[DocumentId, ...], BeforeValidator(_one_or_many)]


class Filters(BaseModel):
    """What a freelancer must fulfil, whatever the score. An empty value asks for nothing."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"countries": ["FR", "BE"], "spoken_languages": ["fr", "en"], "max_daily_rate_eur": 600},
                {"remote": False, "latitude": 48.8566, "longitude": 2.3522, "radius_km": 50},
            ]
        },
    )

    countries: Countries = Field((), description="ISO 3166-1 alpha-2; the freelancer lives in one of them")
    categories: Texts = Field((), description="job categories, exact; the freelancer has one of them")
    remote: bool | None = Field(
        None, description="true: the freelancer works remotely, distance is ignored; false or null: distance counts"
    )
    spoken_languages: LanguageList = Field((), description="ISO 639 codes; the freelancer speaks all of them")
    max_daily_rate_eur: Amount = None
    available_by: Day = Field(None, description="the freelancer is available on that day")
    latitude: Latitude = Field(None, description="place of an on-site project, degrees")
    longitude: Longitude = Field(None, description="place of an on-site project, degrees")
    radius_km: Amount = Field(None, description="greatest distance from the place; null: no limit of the project's")
    exclude_ids: Ids = Field((), description="freelancers to leave out")
    include_unknown: bool = Field(default=False, description="let freelancers pass whose value for a filter is missing")

    @model_validator(mode="after")
    def _place_is_whole(self) -> Filters:
        if (self.latitude is None) != (self.longitude is None):
            given, missing = ("latitude", "longitude") if self.longitude is None else ("longitude", "latitude")
            raise ValueError(f"{given} ({getattr(self, given)}) is given without {missing}: give both, or neither")
        if self.radius_km is not None and self.latitude is None:
            raise ValueError(f"radius_km ({self.radius_km}) needs latitude and longitude")
        if None in self.countries:
            raise ValueError("countries holds an empty value: give ISO 3166-1 alpha-2 codes, as in ['FR']")
        return self

    @classmethod
    def from_project(cls, project: Project, *, include_unknown: bool = False) -> Filters:
        """The wishes of a project as filters; a radius without a place is dropped."""
        return cls(
            countries=project.country,
            remote=project.remote,
            spoken_languages=project.spoken_languages,
            max_daily_rate_eur=project.max_daily_rate_eur,
            available_by=project.start_date,
            latitude=project.latitude,
            longitude=project.longitude,
            radius_km=project.radius_km if project.latitude is not None else None,
            include_unknown=include_unknown,
        )

    @property
    def center(self) -> tuple[float, float] | None:
        """(latitude, longitude) where distance counts, else None."""
        if self.remote or self.latitude is None or self.longitude is None:
            return None
        return self.latitude, self.longitude


def passes(freelancer: Freelancer, filters: Filters) -> bool:
    """The oracle: whether one freelancer fulfils every filter."""
    unknown = filters.include_unknown
    return (
        freelancer.freelancer_id not in filters.exclude_ids
        and (not filters.countries or _among(freelancer.country, filters.countries, unknown=unknown))
        and (not filters.categories or _among(freelancer.job_category, filters.categories, unknown=unknown))
        and (not filters.remote or (unknown if freelancer.remote is None else freelancer.remote))
        and speaks(freelancer.spoken_languages, filters.spoken_languages, unknown=unknown)
        and _at_most(freelancer.daily_rate_eur, filters.max_daily_rate_eur, unknown=unknown)
        and _at_most(freelancer.available_from, filters.available_by, unknown=unknown)
        and near(filters, freelancer.latitude, freelancer.longitude, freelancer.mobility_radius_km)
    )


def _among(value: str | None, wanted: Collection[str | None], *, unknown: bool) -> bool:
    return unknown if value is None else value in wanted


def _at_most(value: Any, limit: Any, *, unknown: bool) -> bool:
    if limit is None:
        return True
    return unknown if value is None else bool(value <= limit)


def speaks(languages: Collection[str], wanted: Sequence[str], *, unknown: bool) -> bool:
    """Whether all wanted languages are spoken; no language at all means unknown."""
    if not wanted:
        return True
    return all(language in languages for language in wanted) if languages else unknown


def near(filters: Filters, latitude: float | None, longitude: float | None, mobility_km: float | None) -> bool:
    """Whether a freelancer's place is near enough, or distance does not count."""
    if filters.center is None:
        return True
    if latitude is None or longitude is None:
        return filters.include_unknown
    limit = min((r for r in (filters.radius_km, mobility_km) if r is not None), default=math.inf)
    return haversine_km(*filters.center, latitude, longitude) <= limit


@dataclass(frozen=True)
class CompiledFilters:
    """An expression that no freelancer fails who passes, and what is left to check on its hits.

    Attributes:
        expression: for Milvus; empty = everybody.
        check_distance: whether the exact distance must be checked on each hit.
        check_languages: languages without a column of their own, to be checked on each hit.
    """

    expression: str
    check_distance: bool
    check_languages: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether the expression alone decides."""
        return not self.check_distance and not self.check_languages


def compile_filters(filters: Filters, language_columns: Collection[str]) -> CompiledFilters:
    """Filters as an expression over the columns of `schema.Layout`.

    Args:
        filters: what is asked for.
        language_columns: languages that have a BOOL column in the collection.
    """
    wanted = filters.spoken_languages
    clauses = (
        _or_unknown(filters, in_list("country", filter(None, filters.countries)), f"country == {quote(UNKNOWN_TEXT)}"),
        _or_unknown(
            filters, in_list("category", map(category_key, filters.categories)), f"category == {quote(UNKNOWN_TEXT)}"
        ),
        _or_unknown(filters, "remote == 1" if filters.remote else "", f"remote == {UNKNOWN_REMOTE}"),
        _or_unknown(filters, _languages(wanted, language_columns), "languages_known == false"),
        _or_unknown(filters, _rate(filters), f"rate == {UNKNOWN_RATE}"),
        _or_unknown(filters, _day(filters.available_by), f"available_day == {UNKNOWN_DAY}"),
        _or_unknown(filters, _distance(filters), f"latitude == {UNKNOWN_DEGREES}"),
        _not_in("freelancer_id", filters.exclude_ids),
    )
    return CompiledFilters(
        expression=" and ".join(clause for clause in clauses if clause),
        check_distance=filters.center is not None,
        check_languages=tuple(language for language in wanted if language not in language_columns),
    )


def quote(text: str) -> str:
    """A string literal of Milvus' expression language; whatever `text` holds, it stays one literal."""
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def category_key(category: str) -> str:
    """What stands in the category column: the category, or its hash where it is very long."""
    raw = category.encode()
    return category if len(raw) <= _LONGEST_CATEGORY_BYTES else "sha256:" + hashlib.sha256(raw).hexdigest()


def day_number(day: dt.date) -> int:
    """Days since 1970-01-01."""
    return (day - dt.date(1970, 1, 1)).days


def language_column(language: str) -> str:
    """Name of the BOOL column of a language."""
    return f"lang_{language}"


def distance_boxes(filters: Filters) -> list[tuple[float, float, Box | None]]:
    """(mobility above, mobility up to, box) of each band of mobility; the last band also holds no radius."""
    if filters.center is None:
        return []
    limit = math.inf if filters.radius_km is None else filters.radius_km
    edges = [edge for edge in _MOBILITY_BANDS_KM if edge < limit]
    bands = zip([-math.inf, *edges], [*edges, math.inf], strict=True)
    return [(low, high, _box(filters.center, min(high, limit))) for low, high in bands]


def _box(center: tuple[float, float], radius_km: float) -> Box | None:
    return None if math.isinf(radius_km) else bounding_box(*center, radius_km)


def _or_unknown(filters: Filters, clause: str, unknown: str) -> str:
    if not clause:
        return ""
    return f"({clause} or {unknown})" if filters.include_unknown else clause


def in_list(column: str, values: Iterable[str]) -> str:
    """`column in [...]`, or nothing for no values."""
    listed = ", ".join(quote(value) for value in values)
    return f"{column} in [{listed}]" if listed else ""


def _not_in(column: str, values: Sequence[str]) -> str:
    return f"{column} not in [{', '.join(quote(value) for value in values)}]" if values else ""


def exclude(expression: str, ids: Sequence[str]) -> str:
    """The expression, without these freelancers."""
    return " and ".join(
        part for part in (f"({expression})" if expression else "", _not_in("freelancer_id", ids)) if part
    )


def _languages(wanted: Sequence[str], columns: Collection[str]) -> str:
    if not wanted:
        return ""
    known = [f"{language_column(language)} == true" for language in wanted if language in columns]
    return f"({' and '.join(['languages_known == true', *known])})"


def _rate(filters: Filters) -> str:
    if filters.max_daily_rate_eur is None:
        return ""
    return f"(rate >= 0.0 and rate <= {number(filters.max_daily_rate_eur)})"


def _day(day: dt.date | None) -> str:
    return "" if day is None else f"available_day <= {day_number(day)}"


def _distance(filters: Filters) -> str:
    bands = distance_boxes(filters)
    if not bands:
        return ""
    return "(" + " or ".join(_band(*band) for band in bands) + ")"


def _band(low: float, high: float, box: Box | None) -> str:
    clauses = [*_mobility(low, high), *_inside(box)]
    return f"({' and '.join(clauses)})"


def _mobility(low: float, high: float) -> list[str]:
    if math.isinf(high):
        return [] if math.isinf(low) else [f"(mobility < 0.0 or mobility > {number(low)})"]
    above = "mobility >= 0.0" if math.isinf(low) else f"mobility > {number(low)}"
    return [above, f"mobility <= {number(high)}"]


def _inside(box: Box | None) -> list[str]:
    if box is None:
        return ["latitude <= 90.0"]
    ranges = [f"(longitude >= {number(west)} and longitude <= {number(east)})" for west, east in box.longitudes]
    latitudes = [f"latitude >= {number(box.south)}", f"latitude <= {number(box.north)}"]
    return [*latitudes, f"({' or '.join(ranges)})"] if ranges else latitudes


def number(value: float) -> str:
    """A float literal that both servers read back as the very same number."""
    return repr(float(value))
