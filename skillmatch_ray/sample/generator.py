"""Write a sample dataset: deterministic by seed at any parallelism, streamed with Ray Data when it is large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from skillmatch_ray.config import RaySettings, SampleSettings
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.files import atomic_directory, write_json
from skillmatch_ray.sample.parquet_taxonomy import read_taxonomy
from skillmatch_ray.sample.taxonomy import builtin_taxonomy
from skillmatch_ray.sample.texts import freelancer_row, project_row
from skillmatch_ray.sample.world import Brief, World
from skillmatch_ray.split import SAMPLE_FILE

PART_ROWS: Final = 4096
STREAM_FROM: Final = 20_000
"""From so many freelancers on, parts are written by Ray workers."""

_STRINGS: Final = pa.list_(pa.string())
_MOMENT: Final = pa.timestamp("us", "UTC")
_LOCATION: Final = [("country", pa.string()), ("latitude", pa.float64()), ("longitude", pa.float64())]
SCHEMAS: Final = {
    "freelancers": pa.schema(
        [("freelancer_id", pa.string()), ("headline", pa.string()), ("description", pa.string()),
         ("skills", _STRINGS), ("soft_skills", _STRINGS),
         ("experiences", pa.list_(pa.struct(
             [("title", pa.string()), ("description", pa.string()), ("skills", _STRINGS)]))),
         ("language", pa.string()), ("job_category", pa.string()), ("spoken_languages", _STRINGS), *_LOCATION,
         ("city", pa.string()), ("mobility_radius_km", pa.float64()), ("remote", pa.bool_()),
         ("daily_rate_eur", pa.float64()), ("available_from", pa.date32()), ("updated_at", _MOMENT)]
    ),
    "projects": pa.schema(
        [("project_id", pa.string()), ("title", pa.string()), ("description", pa.string()), ("skills", _STRINGS),
         ("language", pa.string()), ("job_category", pa.string()), ("created_at", _MOMENT), *_LOCATION,
         ("radius_km", pa.float64()), ("remote", pa.bool_()), ("spoken_languages", _STRINGS),
         ("max_daily_rate_eur", pa.float64()), ("start_date", pa.date32())]
    ),
    "interactions": pa.schema(
        [("project_id", pa.string()), ("freelancer_id", pa.string()), ("outcome", pa.string()),
         ("happened_at", _MOMENT)]
    ),
    "qrels": pa.schema([("project_id", pa.string()), ("freelancer_id", pa.string()), ("grade", pa.int8())]),
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What decides a sample; small, so that any worker can build the same world from it."""

    settings: SampleSettings
    seed: int

    @cached_property
    def world(self) -> World:
        """The world of this recipe."""
        settings = self.settings
        taxonomy = read_taxonomy(settings.taxonomy) if settings.taxonomy else builtin_taxonomy()
        return World(taxonomy, settings.freelancers, settings.projects, self.seed, settings.label_noise)

    @cached_property
    def judged(self) -> list[Brief]:
        """The projects of qrels."""
        if self.settings.judge == "all":
            return [self.world.brief(index) for index in range(self.settings.projects)]
        return [brief for briefs in self.held_out.values() for brief in briefs]

    @cached_property
    def held_out(self) -> dict[str, list[Brief]]:
        """Held-out projects by set."""
        found: dict[str, list[Brief]] = {"later": [], "occupations": []}
        for index in range(self.settings.projects):
            brief = self.world.brief(index)
            name = self.world.held_out(brief)
            if name:
                found[name].append(brief)
        return found

    @cached_property
    def _asking(self) -> dict[str, list[Brief]]:
        """Skill -> judged projects that must have it."""
        index = defaultdict(list)
        for brief in self.judged:
            for skill in brief.must:
                index[skill].append(brief)
        return index

    def freelancer_rows(self, indices: range) -> Iterator[dict[str, Any]]:
        """Rows of the freelancers table."""
        return (freelancer_row(self.world, self.world.person(i)) for i in indices)

    def project_rows(self, indices: range) -> Iterator[dict[str, Any]]:
        """Rows of the projects table."""
        return (project_row(self.world, self.world.brief(i)) for i in indices)

    def interaction_rows(self, indices: range) -> Iterator[dict[str, Any]]:
        """Rows of the interactions table for the projects at `indices`."""
        for brief in map(self.world.brief, indices):
            for person, outcome, moment in self.world.contacts(brief):
                yield {
                    "project_id": brief.id,
                    "freelancer_id": person.id,
                    "outcome": outcome.value,
                    "happened_at": moment,
                }

    def judgement_rows(self, indices: range) -> Iterator[dict[str, Any]]:
        """Rows of the qrels table, grade 1 and above, for the freelancers at `indices`."""
        for person in map(self.world.person, indices):
            asking = {brief.index: brief for skill in person.skills for brief in self._asking.get(skill, ())}
            for _, brief in sorted(asking.items()):
                grade = self.world.grade(brief, person)
                if grade:
                    yield {"project_id": brief.id, "freelancer_id": person.id, "grade": grade}


