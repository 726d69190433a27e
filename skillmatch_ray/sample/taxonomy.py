"""Occupations and their skills, named in several languages: the built-in taxonomy, and what any taxonomy must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from skillmatch_ray.errors import SkillmatchError
from skillmatch_ray.files import hash_json
from skillmatch_ray.glossary import Labels

LANGUAGES: Final = ("en", "fr", "de", "es", "nl")
"""The languages in which every label of a taxonomy is known."""

BUILTIN_DIRECTORY: Final = Path(__file__).parent / "taxonomy"


class TaxonomyError(SkillmatchError):
    """A taxonomy that cannot be used as it stands."""


@dataclass(frozen=True)
class Occupation:
    """One trade.

    Attributes:
        id: unique in the taxonomy.
        category: id of its job category.
        titles: how people of the trade call themselves.
        skills: ids of core skills.
        optional: ids of further skills, none of them core.
        related: ids of confusable occupations, the most alike first.
        tasks: noun phrases for typical work; languages are missing where the taxonomy tells none.
    """

    id: str
    category: str
    titles: Labels
    skills: tuple[str, ...]
    optional: tuple[str, ...]
    related: tuple[str, ...]
    tasks: Labels


@dataclass(frozen=True)
class Taxonomy:
    """Occupations, skills and job categories.

    Attributes:
        name: "builtin", or where it was read from.
        categories: category id -> language -> label.
        skills: skill id -> language -> labels.
        occupations: in a fixed order.
    """

    name: str
    categories: Mapping[str, Mapping[str, str]]
    skills: Mapping[str, Labels]
    occupations: tuple[Occupation, ...]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything it says, its name aside."""
        occupations = [
            [o.id, o.category, dict(o.titles), o.skills, o.optional, o.related, dict(o.tasks)] for o in self.occupations
        ]
        return hash_json([self.categories, self.skills, occupations])

    def problems(self) -> list[str]:
        """What makes the taxonomy unusable, in words; empty if it is whole."""
        ids = [occupation.id for occupation in self.occupations]
        found = [f"occupation {o!r} stands there twice" for o in sorted({o for o in ids if ids.count(o) > 1})]
        for skill, labels in self.skills.items():
            found += _missing(labels, f"skill {skill!r}")
        for occupation in self.occupations:
            found += self._problems_of(occupation, set(ids))
        return found

    def _problems_of(self, occupation: Occupation, ids: set[str]) -> list[str]:
        where = f"occupation {occupation.id!r}"
        found = _missing(occupation.titles, f"{where}: titles")
        unknown = [s for s in (*occupation.skills, *occupation.optional) if s not in self.skills]
        found += [f"{where}: unknown skill {skill!r}" for skill in unknown]
        found += [f"{where}: unknown related occupation {other!r}" for other in occupation.related if other not in ids]
        if occupation.category not in self.categories:
            found.append(f"{where}: unknown category {occupation.category!r}")
        if len(occupation.skills) < 4:
            found.append(f"{where}: {len(occupation.skills)} core skills, at least 4 are needed")
        return found

    def checked(self) -> Taxonomy:
        """Itself, once it is known to be whole.

        Raises:
            TaxonomyError: naming the first problems.
        """
        problems = self.problems()
        if not self.occupations:
            problems.append("no usable occupation")
        if problems:
            more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
            raise TaxonomyError(f"taxonomy {self.name}: {'; '.join(problems[:5])}{more}. Mend these entries.")
        return self


def _missing(labels: Labels, where: str) -> list[str]:
    return [f"{where} has no label in {language!r}" for language in LANGUAGES if not labels.get(language)]


def unique(items: Iterable[str]) -> tuple[str, ...]:
    """Each item once, in the order of first sight."""
    return tuple(dict.fromkeys(items))


def merged_labels(first: Labels, second: Labels) -> dict[str, tuple[str, ...]]:
    """Union of two label sets, language by language."""
    return {language: unique((*first.get(language, ()), *second.get(language, ()))) for language in LANGUAGES}


@cache
def builtin_taxonomy() -> Taxonomy:
    """The taxonomy that comes with the package.

    Raises:
        TaxonomyError: if one of its files cannot be used.
    """
    return taxonomy_from_yaml(sorted(BUILTIN_DIRECTORY.glob("*.yaml")), "builtin")


def taxonomy_from_yaml(files: Iterable[Path], name: str) -> Taxonomy:
    """One taxonomy of several files, one job category each; the same skill id in two files is one skill.

    Raises:
        TaxonomyError: if a file is not of the form, or names something that is nowhere.
    """
    categories: dict[str, Mapping[str, str]] = {}
    skills: dict[str, Labels] = {}
    occupations: list[Occupation] = []
    for file in files:
        content = _read_yaml(file)
        try:
            categories[content["category"]["id"]] = dict(content["category"]["label"])
            for skill, labels in content["skills"].items():
                skills[skill] = merged_labels(skills.get(skill, {}), _labels(labels))
            occupations += [_occupation(entry, content["category"]["id"]) for entry in content["occupations"]]
        except (KeyError, TypeError, AttributeError) as e:
            raise TaxonomyError(
                f"taxonomy file {file} is not of the form category / skills / occupations: {type(e).__name__} {e}"
            ) from e
    return Taxonomy(name, categories, skills, tuple(occupations)).checked()


def _read_yaml(file: Path) -> Any:
    # The parser in C is five times as fast and as safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    except yaml.YAMLError as e:
        raise TaxonomyError(f"taxonomy file {file} is not valid YAML: {e}") from e


def _labels(entry: Mapping[str, list[str]]) -> Labels:
    return {language: unique(labels) for language, labels in entry.items()}


def _occupation(entry: Mapping[str, Any], category: str) -> Occupation:
    core = unique(entry["skills"])
    return Occupation(
        id=entry["id"],
        category=category,
        titles=_labels(entry["title"]),
        skills=core,
        optional=tuple(skill for skill in unique(entry["optional"]) if skill not in core),
        related=unique(entry["related"]),
        tasks=_labels(entry["tasks"]),
    )
