"""What a collection holds: a freelancer's vector, native filter columns, and what a result shows.

Server 2.3 has no nullable fields, so a missing value is a stated sentinel (`filters.UNKNOWN_*`). Each
frequent spoken language has a BOOL column, 30 at most: servers stop at 64 fields, and array columns
are read row by row on Milvus Lite.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from skillmatch_ray.documents import Document, Freelancer
from skillmatch_ray.index.filters import (
    NO_RADIUS,
    UNKNOWN_DAY,
    UNKNOWN_DEGREES,
    UNKNOWN_RATE,
    UNKNOWN_REMOTE,
    UNKNOWN_TEXT,
    category_key,
    day_number,
    language_column,
)

MAX_LANGUAGE_COLUMNS: Final = 30
KEY: Final = "freelancer_id"
VECTOR: Final = "vector"

WORDS: Final = "words"
BM25: Final = "bm25"

ColumnType = Literal["key", "vector", "text", "words", "sparse", "bool", "int8", "int64", "double"]

_ID_BYTES = 1024  # 256 characters of at most 4 bytes
_PAYLOAD_BYTES = 16_384
_PROFILE_BYTES = 65_535
_PROFILE_CUTS = (4000, 1000, 250, 60)
_SHOWN_TEXT = 300
_SHOWN_SKILLS = 20
_SHOWN_SKILL = 60
_KEPT_LANGUAGES = 2000


@dataclass(frozen=True)
class Column:
    """One column of a collection.

    Attributes:
        name: of the field.
        type: as servers since 2.3 and Milvus Lite know it; "words" is a text that BM25 reads, "sparse" its weights.
        size: bytes of a text, dimensions of a vector.
    """

    name: str
    type: ColumnType
    size: int = 0


SCALARS: Final = (
    Column("country", "text", 2),
    Column("category", "text", 1024),
    Column("remote", "int8"),
    Column("languages", "text", 65_535),
    Column("languages_known", "bool"),
    Column("rate", "double"),
    Column("available_day", "int64"),
    Column("latitude", "double"),
    Column("longitude", "double"),
    Column("mobility", "double"),
    Column("payload", "text", _PAYLOAD_BYTES),
    Column("profile", "text", _PROFILE_BYTES),
    Column("content_hash", "text", 64),
    Column("row_hash", "text", 64),
)
"""Of every collection; a language column for each frequent language comes on top."""

CHECKED: Final = ("languages", "latitude", "longitude", "mobility")
"""Columns that the checks after a search read."""


@dataclass(frozen=True)
class Layout:
    """The columns of one collection.

    Attributes:
        dim: D of the vectors.
        languages: those that have a BOOL column, sorted.
        bm25: whether the words of profiles are indexed too.
    """

    dim: int
    languages: tuple[str, ...]
    bm25: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, the key first."""
        languages = (Column(language_column(language), "bool") for language in self.languages)
        words = (Column(WORDS, "words", _PROFILE_BYTES), Column(BM25, "sparse")) if self.bm25 else ()
        return (Column(KEY, "key", _ID_BYTES), Column(VECTOR, "vector", self.dim), *SCALARS, *languages, *words)

    def entity(self, scalars: Mapping[str, Any], vector: Any) -> dict[str, Any]:
        """A row to insert: `scalars` (of `scalar_values`), the vector, and the language columns."""
        spoken = set(split_languages(scalars["languages"]))
        flags = {language_column(language): language in spoken for language in self.languages}
        words = {WORDS: profile_words(scalars["profile"])} if self.bm25 else {}
        return {**scalars, VECTOR: vector, **flags, **words}


