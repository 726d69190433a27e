"""A taxonomy as Parquet files: concepts, relations and group labels, the form in which ESCO can be laid out.

concepts.parquet   uri, kind (occupation|skill), group (occupations: ISCO code or category id), lang,
                   preferred, alt (list); one row for a concept and language. Columns `tasks` and `related`
                   (lists, occupations only) may be added; other columns are left out.
relations.parquet  occupation_uri, skill_uri, relation (essential|optional)
groups.parquet     code, lang, label (labels of job categories)
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.glossary import Labels
from skillmatch_ray.sample.taxonomy import LANGUAGES, Occupation, Taxonomy, TaxonomyError, unique

FILES: Final = ("concepts.parquet", "relations.parquet", "groups.parquet")
MIN_CORE_SKILLS: Final = 8
MAX_CORE_SKILLS: Final = 16
"""Essential skills beyond these count as optional: a brief asks for a few of a trade's skills, not for sixty."""
MAX_LABELS: Final = 5
MAX_RELATED: Final = 4

_GENDER_ENDINGS: Final = ("in", "innen")


def stable_order(items: Iterable[str], salt: str) -> list[str]:
    """The items in an order that depends on nothing but themselves and `salt`."""
    return sorted(items, key=lambda item: hashlib.blake2b(f"{salt}|{item}".encode(), digest_size=8).digest())


def split_label(label: str) -> tuple[str, ...]:
    """The labels in a "masculine/feminine" label; a slash that joins anything else stays.

    >>> split_label("Technischer Leiter/Technische Leiterin")
    ('Technischer Leiter', 'Technische Leiterin')
    >>> split_label("leraar/lerares lager onderwijs")
    ('leraar lager onderwijs', 'lerares lager onderwijs')
    >>> split_label("Ausbilder/in im Handwerk")
    ('Ausbilder im Handwerk', 'Ausbilderin im Handwerk')
    >>> split_label("CA Datacom/DB")
    ('CA Datacom/DB',)
    """
    label = label.strip(" /")
    if "/" not in label:
        return (label,) if label else ()
    return _split_halves(label) or _split_words(label) or (label,)


def _split_halves(label: str) -> tuple[str, ...]:
    parts = label.split("/")
    if len(parts) % 2:
        return ()
    middle = len(parts) // 2
    left, right = ("/".join(half).strip() for half in (parts[:middle], parts[middle:]))
    words = left.split(), right.split()
    if len(words[0]) != len(words[1]) or right in _GENDER_ENDINGS:
        return ()
    alike = all(_same_stem(a, b) for a, b in zip(*words, strict=True))
    pair_of_words = len(words[0]) == 1 and min(len(left), len(right)) >= 3
    return (left, right) if alike or pair_of_words else ()


def _split_words(label: str) -> tuple[str, ...]:
    forms = [_word_forms(word) for word in label.split()]
    if all(first == second for first, second in forms):
        return ()
    return " ".join(first for first, _ in forms), " ".join(second for _, second in forms)


def _word_forms(word: str) -> tuple[str, str]:
    first, slash, second = word.partition("/")
    if not slash or "/" in second or first.endswith("-"):
        return word, word
    if second in _GENDER_ENDINGS:
        return first, first + second
    return (first, second) if _same_stem(first, second) else (word, word)


def _same_stem(a: str, b: str) -> bool:
    """Whether two words may be forms of one: equal, or alike in their first letters."""
    needed = min(3, len(a), len(b))
    return re.sub(r"\W", "", a)[:needed].lower() == re.sub(r"\W", "", b)[:needed].lower()


def read_taxonomy(directory: Path) -> Taxonomy:
    """Read a taxonomy in the Parquet form.

    Kept are skills labelled in all languages, and occupations with titles in all languages and at
    least `MIN_CORE_SKILLS` such essential skills. The job category of an ISCO-coded occupation is its
    two-digit group.

    Raises:
        TaxonomyError: if a file or a column is missing, or nothing usable is left.
    """
    tables = {name: _read(directory / name) for name in FILES}
    skills, titles, groups, tasks, related = _concepts(tables["concepts.parquet"], directory)
    relations = _relations(tables["relations.parquet"], skills, directory)
    occupations = {
        uri: _occupation(uri, groups[uri], titles[uri], relations[uri], tasks.get(uri, {}))
        for uri in sorted(titles)
        if len(relations[uri][0]) >= MIN_CORE_SKILLS
    }
    stated = {uri: tuple(o for o in related.get(uri, ()) if o in occupations) for uri in occupations}
    linked = [_with_related(o, stated[o.id] or nearest) for o, nearest in _nearest(occupations)]
    used = {skill for occupation in linked for skill in (*occupation.skills, *occupation.optional)}
    labels = _group_labels(tables["groups.parquet"])
    categories = {o.category: labels.get(o.category, {"en": o.category}) for o in linked}
    kept = {skill: skills[skill] for skill in sorted(used)}
    return Taxonomy(str(directory), categories, kept, tuple(linked)).checked()


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as e:
        raise TaxonomyError(
            f"taxonomy file {file} is missing or no Parquet file ({e}): a taxonomy is a directory of {', '.join(FILES)}"
        ) from e
    return rows


