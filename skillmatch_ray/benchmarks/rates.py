"""`skillmatch benchmark rates`: what `skillmatch plan` needs to know of a machine's cores, memory and disk."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.files import write_json
from skillmatch_ray.model.matcher import section_prefix
from skillmatch_ray.pipeline.encode import survey_freelancers
from skillmatch_ray.pipeline.spool import spool_in
from skillmatch_ray.pipeline.vectors import Place, VectorKey, write_part
from skillmatch_ray.planning.rates import Rate, load_rates
from skillmatch_ray.sample.generator import write_sample

DEFAULT_DOCUMENTS = 10_000
KEYS = 100_000
"""Enough that the growth of the dictionaries evens out."""
TOKENISED = 2_000
PART_ROWS = 1024
DIM = 384


def benchmark_rates(
    config: Config, *, machine: str, documents: int = DEFAULT_DOCUMENTS, report: Path | None = None
) -> list[Rate]:
    """Rates in the form of planning/rates.yaml; writes `report` as JSON where given.

    Args:
        config: backbone and encode settings; the seed of the sample.
        machine: its name in rates.yaml.
        documents: freelancers of the built-in sample.
        report: where the figures go.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_sample(root / "data", config.sample.model_copy(update={"freelancers": documents}), config.seed)
        people = Dataset(root / "data").freelancers()[:TOKENISED]
        rows_per_s, spooled = _survey(config, root)
        tokens_per_s, tokens = _tokenise(config, people)
        values = {
            "survey_rows_per_s": rows_per_s,
            "spool_bytes_per_token": spooled / documents / (tokens / len(people)),
            "tokenise_tokens_per_s": tokens_per_s,
            "vector_bytes_per_row": _vector_bytes(root / "vectors"),
            "driver_bytes_per_row": _driver_bytes(),
        }
    units = load_rates().quantities
    formula = f"skillmatch benchmark rates --documents {documents}"
    today = dt.datetime.now(dt.UTC).date()
    rates = [
        Rate(
            name=name,
            machine=machine,
            value=float(f"{value:.4g}"),
            unit=units[name].unit,
            how="measured",
            date=today,
            formula=formula,
        )
        for name, value in values.items()
    ]
    if report is not None:
        write_json(report, [rate.model_dump(mode="json") for rate in rates])
    return rates


def _survey(config: Config, root: Path) -> tuple[float, int]:
    """(rows per second, bytes spooled) of the pass over the dataset that precedes encoding."""
    out = root / "survey"
    out.mkdir()
    with spool_in(out, config.encode.rows_per_block) as spool:
        started = time.perf_counter()
        survey, _ = survey_freelancers(config, Dataset(root / "data"), {}, spool)
        seconds = time.perf_counter() - started
        return survey.rows.rows / seconds, sum(block.stat().st_size for block in spool.blocks)


def _tokenise(config: Config, people: Sequence[Freelancer]) -> tuple[float, int]:
    """(tokens per second on one core, tokens) of all sections."""
    # The tokenizer reads this at its first batch; Ray's actors have it set likewise.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    backbone = Backbone.load(config.backbone, "cpu")
    prefix = section_prefix("freelancer", config.backbone)
    texts = [prefix + section.text for person in people for section in person.sections()]
    backbone.tokenize(texts[:100])
    started = time.perf_counter()
    tokens = sum(len(ids) for ids in backbone.tokenize(texts))
    return tokens / (time.perf_counter() - started), tokens


def _vector_bytes(root: Path) -> float:
    """Bytes of a part for each row; hashes and vectors are random, as real ones are to a compressor."""
    root.mkdir()
    vectors = np.random.default_rng(0).standard_normal((PART_ROWS, DIM)).astype(np.float32)
    write_part(root, [(f"freelancer-{i}", _hash(), _hash()) for i in range(PART_ROWS)], vectors)
    return sum(part.stat().st_size for part in root.iterdir()) / PART_ROWS


def _driver_bytes() -> float:
    """Memory that the keys and places of one freelancer take in the driver."""
    tracemalloc.start()
    wanted: dict[Any, str] = {VectorKey(f"freelancer-{i}", _hash()): _hash() for i in range(KEYS)}
    places = {key: Place(f"part-{i // PART_ROWS}", i % PART_ROWS) for i, key in enumerate(wanted)}
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(places)


def _hash() -> str:
    return os.urandom(32).hex()