@dataclass(frozen=True)
class _Part:
    """One file to write."""

    table: str
    number: int
    start: int
    end: int


def write_sample(
    target: Path, settings: SampleSettings, seed: int, ray_settings: RaySettings | None = None
) -> dict[str, int]:
    """Write freelancers, projects, interactions, qrels and sample.json, which names the held-out projects.

    Equal settings and seed give equal bytes, whatever the machine and the number of workers.

    Args:
        target: the dataset directory; an older sample there is replaced, anything else is refused.
        settings: sizes, label noise, taxonomy.
        seed: decides all else.
        ray_settings: how to reach Ray, for large samples.

    Returns:
        Rows of each table.

    Raises:
        DatasetError: if `target` holds something that is not a sample.
        TaxonomyError: if the taxonomy cannot be used.
    """
    if target.exists() and any(target.iterdir()) and not (target / SAMPLE_FILE).is_file():
        raise DatasetError(f"{target} exists and is not a sample: give another directory, or empty it yourself")
    recipe = Recipe(settings, seed)
    with atomic_directory(target) as temporary:
        parts = _parts(settings)
        large = settings.freelancers >= STREAM_FROM
        counts = (
            _write_with_ray(recipe, temporary, parts, ray_settings) if large else _write_here(recipe, temporary, parts)
        )
        write_json(temporary / SAMPLE_FILE, _describe(recipe, counts))
    return counts


def _parts(settings: SampleSettings) -> list[_Part]:
    sources = {
        "freelancers": settings.freelancers,
        "projects": settings.projects,
        "interactions": settings.projects,
        "qrels": settings.freelancers,
    }
    return [
        _Part(table, number, start, min(count, start + PART_ROWS))
        for table, count in sources.items()
        for number, start in enumerate(range(0, count, PART_ROWS))
    ]


def write_part(recipe: Recipe, directory: Path, part: _Part) -> int:
    """Write one part; its number of rows."""
    makers: dict[str, Callable[[range], Iterable[dict[str, Any]]]] = {
        "freelancers": recipe.freelancer_rows,
        "projects": recipe.project_rows,
        "interactions": recipe.interaction_rows,
        "qrels": recipe.judgement_rows,
    }
    rows = list(makers[part.table](range(part.start, part.end)))
    folder = directory / part.table
    folder.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMAS[part.table])
    pq.write_table(table, folder / f"part-{part.number:05d}.parquet")
    return len(rows)


def _write_here(recipe: Recipe, directory: Path, parts: Iterable[_Part]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for part in parts:
        counts[part.table] += write_part(recipe, directory, part)
    return {table: counts[table] for table in SCHEMAS}


class _PartWriter:
    """Ray Data worker: keeps one world and writes the parts that it is handed."""

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        self.recipe = recipe
        self.directory = directory

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = _Part(row["table"], row["number"], row["start"], row["end"])
        return {"table": part.table, "rows": write_part(self.recipe, self.directory, part)}


def _write_with_ray(
    recipe: Recipe, directory: Path, parts: list[_Part], ray_settings: RaySettings | None
) -> dict[str, int]:
    import ray.data

    from skillmatch_ray.pipeline.session import ensure_ray

    cpus = ensure_ray(ray_settings or RaySettings())
    workers = max(1, int(cpus) // 2)
    items = [vars(part) for part in parts]
    written = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _PartWriter,
        fn_constructor_kwargs={"recipe": recipe, "directory": directory.resolve()},
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
    )
    counts: dict[str, int] = defaultdict(int)
    for row in written.iter_rows():
        counts[row["table"]] += row["rows"]
    return {table: counts[table] for table in SCHEMAS}


def _describe(recipe: Recipe, counts: dict[str, int]) -> dict[str, Any]:
    world = recipe.world
    return {
        "seed": recipe.seed,
        "settings": recipe.settings.model_dump(mode="json"),
        "counts": counts,
        "taxonomy": {"name": world.taxonomy.name, "fingerprint": world.taxonomy.fingerprint()},
        "held_out_occupations": sorted(world.held_out_occupations),
        "held_out_projects": {name: [brief.id for brief in briefs] for name, briefs in recipe.held_out.items()},
    }
