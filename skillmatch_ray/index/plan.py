"""How a search is carried out: how many rows will pass, exact or approximate, and how far to look.

The guess comes from a sample of the filter columns in memory; counting in Milvus would cost more than
the search itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.config import Fusion
from skillmatch_ray.index.backend import MAX_RESULTS, IndexType
from skillmatch_ray.index.filters import (
    NO_RADIUS,
    UNKNOWN_DAY,
    UNKNOWN_DEGREES,
    UNKNOWN_RATE,
    UNKNOWN_REMOTE,
    UNKNOWN_TEXT,
    CompiledFilters,
    Filters,
    category_key,
    day_number,
    distance_boxes,
)
from skillmatch_ray.index.geo import EARTH_RADIUS_KM, Box
from skillmatch_ray.index.schema import split_languages

SAMPLED = (
    "country", "category", "remote", "languages", "rate", "available_day", "latitude", "longitude", "mobility",
)  # fmt: skip
"""Columns that a sample keeps."""

COMPARED_BELOW = 0.05
"""Share of passing rows below which a server compares them all by itself, whatever the graph: 0.07 in each segment
(`kHnswBruteForceFilterRate` of knowhere), less a margin for segments that differ."""

FETCHED_AT_MOST = 2_000
"""Passing rows up to which a graph is not navigated: Milvus gives their vectors, all are compared here."""

MAX_EF = 32_768
EVERY_LIST = 65_536
EF_PER_RESULT = 8
FILTERED_EF_FACTOR = 2
"""Measured on server 2.3.5 (M = 16, 1000 clusters in 64 dimensions, 10,000 rows): recall >= 0.97 at every share."""

Mode = Literal["exact", "fetched", "approximate"]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Shares:
    """Guessed shares of all rows.

    Attributes:
        expression: that fulfil the expression sent to Milvus.
        passing: that fulfil every filter.
    """

    expression: float
    passing: float


@dataclass(frozen=True)
class SearchPlan:
    """One search as it was carried out.

    Attributes:
        mode: "exact" where Milvus compares all rows that pass, "fetched" where they are compared here, or
            "approximate" over the graph.
        expression: sent to Milvus.
        parameters: of the index search.
        limit: rows asked for on the first page.
        share: guessed share of rows that pass every filter.
        rows: in the collection.
        pages: searches that were needed.
        looked_at: rows that came back.
        fusion: with the ranking by BM25, or None.
    """

    mode: Mode
    expression: str
    parameters: dict[str, int]
    limit: int
    share: float
    rows: int
    pages: int = 1
    looked_at: int = 0
    fusion: Fusion | None = None

    def as_dict(self) -> dict[str, Any]:
        """For reports and responses."""
        return asdict(self)


class ColumnSample:
    """Filter columns of some rows, drawn evenly from the collection.

    Args:
        columns: name -> values, those of `SAMPLED`, all of one length.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.rows = len(columns["country"])
        self._codes = {name: _Codes(columns[name]) for name in ("country", "category")}
        self._numbers = {
            name: np.asarray(columns[name], dtype=np.float64)
            for name in ("remote", "rate", "available_day", "latitude", "longitude", "mobility")
        }
        spoken = [split_languages(value) for value in columns["languages"]]
        self._languages_known = np.array([bool(languages) for languages in spoken], dtype=bool)
        self._speaks = {
            language: np.array([language in languages for languages in spoken], dtype=bool)
            for language in {language for languages in spoken for language in languages}
        }

    def shares(self, filters: Filters, compiled: CompiledFilters) -> Shares:
        """Guess how many rows pass; never exactly zero, since a sample cannot know."""
        least = 0.5 / max(1, self.rows)
        if not compiled.expression:
            return Shares(1.0, 1.0)
        sent = self.in_expression(filters, compiled)
        if compiled.exact:
            share = max(least, _mean(sent))
            return Shares(share, share)
        kept = sent & self._speaks_all(filters) & self._near(filters)
        return Shares(max(least, _mean(sent)), max(least, _mean(kept)))

    def passing(self, filters: Filters) -> Mask:
        """(rows,) whether each row passes every filter; `exclude_ids` apart."""
        return self._common(filters) & self._speaks_all(filters) & self._near(filters)

    def in_expression(self, filters: Filters, compiled: CompiledFilters) -> Mask:
        """(rows,) whether each row fulfils the expression; `exclude_ids` apart."""
        spoken = self._speaks_all(filters, without=compiled.check_languages)
        return self._common(filters) & spoken & self._in_boxes(filters)

    def _common(self, filters: Filters) -> Mask:
        """Every filter but languages and distance."""
        unknown, numbers = filters.include_unknown, self._numbers
        result = np.ones(self.rows, dtype=bool)
        if filters.countries:
            result &= self._codes["country"].among(filters.countries, unknown=unknown)
        if filters.categories:
            result &= self._codes["category"].among(map(category_key, filters.categories), unknown=unknown)
        if filters.remote:
            result &= (numbers["remote"] == 1) | (unknown & (numbers["remote"] == UNKNOWN_REMOTE))
        if filters.max_daily_rate_eur is not None:
            missing = numbers["rate"] == UNKNOWN_RATE
            result &= np.where(missing, unknown, numbers["rate"] <= filters.max_daily_rate_eur)
        if filters.available_by is not None:
            missing = numbers["available_day"] == UNKNOWN_DAY
            result &= np.where(missing, unknown, numbers["available_day"] <= day_number(filters.available_by))
        return result

    def _speaks_all(self, filters: Filters, without: Sequence[str] = ()) -> Mask:
        result = np.ones(self.rows, dtype=bool)
        if not filters.spoken_languages:
            return result
        for language in filters.spoken_languages:
            if language not in without:
                result &= self._speaks.get(language, np.zeros(self.rows, dtype=bool))
        result &= self._languages_known
        return result | ~self._languages_known if filters.include_unknown else result

    def _located(self, filters: Filters, near: Mask) -> Mask:
        known = self._numbers["latitude"] != UNKNOWN_DEGREES
        return np.where(known, near, filters.include_unknown).astype(bool)

    def _in_boxes(self, filters: Filters) -> Mask:
        if filters.center is None:
            return np.ones(self.rows, dtype=bool)
        mobility = np.where(self._numbers["mobility"] == NO_RADIUS, np.inf, self._numbers["mobility"])
        near = np.zeros(self.rows, dtype=bool)
        for low, high, box in distance_boxes(filters):
            near |= (mobility > low) & (mobility <= high) & self._in_box(box)
        return self._located(filters, near)

    def _in_box(self, box: Box | None) -> Mask:
        latitude, longitude = self._numbers["latitude"], self._numbers["longitude"]
        if box is None:
            return np.ones(self.rows, dtype=bool)
        inside: Mask = (latitude >= box.south) & (latitude <= box.north)
        ranges = [(longitude >= west) & (longitude <= east) for west, east in box.longitudes]
        return inside & np.logical_or.reduce(ranges) if ranges else inside

    def _near(self, filters: Filters) -> Mask:
        if filters.center is None:
            return np.ones(self.rows, dtype=bool)
        mobility = np.where(self._numbers["mobility"] == NO_RADIUS, np.inf, self._numbers["mobility"])
        limit = np.minimum(mobility, math.inf if filters.radius_km is None else filters.radius_km)
        return self._located(filters, self._distances(filters.center) <= limit)

    def _distances(self, center: tuple[float, float]) -> NDArray[np.float64]:
        """(rows,) kilometres; meaningless where the place is unknown. `geo.haversine_km`, vectorised."""
        latitude, longitude = (np.radians(self._numbers[name]) for name in ("latitude", "longitude"))
        phi, other = math.radians(center[0]), math.radians(center[1])
        h = np.sin((latitude - phi) / 2) ** 2
        h += math.cos(phi) * np.cos(latitude) * np.sin((longitude - other) / 2) ** 2
        distances: NDArray[np.float64] = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0.0, 1.0)))
        return distances


