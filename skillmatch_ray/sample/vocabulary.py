"""Concepts of working life named in several languages: the built-in vocabulary, and what users bring along."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from skillmatch_ray.config import BUILTIN
from skillmatch_ray.glossary import Glossary, Labels, concepts_in
from skillmatch_ray.sample.parquet_taxonomy import read_taxonomy
from skillmatch_ray.sample.taxonomy import Taxonomy, builtin_taxonomy, taxonomy_from_yaml

VOCABULARY_DIRECTORY: Final = Path(__file__).parent / "vocabulary"
"""A file for each domain; a line for each concept, which is in no other file."""


@cache
def builtin_vocabulary() -> tuple[Labels, ...]:
    """Activities, fields, tools and trades of some fifty domains in English, French, German, Spanish and Dutch."""
    return tuple(labels for file in sorted(VOCABULARY_DIRECTORY.glob("*.jsonl")) for labels in concepts_in(file))


def vocabulary(sources: Iterable[Path] = ()) -> tuple[Labels, ...]:
    """The built-in vocabulary, and the concepts of each source beside it.

    Raises:
        TaxonomyError: if a taxonomy cannot be used.
        ConfigError: if a file cannot be read, or one of its lines is of another form.
    """
    return (*builtin_vocabulary(), *(labels for source in sources for labels in read_concepts(source)))


def read_concepts(source: Path) -> list[Labels]:
    """Labels of each concept that is named in two languages or more, without the languages that have no name for it.

    Args:
        source: a file of JSON Lines such as `{"en": ["invoice", "bill"], "fr": ["facture"]}`, or a directory with a
            taxonomy, in Parquet as `skillmatch sample --taxonomy` takes it or in YAML as the built-in one is.

    Raises:
        TaxonomyError: if the taxonomy cannot be used.
        ConfigError: if the file cannot be read, or a line is of another form.
    """
    if not source.is_dir():
        found = list(concepts_in(source))
    else:
        files = sorted(source.glob("*.yaml"))
        found = _concepts_of(taxonomy_from_yaml(files, source.name) if files else read_taxonomy(source))
    named = [{language: names for language, names in labels.items() if names} for labels in found]
    return [labels for labels in named if len(labels) > 1]


def read_glossary(sources: Iterable[str]) -> Glossary:
    """The concepts of all sources, in their order; none where there are no sources.

    Args:
        sources: `BUILTIN`, or what `read_concepts` takes.

    Raises:
        TaxonomyError: if a taxonomy cannot be used.
        ConfigError: if a file cannot be read, or one of its lines is of another form.
    """
    return Glossary(tuple(labels for source in sources for labels in _concepts_from(source)))


def _concepts_from(source: str) -> Iterable[Labels]:
    if source != BUILTIN:
        return read_concepts(Path(source))
    return [*builtin_vocabulary(), *_concepts_of(builtin_taxonomy())]


def _concepts_of(taxonomy: Taxonomy) -> list[Labels]:
    return [*taxonomy.skills.values(), *(occupation.titles for occupation in taxonomy.occupations)]
