"""The two kinds of document, freelancer and project, and the typed sections that they are made of."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from skillmatch_ray.files import hash_json

LANGUAGE_PATTERN = r"^[a-z]{2,3}$"
COUNTRY_PATTERN = r"^[A-Z]{2}$"

DocumentKind = Literal["project", "freelancer"]


def _clean_number(value: Any) -> Any:
    """NaN is how data frames write a missing value, in columns of text and lists too."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _clean_text(value: Any) -> Any:
    r"""Drop what no reader sees: NUL and lone surrogates (broken UTF-8), and outer white space.

    Example:
        >>> _clean_text(" Caf\u00e9\x00\ud800 ")
        'Café'
        >>> _clean_text("  ") is _clean_text(float("nan")) is None
        True
    """
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode().replace("\x00", "").strip() or None
    return _clean_number(value)


def _clean_list(value: Any) -> Any:
    value = _clean_number(value)
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        cleaned = (_clean_text(item) for item in value)
        return tuple(item for item in cleaned if item is not None)
    return value


def _clean_rows(value: Any) -> Any:
    cleaned = _clean_number(value)
    return () if cleaned is None else cleaned


def _lower(value: Any) -> Any:
    cleaned = _clean_text(value)
    return cleaned.lower() if isinstance(cleaned, str) else cleaned


def _upper(value: Any) -> Any:
    cleaned = _clean_text(value)
    return cleaned.upper() if isinstance(cleaned, str) else cleaned


def _lower_list(value: Any) -> Any:
    cleaned = _clean_list(value)
    return tuple(_lower(item) for item in cleaned) if isinstance(cleaned, tuple) else cleaned


def _as_date(value: Any) -> Any:
    """A timestamp counts for its day."""
    if isinstance(value, dt.datetime):
        return value.date()
    cleaned = _clean_text(value)
    return cleaned[:10] if isinstance(cleaned, str) else cleaned


def _as_moment(value: Any) -> Any:
    cleaned = _clean_text(value)
    if isinstance(cleaned, dt.date) and not isinstance(cleaned, dt.datetime):
        return dt.datetime.combine(cleaned, dt.time())
    return cleaned


def _in_utc(value: dt.datetime | None) -> dt.datetime | None:
    """A time without a zone is taken as UTC, so that all moments can be compared."""
    if value is None or value.tzinfo is None:
        return value and value.replace(tzinfo=dt.UTC)
    try:
        return value.astimezone(dt.UTC)
    except OverflowError as e:
        raise ValueError("the moment is outside the years 1 to 9999 in UTC") from e


Text = Annotated[str | None, BeforeValidator(_clean_text)]
RequiredText = Annotated[str, BeforeValidator(_clean_text), Field(min_length=1)]
TextList = Annotated[tuple[str, ...], BeforeValidator(_clean_list)]
LanguageCode = Annotated[str, StringConstraints(pattern=LANGUAGE_PATTERN)]
Language = Annotated[LanguageCode | None, BeforeValidator(_lower)]
LanguageList = Annotated[tuple[LanguageCode, ...], BeforeValidator(_lower_list)]
Country = Annotated[Annotated[str, StringConstraints(pattern=COUNTRY_PATTERN)] | None, BeforeValidator(_upper)]
Latitude = Annotated[Annotated[float, Field(ge=-90, le=90)] | None, BeforeValidator(_clean_number)]
Longitude = Annotated[Annotated[float, Field(ge=-180, le=180)] | None, BeforeValidator(_clean_number)]
Amount = Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, BeforeValidator(_clean_number)]
Flag = Annotated[bool | None, BeforeValidator(_clean_number)]
Day = Annotated[dt.date | None, BeforeValidator(_as_date)]
Moment = Annotated[dt.datetime | None, BeforeValidator(_as_moment), AfterValidator(_in_utc)]
DocumentId = Annotated[str, BeforeValidator(_clean_text), Field(min_length=1, max_length=256)]


