"""The made-up freelancers that `skillmatch benchmark search` looks among: clustered vectors, filters of known shares.

They are drawn and written block by block: of a million, memory holds the vectors, two hashes each, and who passes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skillmatch_ray.documents import Freelancer
from skillmatch_ray.index.filters import Filters, passes
from skillmatch_ray.pipeline.vectors import open_vectors, stored_keys, write_manifest, write_part

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Keys = list[tuple[str, str, str]]

SHARES = {
    "100%": Filters(),
    "50%": Filters(remote=True),
    "10%": Filters(countries=("FR",)),
    "1%": Filters(categories=("category 7",)),
    "0.1%": Filters(categories=("category 7",), countries=("FR",)),
}
DISTANCE = {
    "50 km": Filters(latitude=48.8566, longitude=2.3522, radius_km=50),
    "no radius": Filters(latitude=50.8503, longitude=4.3517),
}

_BLOCK_ROWS = 20_000
_CENTRES = 1000
_SUBSPACE = 64
_COUNTRIES = ("FR", "DE", "ES", "BE", "NL", "PT", "IT", "AT", "CH", "LU")
_CATEGORIES = 100
_PLACES = ((48.8566, 2.3522), (52.52, 13.405), (40.4168, -3.7038), (50.8503, 4.3517), (52.3676, 4.9041))


@dataclass(frozen=True)
class Population:
    """The freelancers that are searched.

    Attributes:
        vectors: (N, D); row i is of `freelancer_id(i)`.
        queries: (Q, D), fresh draws from the same clusters.
        passing: name in `SHARES` or `DISTANCE` -> rows of those who pass it, ascending.
    """

    vectors: Vectors
    queries: Vectors
    passing: Mapping[str, Ids]

    def best(self, query: Vectors, passing: Ids, k: int) -> list[str]:
        """Ids of the exact top k among `passing`, best first."""
        if len(passing) > len(self.vectors) // 10:  # copying so many vectors costs more than comparing all
            scores = (self.vectors @ query)[passing]
        else:
            scores = self.vectors[passing] @ query
        top = np.argpartition(-scores, k - 1)[:k] if len(scores) > k else np.arange(len(scores))
        return [freelancer_id(passing[i]) for i in top[np.argsort(-scores[top])]]


def freelancer_id(row: int | np.int64) -> str:
    """Of one row of a population."""
    return f"freelancer-{row:08d}"


def write_population(
    dataset: Path, vectors_dir: Path, fingerprint: str, *, rows: int, queries: int, dim: int, seed: int
) -> Population:
    """Draw freelancers, and write what `skillmatch encode` would leave.

    Args:
        dataset: directory for their table.
        vectors_dir: for their vectors.
        fingerprint: of the model that is said to have made them.
        rows: freelancers.
        queries: further vectors.
        dim: of the vectors.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    centres = random.normal(size=(_CENTRES, dim)).astype(np.float32)
    directions = (random.normal(size=(_SUBSPACE, dim)) / 8).astype(np.float32)
    keys, passing = _write_people(dataset, rows, random)
    vectors = _draw(rows, centres, directions, random)
    _write_vectors(vectors_dir, fingerprint, keys, vectors)
    return Population(vectors, _draw(queries, centres, directions, random), passing)


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _BLOCK_ROWS):
        yield slice(start, min(start + _BLOCK_ROWS, rows))


def _draw(count: int, centres: Vectors, directions: Vectors, random: np.random.Generator) -> Vectors:
    """(count, D) unit vectors around the centres, spread in some directions only."""
    places = random.integers(0, len(centres), count)
    found = np.empty((count, centres.shape[1]), dtype=np.float32)
    for block in _blocks(count):
        noise = random.normal(size=(block.stop - block.start, len(directions))).astype(np.float32)
        found[block] = centres[places[block]] + noise @ directions
        found[block] /= np.linalg.norm(found[block], axis=1, keepdims=True)
    return found


def _write_people(dataset: Path, rows: int, random: np.random.Generator) -> tuple[Keys, dict[str, Ids]]:
    """Write the table; (id, content hash, row hash) of each, and who passes which filter."""
    filters = SHARES | DISTANCE
    keys: Keys = []
    passing: dict[str, list[int]] = {name: [] for name in filters}
    dataset.mkdir(parents=True)
    with (dataset / "freelancers.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            row = _person(number, random)
            file.write(json.dumps(row.model_dump(mode="json")) + "\n")
            keys.append((row.id, row.content_hash(), row.row_hash()))
            for name, asked in filters.items():
                if passes(row, asked):
                    passing[name].append(number)
    return keys, {name: np.array(found, dtype=np.int64) for name, found in passing.items()}


def _write_vectors(root: Path, fingerprint: str, keys: Keys, vectors: Vectors) -> None:
    open_vectors(root, fingerprint, vectors.shape[1])
    for block in _blocks(len(keys)):
        write_part(root, keys[block], vectors[block])
    row_hash = {freelancer: value for freelancer, _, value in keys}
    write_manifest(root, {key: (place, row_hash[key.freelancer_id]) for key, place in stored_keys(root).items()})


def _person(number: int, random: np.random.Generator) -> Freelancer:
    latitude, longitude = _PLACES[random.integers(len(_PLACES))]
    return Freelancer(
        freelancer_id=freelancer_id(number),
        headline=f"Made-up expert number {number}",
        skills=tuple(f"skill {i}" for i in random.integers(0, 500, 6)),
        job_category=f"category {random.integers(_CATEGORIES)}",
        country=_COUNTRIES[random.integers(len(_COUNTRIES))],
        remote=bool(random.random() < 0.5),
        spoken_languages=("en", "fr") if random.random() < 0.5 else ("de",),
        daily_rate_eur=float(random.integers(150, 900)),
        latitude=latitude + float(random.normal()),
        longitude=longitude + float(random.normal()),
        mobility_radius_km=float(random.choice([20, 50, 100, 300])) if random.random() < 0.5 else None,
    )
