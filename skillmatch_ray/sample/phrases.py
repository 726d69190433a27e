"""Sentence material of the sample generator, one file a language: templates with named slots."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from skillmatch_ray.sample.taxonomy import LANGUAGES, TaxonomyError

PHRASES_DIRECTORY: Final = Path(__file__).parent / "phrases"

SLOTS: Final = frozenset({"title", "skill", "skill2", "skills", "task", "years", "sector", "company", "city"})
PLAIN_KEYS: Final = frozenset({"sectors", "soft_skills"})
"""Lists of words, without slots."""
SKILL_SLOTS_OF: Final = {
    "bio_skills": (frozenset({"skill"}), frozenset({"skill", "skill2"})),
    "project_musts": (frozenset({"skills"}),),
    "project_nices": (frozenset({"skills"}),),
}
"""The slots of templates that tell what the skill lists leave out; a skill that they miss would stay untold."""
KEYS: Final = (
    "generic_headlines", "headlines", "bio_openers", "bio_skills", "bio_tasks", "bio_asides", "bio_style",
    "bio_closers", "experience_descriptions", "experience_asides", "project_generic_titles", "project_titles",
    "project_contexts", "project_needs", "project_musts", "project_nices", "project_asides", "project_closers",
    "short_queries", "sectors", "soft_skills",
)  # fmt: skip

_AND: Final = {"en": " and ", "fr": " et ", "de": " und ", "es": " y ", "nl": " en "}


@dataclass(frozen=True)
class Template:
    """One phrase with its slots."""

    text: str
    slots: frozenset[str]

    def fill(self, values: Mapping[str, str]) -> str:
        """The phrase with its slots filled, beginning with a capital.

        Raises:
            KeyError: if a slot has no value.
        """
        text = self.text.format_map(values)
        return text[:1].upper() + text[1:]


@dataclass(frozen=True)
class Phrases:
    """The templates of one language.

    Attributes:
        language: ISO 639-1.
        templates: key -> templates.
    """

    language: str
    templates: Mapping[str, tuple[Template, ...]]

    def words(self, key: str) -> tuple[str, ...]:
        """The words of a key without slots."""
        return tuple(template.text for template in self.templates[key])

    def join(self, labels: Sequence[str]) -> str:
        """An enumeration in prose: "a, b and c"."""
        if len(labels) < 2:
            return "".join(labels)
        conjunction = _AND[self.language]
        if self.language == "es" and labels[-1][:1].lower() in {"i", "í"}:
            conjunction = " e "
        return ", ".join(labels[:-1]) + conjunction + labels[-1]


@cache
def builtin_phrases() -> Mapping[str, Phrases]:
    """The phrases that come with the package, by language.

    Raises:
        TaxonomyError: if a file cannot be used.
    """
    return {language: read_phrases(PHRASES_DIRECTORY / f"{language}.yaml", language) for language in LANGUAGES}


def read_phrases(file: Path, language: str) -> Phrases:
    """Read and check one file of phrases.

    Raises:
        TaxonomyError: naming the file, the key and the phrase that cannot be used.
    """
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    except (FileNotFoundError, yaml.YAMLError) as e:
        raise TaxonomyError(f"phrase file {file} is missing or not valid YAML: {e}") from e
    if not isinstance(content, dict) or set(content) != set(KEYS):
        found = set(content) if isinstance(content, dict) else set()
        raise TaxonomyError(
            f"phrase file {file}: missing keys {sorted(set(KEYS) - found)}, unknown keys {sorted(found - set(KEYS))}"
        )
    phrases = Phrases(language, {key: _templates(file, key, content[key]) for key in KEYS})
    for key, needed in SKILL_SLOTS_OF.items():
        if {template.slots for template in phrases.templates[key]} != set(needed):
            forms = " and ".join(" ".join(f"{{{slot}}}" for slot in sorted(slots)) for slots in needed)
            raise TaxonomyError(f"phrase file {file}: {key} needs phrases with the slots {forms}, and no others")
    return phrases


def _templates(file: Path, key: str, phrases: Any) -> tuple[Template, ...]:
    if not isinstance(phrases, list) or not phrases:
        raise TaxonomyError(f"phrase file {file}: {key} must be a list of phrases")
    return tuple(_template(f"phrase file {file}: {key}", key, phrase) for phrase in phrases)


def _template(where: str, key: str, phrase: Any) -> Template:
    if not isinstance(phrase, str) or not phrase.strip():
        raise TaxonomyError(f"{where}: {phrase!r} is not a phrase (quote it)")
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(phrase) if name is not None]
    except ValueError as e:
        raise TaxonomyError(f"{where}: {phrase!r} has broken braces: {e}") from e
    if unknown := set(names) - SLOTS:
        raise TaxonomyError(f"{where}: {phrase!r} has unknown slots {sorted(unknown)}; known are {sorted(SLOTS)}")
    slots = frozenset(names)
    if key in PLAIN_KEYS and slots:
        raise TaxonomyError(f"{where}: {phrase!r} must not have slots")
    return Template(phrase.strip(), slots)