def scalar_values(freelancer: Freelancer) -> dict[str, Any]:
    """Key and scalar columns of one freelancer, missing values as sentinels."""
    languages = sorted(set(freelancer.spoken_languages))[:_KEPT_LANGUAGES]
    located = freelancer.latitude is not None
    return {
        KEY: freelancer.freelancer_id,
        "country": freelancer.country or UNKNOWN_TEXT,
        "category": category_key(freelancer.job_category) if freelancer.job_category else UNKNOWN_TEXT,
        "remote": UNKNOWN_REMOTE if freelancer.remote is None else int(freelancer.remote),
        "languages": ",".join(languages),
        "languages_known": bool(languages),
        "rate": _known(freelancer.daily_rate_eur, UNKNOWN_RATE),
        "available_day": day_number(freelancer.available_from) if freelancer.available_from else UNKNOWN_DAY,
        "latitude": freelancer.latitude if located else UNKNOWN_DEGREES,
        "longitude": freelancer.longitude if located else UNKNOWN_DEGREES,
        "mobility": _known(freelancer.mobility_radius_km, NO_RADIUS),
        "payload": json.dumps(display_payload(freelancer), ensure_ascii=False, separators=(",", ":")),
        "profile": stored_profile(freelancer),
        "content_hash": freelancer.content_hash(),
        "row_hash": freelancer.row_hash(),
    }


def split_languages(languages: str) -> list[str]:
    """The codes in a `languages` column."""
    return languages.split(",") if languages else []


def _known(value: float | None, sentinel: float) -> float:
    return sentinel if value is None else float(value)


def display_payload(freelancer: Freelancer) -> dict[str, Any]:
    """What a result shows of a freelancer, cut so that it fits its column whatever the script."""
    shown = {
        "headline": freelancer.headline[:_SHOWN_TEXT],
        "skills": [skill[:_SHOWN_SKILL] for skill in freelancer.skills[:_SHOWN_SKILLS]],
        "language": freelancer.language,
        "job_category": _cut(freelancer.job_category),
        "country": freelancer.country,
        "city": _cut(freelancer.city),
        "latitude": freelancer.latitude,
        "longitude": freelancer.longitude,
        "mobility_radius_km": freelancer.mobility_radius_km,
        "remote": freelancer.remote,
        "spoken_languages": list(freelancer.spoken_languages[:_SHOWN_SKILLS]),
        "daily_rate_eur": freelancer.daily_rate_eur,
        "available_from": freelancer.available_from.isoformat() if freelancer.available_from else None,
    }
    return {name: value for name, value in shown.items() if value not in (None, [])}


def stored_profile(freelancer: Freelancer) -> str:
    """JSON of what the encoder reads of a freelancer, for explanations; long texts cut until it fits its column."""
    fields = {"freelancer_id", "headline", "description", "skills", "soft_skills", "experiences"}
    whole = freelancer.model_dump(mode="json", include=fields, exclude_none=True)
    texts = (json.dumps(_shortened(whole, cut), ensure_ascii=False, separators=(",", ":")) for cut in _PROFILE_CUTS)
    return next((text for text in texts if len(text.encode()) <= _PROFILE_BYTES), "{}")


def profile_words(profile: str) -> str:
    """The texts of all sections of a stored profile; shorter than the profile itself, so that they fit too."""
    return document_words(Freelancer.model_validate_json(profile)) if profile != "{}" else ""


def document_words(document: Document) -> str:
    """What BM25 reads of a freelancer or a project."""
    return "\n".join(section.text for section in document.sections())


def _shortened(value: Any, cut: int) -> Any:
    """`value` with texts of `cut` characters and lists of `cut` / 10 entries at most."""
    if isinstance(value, str):
        return value[:cut]
    if isinstance(value, dict):
        return {name: _shortened(part, cut) for name, part in value.items()}
    return [_shortened(part, cut) for part in value[: cut // 10]]


def _cut(text: str | None) -> str | None:
    return text[:_SHOWN_TEXT] if text else None


def frequent_languages(counts: Counter[str], limit: int = MAX_LANGUAGE_COLUMNS) -> tuple[str, ...]:
    """The languages that get a column of their own, sorted."""
    ranked = sorted(counts, key=lambda language: (-counts[language], language))
    return tuple(sorted(ranked[:limit]))