def _concepts(rows: Sequence[Mapping[str, Any]], directory: Path) -> tuple[Any, ...]:
    labels: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {"occupation": {}, "skill": {}}
    groups: dict[str, str] = {}
    tasks: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    related: dict[str, tuple[str, ...]] = {}
    try:
        for row in rows:
            if row["lang"] not in LANGUAGES or row["kind"] not in labels:
                continue
            uri, language = row["uri"], row["lang"]
            labels[row["kind"]].setdefault(uri, {})[language] = _all_labels(row["preferred"], row["alt"])
            if row["kind"] == "occupation":
                groups[uri] = _category(row["group"])
                related[uri] = tuple(row.get("related") or ())
                if row.get("tasks"):
                    tasks[uri][language] = tuple(row["tasks"])
    except KeyError as e:
        raise TaxonomyError(f"{directory / FILES[0]} lacks column {e}") from e
    whole = {
        kind: {uri: found for uri, found in entries.items() if all(found.get(language) for language in LANGUAGES)}
        for kind, entries in labels.items()
    }
    return whole["skill"], whole["occupation"], groups, tasks, related


def _all_labels(preferred: str | None, alternatives: Sequence[str] | None) -> tuple[str, ...]:
    given = [label for label in (preferred, *(alternatives or ())) if label and label.strip()]
    return unique(form for label in given for form in split_label(label.strip()))[:MAX_LABELS]


def _category(group: str | None) -> str:
    code = (group or "").strip()
    return code[:2] if code.isdigit() else code


def _relations(
    rows: Sequence[Mapping[str, Any]], skills: Mapping[str, Labels], directory: Path
) -> dict[str, tuple[list[str], list[str]]]:
    found: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    try:
        for row in rows:
            if row["skill_uri"] in skills and row["relation"] in {"essential", "optional"}:
                found[row["occupation_uri"]][row["relation"] == "optional"].append(row["skill_uri"])
    except KeyError as e:
        raise TaxonomyError(f"{directory / FILES[1]} lacks column {e}") from e
    return found


def _occupation(
    uri: str, category: str, titles: Labels, relations: tuple[list[str], list[str]], tasks: Labels
) -> Occupation:
    essential = unique(relations[0])
    core = essential
    if len(essential) > MAX_CORE_SKILLS:
        core = tuple(stable_order(essential, uri)[:MAX_CORE_SKILLS])
    optional = tuple(skill for skill in unique((*essential, *relations[1])) if skill not in core)
    return Occupation(uri, category, titles, core, optional, (), tasks)


def _nearest(occupations: Mapping[str, Occupation]) -> Iterable[tuple[Occupation, tuple[str, ...]]]:
    """Each occupation with those of its category that share the most of its skills."""
    holders: dict[str, list[str]] = defaultdict(list)
    for occupation in occupations.values():
        for skill in (*occupation.skills, *occupation.optional):
            holders[skill].append(occupation.id)
    for occupation in occupations.values():
        shared = Counter(
            other
            for skill in occupation.skills
            for other in holders[skill]
            if other != occupation.id and occupations[other].category == occupation.category
        )
        yield occupation, tuple(sorted(shared, key=lambda other: (-shared[other], other))[:MAX_RELATED])


def _with_related(o: Occupation, related: tuple[str, ...]) -> Occupation:
    return Occupation(o.id, o.category, o.titles, o.skills, o.optional, related, o.tasks)


def _group_labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    labels: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        # Skill groups share the table, and their short codes may look like those of ISCO.
        if row["lang"] in LANGUAGES and row.get("kind", "ISCOGroup") == "ISCOGroup":
            labels[row["code"]][row["lang"]] = row["label"]
    return labels
