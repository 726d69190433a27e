"""Write a taxonomy in the Parquet form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.sample.parquet_taxonomy import FILES
from skillmatch_ray.sample.taxonomy import Taxonomy

CONCEPTS = pa.schema(
    [(name, pa.string()) for name in ("uri", "kind", "group", "lang", "preferred")]
    + [(name, pa.list_(pa.string())) for name in ("alt", "tasks", "related")]
)


def write_taxonomy(taxonomy: Taxonomy, directory: Path) -> None:
    """`read_taxonomy` gives the same one back."""
    relations = [
        {"occupation_uri": o.id, "skill_uri": skill, "relation": relation}
        for o in taxonomy.occupations
        for relation, ids in (("essential", o.skills), ("optional", o.optional))
        for skill in ids
    ]
    groups = [
        {"code": code, "kind": "ISCOGroup", "lang": language, "label": label}
        for code, labels in taxonomy.categories.items()
        for language, label in labels.items()
    ]
    concepts = pa.Table.from_pylist(list(concept_rows(taxonomy)), schema=CONCEPTS)
    directory.mkdir()
    for name, table in zip(FILES, (concepts, *map(pa.Table.from_pylist, (relations, groups))), strict=True):
        pq.write_table(table, directory / name)


def concept_rows(taxonomy: Taxonomy) -> Iterator[dict[str, Any]]:
    """A row for each label of skills and occupations."""
    for uri, labels in taxonomy.skills.items():
        for language, (preferred, *alternatives) in labels.items():
            yield {"uri": uri, "kind": "skill", "lang": language, "preferred": preferred, "alt": alternatives}
    for o in taxonomy.occupations:
        for language, (preferred, *alternatives) in o.titles.items():
            yield {
                "uri": o.id, "kind": "occupation", "group": o.category, "lang": language,
                "preferred": preferred, "alt": alternatives,
                "tasks": list(o.tasks.get(language, ())), "related": list(o.related),
            }  # fmt: skip
