"""What each section of a document is worth, the usual ones and some that documents do not have yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from skillmatch_ray.documents import SECTION_TYPES, Document, Freelancer, Project, Section
from skillmatch_ray.studies.material import Material
from skillmatch_ray.studies.study import Contrast, Study, Variant


class ExtendedProject(Project):
    """A project with sections beside its own."""

    extra: tuple[Section, ...] = ()

    def sections(self) -> list[Section]:
        """The usual ones, then the extra."""
        return [*super().sections(), *self.extra]


class ExtendedFreelancer(Freelancer):
    """A freelancer with sections beside their own."""

    extra: tuple[Section, ...] = ()

    def sections(self) -> list[Section]:
        """The usual ones, then the extra."""
        return [*super().sections(), *self.extra]


@dataclass(frozen=True)
class AddSection:
    """Give every document, in training and in evaluation, one more section where it has something to say.

    Attributes:
        type: "category", "place", "languages" or "roles".
    """

    type: str

    def __call__(self, material: Material, seed: int) -> Material:
        """Nothing is drawn."""
        del seed
        return material.with_all(self._project, self._freelancer)

    def _project(self, project: Project) -> Project:
        return ExtendedProject.model_construct(**dict(project), extra=self._sections(project))

    def _freelancer(self, freelancer: Freelancer) -> Freelancer:
        return ExtendedFreelancer.model_construct(**dict(freelancer), extra=self._sections(freelancer))

    def _sections(self, document: Document) -> tuple[Section, ...]:
        text = extra_text(self.type, document)
        return (Section(self.type, text),) if text else ()


def extra_text(section_type: str, document: Document) -> str:
    """What a document says in a section of a new type; "" where it says nothing."""
    if section_type == "category":
        return (document.job_category or "").replace("-", " ").replace("_", " ")
    if section_type == "languages":
        return ", ".join(document.spoken_languages)
    if section_type == "place":
        return ", ".join(part for part in (getattr(document, "city", None), document.country) if part)
    if section_type == "roles":
        experiences = document.experiences if isinstance(document, Freelancer) else ()
        return ", ".join(experience.title for experience in experiences if experience.title)
    raise ValueError(f"unknown section type {section_type!r}: category, languages, place or roles")


def _types(types: Sequence[str]) -> dict[str, Any]:
    return {"model": {"section_types": list(types)}}


def _without(*types: str) -> dict[str, Any]:
    return _types([name for name in SECTION_TYPES if name not in types])


def _new(section_type: str, label: str) -> Variant:
    return Variant(
        f"new-{section_type}",
        f"all and {label}",
        _types([*SECTION_TYPES, section_type]),
        change=AddSection(section_type),
    )


_TITLES = ("title", "headline")

STUDY = Study(
    name="sections",
    summary="each section type removed and added, among them new ones: category, place, languages, roles",
    question=(
        "What is each section worth? Heads are trained and measured on documents without it, on documents that grow "
        "section by section from the title on, and on documents with a section that they do not have yet: the job "
        "category, the place, the spoken languages, the titles of past roles apart from their descriptions."
    ),
    variants=(
        Variant("all", "all sections", headline=True),
        Variant("no-title", "without titles", _without(*_TITLES), headline=True),
        Variant("no-skills", "without skills", _without("skills"), headline=True),
        Variant("no-description", "without descriptions", _without("description")),
        Variant("no-experience", "without experiences", _without("experience")),
        Variant("no-soft-skills", "without soft skills", _without("soft_skills")),
        Variant("title", "titles only", _types(_TITLES)),
        Variant("title-skills", "titles and skills", _types([*_TITLES, "skills"])),
        Variant(
            "title-skills-description", "titles, skills, descriptions", _types([*_TITLES, "skills", "description"])
        ),
        _new("category", "the job category"),
        _new("place", "the place"),
        _new("languages", "the spoken languages"),
        _new("roles", "the titles of roles"),
    ),
    contrasts=(
        *(Contrast(f"no-{name}", "all") for name in ("title", "skills", "description", "experience", "soft-skills")),
        Contrast("title-skills", "title"),
        Contrast("title-skills-description", "title-skills"),
        *(Contrast(f"new-{name}", "all") for name in ("category", "place", "languages", "roles")),
    ),
    notes=("Removing a section type removes it from both sides; only titles and headlines are one type here.",),
)
