"""A glossary: concepts that are named in several languages, and found in documents by these names.

A backbone puts rare words in other places for each language. What a marketplace knows to be one thing need not be
learned: the concepts that a document names are told once more, in one language for all, as a section of their own.
That is the dictionary of cross-language retrieval (Ballesteros and Croft, SIGIR 1997), asked on both sides; our own
addition to arXiv 2409.12097.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from skillmatch_ray.documents import Document
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import hash_json

DocumentT = TypeVar("DocumentT", bound=Document)

Labels = Mapping[str, tuple[str, ...]]
"""Language -> names of one concept, the usual one first."""

COMMON_LANGUAGE: Final = "en"
"""Concepts are told in it; those without a name in it in the first language that they have one in."""

SHORT: Final = 3
"""A lone word of so few characters counts only as it is written: "IT" is not "it"."""

_LINE: Final = TypeAdapter(dict[str, tuple[str, ...]])
_WORD: Final = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Glossary:
    """Finds the concepts that documents name.

    Attributes:
        concepts: in order; of two that share a name the first is found.

    Example:
        >>> glossary = Glossary(({"en": ("bookkeeping",), "fr": ("comptabilité", "tenue des comptes")},))
        >>> glossary.find("La tenue des comptes, sans paie", "fr")
        ('bookkeeping',)
    """

    concepts: tuple[Labels, ...] = ()
    _lookups: dict[str | None, _Names] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __bool__(self) -> bool:
        """Whether there is any concept."""
        return bool(self.concepts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of all names, in order."""
        return hash_json([dict(labels) for labels in self.concepts])

    def read(self, document: DocumentT) -> DocumentT:
        """The document with the concepts that it names; as it is where it brings its own, or names none."""
        if not self.concepts or document.concepts:
            return document
        found = self.find("\n".join(section.text for section in document.sections()), document.language)
        return document.model_copy(update={"concepts": found}) if found else document

    def find(self, text: str, language: str | None = None) -> tuple[str, ...]:
        """The concepts named in a text, each once, in `COMMON_LANGUAGE`, sorted.

        The same concepts are told in the same words, in whatever order and language they are mentioned. Of names that
        overlap the longest counts. Names are those of the text's language, and English ones of several words, which
        stand in texts of all languages (of one word they would mislead: German "Art" is no art); where the language is
        None or has no names, those of every language.
        """
        names, words, found, at = self._names(language), words_of(text), set[str](), 0
        while at < len(words):
            length, name = names.longest_at(words, at)
            found.add(name)
            at += length
        return tuple(sorted(found - {""}))

    def knows(self, name: str, language: str | None = None) -> bool:
        """Whether this is, as a whole, the name of a concept."""
        words = words_of(name)
        length, concept = self._names(language).longest_at(words, 0) if words else (0, "")
        return bool(concept) and length == len(words)

    def languages(self) -> dict[str, int]:
        """Language -> how many names it has."""
        spoken = sorted({language for labels in self.concepts for language in labels})
        return {language: sum(len(labels.get(language, ())) for labels in self.concepts) for language in spoken}

    def save(self, file: Path) -> None:
        """Write JSON Lines, one concept each, as `read_concepts` reads them."""
        lines = (json.dumps(dict(labels), ensure_ascii=False) + "\n" for labels in self.concepts)
        file.write_text("".join(lines), encoding="utf-8")

    def _names(self, language: str | None) -> _Names:
        if language not in self._lookups:
            self._lookups[language] = self._collect(language)
        return self._lookups[language]

    def _collect(self, language: str | None) -> _Names:
        names = _Names()
        known = language if any(language in labels for labels in self.concepts) else None
        for label, concept in self._labels(known):
            names.add(label, concept)
        for label, concept in self._labels(COMMON_LANGUAGE) if known else ():
            names.add(label, concept, least=2)
        return names

    def _labels(self, language: str | None) -> Iterator[tuple[str, str]]:
        """(name, concept) of all names in a language, of every language where it is None."""
        for labels in self.concepts:
            for spoken, own in labels.items():
                if language in (None, spoken):
                    yield from ((label, told(labels)) for label in own)


NO_GLOSSARY: Final = Glossary()


class _Names:
    """Names by their words."""

    def __init__(self) -> None:
        self._concepts: dict[tuple[str, ...], str] = {}
        self._longest: dict[str, int] = {}
        """First word -> most words of a name that begins with it."""

    def add(self, label: str, concept: str, least: int = 1) -> None:
        """Take up a name of `least` words or more, unless it is another concept's already."""
        words = words_of(label)
        if len(words) >= least:
            self._concepts.setdefault(_key(words), concept)
            first = words[0].casefold()
            self._longest[first] = max(len(words), self._longest.get(first, 0))

    def longest_at(self, words: Sequence[str], at: int) -> tuple[int, str]:
        """(words, concept) of the longest name that begins at a place; (1, "") where none does."""
        longest = min(self._longest.get(words[at].casefold(), 0), len(words) - at)
        for length in range(longest, 0, -1):
            concept = self._concepts.get(_key(words[at : at + length]))
            if concept:
                return length, concept
        return 1, ""


def told(labels: Labels) -> str:
    """The name under which a concept is told."""
    return (labels.get(COMMON_LANGUAGE) or next(iter(labels.values())))[0]


def words_of(text: str) -> list[str]:
    """Words and signs, as written.

    >>> words_of("C++, Node.js")
    ['C', '+', '+', ',', 'Node', '.', 'js']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text))


def _key(words: Sequence[str]) -> tuple[str, ...]:
    as_written = len(words) == 1 and len(words[0]) <= SHORT
    return tuple(words) if as_written else tuple(word.casefold() for word in words)


def concepts_in(file: Path) -> Iterator[Labels]:
    """Concepts of a file of JSON Lines.

    Raises:
        ConfigError: if the file cannot be read, or one of its lines is of another form.
    """
    try:
        lines = file.read_bytes().splitlines()
    except OSError as e:
        raise ConfigError(f"{file} cannot be read ({e.strerror}): name a file of JSON Lines, or a directory") from e
    for number, line in enumerate(lines, 1):
        try:
            yield _LINE.validate_json(line)
        except ValidationError as e:
            raise ConfigError(
                f"{file}, line {number}: {e.errors()[0]['msg']}; wanted is "
                '{"en": ["invoice", "bill"], "fr": ["facture"]}'
            ) from e