class _Codes:
    """A text column as small integers."""

    def __init__(self, values: Sequence[str]) -> None:
        names, codes = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
        self._code = {str(name): i for i, name in enumerate(names)}
        self._codes = codes.astype(np.int32)

    def among(self, wanted: Any, *, unknown: bool) -> Mask:
        names = [*wanted, UNKNOWN_TEXT] if unknown else wanted
        table = np.zeros(len(self._code) + 1, dtype=bool)
        table[[self._code[name] for name in names if name in self._code]] = True
        result: Mask = table[self._codes]
        return result


def _mean(mask: Mask) -> float:
    return float(mask.mean()) if len(mask) else 1.0


def make_plan(
    compiled: CompiledFilters, shares: Shares, rows: int, top_k: int, index_type: IndexType, ef: int
) -> SearchPlan:
    """Decide how to search.

    Args:
        compiled: the expression, and what is checked on its hits.
        shares: guessed from the sample.
        rows: in the collection.
        top_k: candidates wanted.
        index_type: of the collection.
        ef: least number of candidates that a graph search looks at.
    """
    limit = first_limit(compiled, shares, top_k)
    return SearchPlan(
        mode=choose_mode(index_type, shares.expression, rows),
        expression=compiled.expression,
        parameters=parameters(index_type, limit, ef, filtered=bool(compiled.expression)),
        limit=limit,
        share=shares.passing,
        rows=rows,
    )


def choose_mode(index_type: IndexType, share: float, rows: int) -> Mode:
    """How so great a share of so many rows is searched.

    Example:
        >>> [choose_mode("HNSW", share, 1_000_000) for share in (0.01, 0.1)], choose_mode("HNSW", 0.1, 10_000)
        (['exact', 'approximate'], 'fetched')
    """
    if index_type != "HNSW" or share < COMPARED_BELOW:
        return "exact"
    return "fetched" if share * rows <= FETCHED_AT_MOST else "approximate"


def first_limit(compiled: CompiledFilters, shares: Shares, top_k: int) -> int:
    """Rows to ask for so that `top_k` of them will likely survive the checks."""
    if compiled.exact:
        return min(top_k, MAX_RESULTS)
    survive = shares.passing / shares.expression
    return min(MAX_RESULTS, math.ceil(top_k / survive * 1.25) + 10)


def parameters(index_type: IndexType, limit: int, ef: int, *, filtered: bool) -> dict[str, int]:
    """Search parameters: every inverted list, or an ef that grows with the results and with a filter."""
    if index_type == "FLAT":
        return {}
    if index_type == "IVF_FLAT":
        return {"nprobe": EVERY_LIST}
    wanted = max(ef, EF_PER_RESULT * limit) * (FILTERED_EF_FACTOR if filtered else 1)
    return {"ef": min(MAX_EF, wanted)}


def deepened(wanted: Mapping[str, int], limit: int) -> dict[str, int]:
    """Search parameters for a later, longer page: Milvus refuses an ef below the limit.

    Example:
        >>> deepened({"ef": 1024}, 4000), deepened({}, 4000)
        ({'ef': 4000}, {})
    """
    return {name: max(value, limit) if name == "ef" else value for name, value in wanted.items()}