@dataclass(frozen=True)
class Section:
    """One typed piece of a document; the backbone encodes each on its own."""

    type: str
    text: str
    labels: tuple[str, ...] = ()
    """Skill labels that the text lists, in order; empty for prose."""


class _Record(BaseModel):
    """Common to every row of a dataset: frozen, unknown columns left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class Experience(_Record):
    """One past assignment of a freelancer."""

    title: Text = None
    description: Text = None
    skills: TextList = ()

    def section(self) -> Section | None:
        """The experience as one section: title, description, skills; None where all are empty."""
        prose = ". ".join(part.rstrip(".") for part in (self.title, self.description) if part)
        text = ". ".join(part for part in (prose, ", ".join(self.skills)) if part)
        return Section("experience", text, self.skills) if text else None


class Document(_Record):
    """What freelancers and projects share: typed sections of one language."""

    kind: ClassVar[DocumentKind]

    description: Text = None
    skills: TextList = ()
    concepts: TextList = ()
    """Names of what the document is about in one language for all, where that is known; `glossary` finds them."""
    language: Language = None
    job_category: Text = None
    country: Country = None
    latitude: Latitude = None
    longitude: Longitude = None
    remote: Flag = None
    spoken_languages: LanguageList = ()

    @property
    def id(self) -> str:
        """The key of the document within its kind."""
        raise NotImplementedError

    def sections(self) -> list[Section]:
        """The non-empty sections, in reading order."""
        raise NotImplementedError

    def content_hash(self) -> str:
        """SHA-256 (hex) of what the encoder reads; equal hashes mean equal vectors."""
        return hash_json([[section.type, section.text] for section in self.sections()])

    def row_hash(self) -> str:
        """SHA-256 (hex) of the whole row, filter fields included."""
        return hash_json(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _location_is_whole(self) -> Document:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError(
                f"latitude ({self.latitude}) and longitude ({self.longitude}) must both be given or both be missing"
            )
        return self


def _skill_section(section_type: str, skills: tuple[str, ...]) -> list[Section]:
    return [Section(section_type, ", ".join(skills), skills)] if skills else []


def _text_section(section_type: str, text: str | None) -> list[Section]:
    return [Section(section_type, text)] if text else []


class Freelancer(Document):
    """A freelancer's profile (design: freelancers table)."""

    kind = "freelancer"

    freelancer_id: DocumentId
    headline: RequiredText
    soft_skills: TextList = ()
    experiences: Annotated[tuple[Experience, ...], BeforeValidator(_clean_rows)] = ()
    city: Text = None
    mobility_radius_km: Amount = None
    daily_rate_eur: Amount = None
    available_from: Day = None
    updated_at: Moment = None

    @property
    def id(self) -> str:
        """The freelancer_id."""
        return self.freelancer_id

    def sections(self) -> list[Section]:
        """headline, skills, description, soft_skills, one section for each experience, concepts."""
        experiences = (experience.section() for experience in self.experiences)
        return [
            *_text_section("headline", self.headline),
            *_skill_section("skills", self.skills),
            *_text_section("description", self.description),
            *_skill_section("soft_skills", self.soft_skills),
            *(section for section in experiences if section),
            *_skill_section("concepts", self.concepts),
        ]


class Project(Document):
    """A client's brief, with the wishes that become filters (design: projects table)."""

    kind = "project"

    project_id: DocumentId
    title: RequiredText
    radius_km: Amount = None
    max_daily_rate_eur: Amount = None
    start_date: Day = None
    created_at: Moment = None

    @property
    def id(self) -> str:
        """The project_id."""
        return self.project_id

    def sections(self) -> list[Section]:
        """title, skills, description, concepts."""
        return [
            *_text_section("title", self.title),
            *_skill_section("skills", self.skills),
            *_text_section("description", self.description),
            *_skill_section("concepts", self.concepts),
        ]


SECTION_TYPES: tuple[str, ...] = (
    "title",
    "headline",
    "skills",
    "description",
    "soft_skills",
    "experience",
    "concepts",
)
"""The built-in section types; a model's configuration may name more."""
