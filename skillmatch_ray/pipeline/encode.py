"""`skillmatch encode`: freelancers to vectors with Ray Data; resumable, incremental, no row lost.

The driver reads the dataset once, as a stream, and spools the rows that need encoding in small blocks.
Fused actors (sections, tokens, backbone, head, pooling) take blocks and write vectors; only paths and
counts travel through Ray, so the object store stays empty whatever the size.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa

from skillmatch_ray.backbone.encoder import TokenIds
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import FREELANCERS, BadRow, Dataset, TableReport
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.errors import DatasetError, FingerprintError
from skillmatch_ray.files import atomic_file, locate, read_table
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Matcher, Vectors, assemble, load_matcher, read_model_config
from skillmatch_ray.pipeline.session import actor_pool, encode_pool
from skillmatch_ray.pipeline.spool import Spool, spool_in
from skillmatch_ray.pipeline.vectors import (
    Place,
    VectorKey,
    check_vectors,
    compact,
    open_vectors,
    sole_writer,
    stored_keys,
    write_manifest,
    write_part,
)
from skillmatch_ray.validate import QUARANTINE_FILE, check_bad_share

if TYPE_CHECKING:
    from torch import Tensor

    from skillmatch_ray.backbone.store import TokenStateStore

Advance = Callable[[float, float, str], None]

STAGES = ("read", "tokenize", "wait", "backbone", "head", "write")
"""Of an actor: read and tokenize run ahead in a thread of their own; wait is for them; the rest is in turn."""


@dataclass(frozen=True)
class EncodeReport:
    """What a run did; rows_in == rows_out + quarantined, always.

    Attributes:
        rows_in: rows of the freelancers table.
        rows_out: live vectors.
        quarantined: bad rows, listed in quarantine.jsonl.
        encoded: vectors computed in this run.
        reused: vectors that were there already.
        removed: freelancers that the dataset no longer has.
        tokens: that the head read, of `encoded`.
        busy_s: of all actors.
        seconds: wall time.
        fingerprint: of the model.
        workers: actors at the start.
        stage_s: stage -> seconds of all actors.
        peak_mb: most memory that one actor ever held.
        computed_tokens: that the backbone read; equal sections of a block and stored ones cost nothing.
        steady_tokens_per_s: computed tokens per second of all actors, each from its first finished block on.
        steady_tokens_per_cpu_s: the same per second of processor time, which other work on the machine hardly changes.
        startup_s: until the first block was finished.
    """

    rows_in: int
    rows_out: int
    quarantined: int
    encoded: int
    reused: int
    removed: int
    tokens: int
    busy_s: float
    seconds: float
    fingerprint: str
    workers: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)
    peak_mb: float = 0.0
    computed_tokens: int = 0
    steady_tokens_per_s: float = 0.0
    steady_tokens_per_cpu_s: float = 0.0
    startup_s: float = 0.0

    @property
    def utilisation(self) -> dict[str, float]:
        """Stage -> its share of the time in which actors worked; those of "read" and "tokenize" overlap the rest."""
        return {stage: round(spent / self.busy_s, 3) for stage, spent in self.stage_s.items()} if self.busy_s else {}

    def summary(self) -> str:
        """One line for people."""
        rate = self.encoded / self.seconds if self.seconds else 0.0
        return (
            f"{self.rows_in} rows in = {self.rows_out} vectors + {self.quarantined} quarantined; "
            f"{self.encoded} encoded, {self.reused} reused, {self.removed} removed in {self.seconds:.1f} s "
            f"({rate:.1f} rows/s), model {self.fingerprint[:12]}" + self._rate() + self._stage_line()
        )

    def _rate(self) -> str:
        if not self.steady_tokens_per_s:
            return ""
        return f"; {self.steady_tokens_per_s:,.0f} tokens/s after {self.startup_s:.0f} s of starting"

    def _stage_line(self) -> str:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in self.utilisation.items())
        return f"; {self.workers} workers, {self.peak_mb:,.0f} MB each at most: {shares}" if shares else ""


@dataclass(frozen=True)
class _Prepared:
    """A block that is ready for the backbone.

    Attributes:
        keys: (freelancer_id, content_hash, row_hash) of each row.
        types: section-type ids of each document.
        texts: of all sections, document by document.
        computed: positions in `texts` of those that no store has.
        tokens: their token ids.
        seconds: spent on each stage.
    """

    keys: list[tuple[str, str, str]]
    types: list[list[int]]
    texts: list[str]
    computed: list[int]
    tokens: list[TokenIds]
    seconds: dict[str, float]


class DocumentEncoder:
    """The fused actor: spooled blocks in, parts of vectors out. A plain callable.

    While one block goes through the backbone, a thread reads and tokenises the next.

    Args:
        model_dir: of the matcher.
        out: the vectors directory.
        store_dir: token states to use where it has them, or None.
        threads: of this worker; Ray would leave one to an actor with a share of a CPU.
        fingerprint: that the model must have, or None.
        device: "auto", "cpu" or "cuda".

    Raises:
        FingerprintError: if the weights are not those that config.json of the model names.
    """

    def __init__(
        self,
        model_dir: Path,
        out: Path,
        store_dir: Path | None,
        threads: int,
        fingerprint: str | None = None,
        device: str = "auto",
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.out = out
        self.name = uuid.uuid4().hex
        self.matcher = load_matcher(model_dir, device, store_dir=store_dir)
        if fingerprint not in (None, self.matcher.fingerprint):
            raise FingerprintError(
                f"{model_dir}: config.json names fingerprint {str(fingerprint)[:12]}, but the weights are "
                f"{self.matcher.fingerprint[:12]}: the model directory was tampered with; train or copy it again"
            )

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """(path,) rows of spooled blocks -> one row of counts each; its vectors are durable by then."""
        paths = batch["path"].to_pylist()
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.prepare, locate(paths[0]))
            processor = time.process_time()
            for following in [*paths[1:], None]:
                started = time.perf_counter()
                block = coming.result()
                waited = time.perf_counter() - started
                if following is not None:
                    coming = ahead.submit(self.prepare, locate(following))
                counts = self.encode(block) | {"wait": waited, "worker": self.name, "ended": time.time()}
                before, processor = processor, time.process_time()
                counts["cpu_s"] = processor - before
                yield pa.table({name: [value] for name, value in counts.items()})

    def prepare(self, path: Path) -> _Prepared:
        """Read a spooled block and tokenise what no store has."""
        started = time.perf_counter()
        rows, store = read_table(path).to_pylist(), self.matcher.store
        people = [Freelancer.model_validate_json(row["document"]) for row in rows]
        types, texts = self.matcher.sections("freelancer", people)
        computed = [i for i, text in enumerate(texts) if store is None or text not in store]
        read = time.perf_counter()
        tokens = self.matcher.backbone.tokenize([texts[i] for i in computed])
        seconds = {"read": read - started, "tokenize": time.perf_counter() - read}
        keys = [(row["freelancer_id"], row["content_hash"], row["row_hash"]) for row in rows]
        return _Prepared(keys, types, texts, computed, tokens, seconds)

    def encode(self, block: _Prepared) -> dict[str, float]:
        """Backbone, head and durable write of one block; rows, tokens and seconds of each stage."""
        started = time.perf_counter()
        states = self._states(block)
        encoded = time.perf_counter()
        documents = assemble(block.types, states)
        vectors = head_vectors(self.matcher, documents)
        headed = time.perf_counter()
        write_part(self.out, block.keys, vectors)
        seconds = {"backbone": encoded - started, "head": headed - encoded, "write": time.perf_counter() - headed}
        tokens = sum(document.tokens for document in documents)
        computed = sum({ids.tobytes(): len(ids) for ids in block.tokens}.values())
        counts = {"rows": len(block.keys), "tokens": tokens, "computed_tokens": computed, "peak_mb": peak_memory_mb()}
        return counts | block.seconds | seconds

    def _states(self, block: _Prepared) -> list[Tensor]:
        """(tokens, D) of each section: computed, or read from the store."""
        import torch

        backbone, store = self.matcher.backbone, self.matcher.store
        fresh = backbone.encode_tokens(block.tokens) if block.tokens else None
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)  # or its time would count as the head's
        place = {i: n for n, i in enumerate(block.computed)}
        return [
            fresh[place[i]] if fresh is not None and i in place else cast("TokenStateStore", store).get(text)
            for i, text in enumerate(block.texts)
        ]


def head_vectors(matcher: Matcher, documents: Sequence[EncodedDocument]) -> Vectors:
    """(n, D) float32 vectors of freelancers, the head's matrix products in the backbone's precision.

    Measured with E5 on AVX512-BF16: in float32 a head of four layers takes as long as the backbone, in bfloat16 half
    of that; no component moves by more than 0.0007. Pooling and norm stay in float32.
    """
    import torch

    backbone = matcher.backbone
    half = backbone.dtype == torch.bfloat16
    with torch.autocast(backbone.device.type, dtype=torch.bfloat16, enabled=half):
        return matcher.towers.encode("freelancer", documents)


def peak_memory_mb() -> float:
    """The most memory that this process ever held, in megabytes."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / 2**10 if sys.platform != "darwin" else kilobytes / 2**20


@dataclass
class Survey:
    """What one pass over the dataset found."""

    rows: TableReport
    spool: Spool
    wanted: dict[VectorKey, str] = field(default_factory=dict)


def encode_freelancers(
    config: Config,
    dataset: Dataset,
    model_dir: Path,
    out: Path,
    *,
    store_dir: Path | None = None,
    progress: Advance = lambda *_: None,
) -> EncodeReport:
    """Bring the vectors in `out` up to date with the dataset.

    What is there already is not computed again; changed rows are, and rows that the dataset no longer
    has are dropped. A killed run is continued by running it again.

    Args:
        config: encode, dataset and ray settings.
        dataset: with freelancers.
        model_dir: of the matcher.
        out: directory of the vectors, which may lie in an object store; one writer at a time.
        store_dir: token states to use where it has them.
        progress: called with (rows done, rows to do, note).

    Raises:
        DatasetError: if the share of bad rows is above `dataset.max_bad_share`; nothing is written then.
        FingerprintError: if `out` holds the vectors of another model.
        LockedError: if another writer is at work there.
    """
    started = time.perf_counter()
    description = read_model_config(model_dir)
    with (
        sole_writer(out, "skillmatch encode") as still_mine,
        spool_in(out, config.encode.rows_per_block) as spool,
    ):
        check_vectors(out, description["fingerprint"])
        before = stored_keys(out)
        survey, bad = survey_freelancers(config, dataset, before, spool)
        open_vectors(out, description["fingerprint"], description["dim"])
        _write_quarantine(out / QUARANTINE_FILE, bad)
        actor = {
            "model_dir": model_dir.resolve(),
            "out": out.resolve(),
            "store_dir": store_dir.resolve() if store_dir else None,
            "fingerprint": description["fingerprint"],
        }
        done = _encode_blocks(config, spool, actor, progress)
        live = _live_rows(survey, stored_keys(out))
        compact(out, live)
        still_mine()
        write_manifest(out, live)
    return EncodeReport(
        rows_in=survey.rows.rows,
        rows_out=len(live),
        quarantined=survey.rows.bad,
        encoded=spool.rows,
        reused=len(live) - spool.rows,
        removed=len({key.freelancer_id for key in before} - {key.freelancer_id for key in live}),
        tokens=int(done["tokens"]),
        busy_s=round(sum(done[stage] for stage in ("wait", "backbone", "head", "write")), 6),
        seconds=round(time.perf_counter() - started, 2),
        fingerprint=description["fingerprint"],
        workers=int(done["workers"]),
        stage_s={stage: round(done[stage], 6) for stage in STAGES if done},
        peak_mb=round(done["peak_mb"], 1),
        computed_tokens=int(done["computed_tokens"]),
        steady_tokens_per_s=round(done["steady_tokens_per_s"], 1),
        steady_tokens_per_cpu_s=round(done["steady_tokens_per_cpu_s"], 1),
        startup_s=round(done["startup_s"], 2),
    )


def survey_freelancers(
    config: Config, dataset: Dataset, known: dict[VectorKey, Place], spool: Spool
) -> tuple[Survey, list[BadRow]]:
    """Read every row once; spool those that have no vector yet; set bad ones aside."""
    survey = Survey(TableReport(FREELANCERS.name), spool)
    bad: list[BadRow] = []
    for freelancer in dataset.read(FREELANCERS, survey.rows, bad.append):
        key = VectorKey(freelancer.id, freelancer.content_hash())
        survey.wanted[key] = freelancer.row_hash()
        if key not in known:
            spool.add(
                {
                    "freelancer_id": key.freelancer_id,
                    "content_hash": key.content_hash,
                    "row_hash": survey.wanted[key],
                    "document": freelancer.model_dump_json(exclude_none=True),
                }
            )
    spool.flush()
    check_bad_share(survey.rows, config.dataset.max_bad_share)
    return survey, bad


def _write_quarantine(path: Path, rows: list[BadRow]) -> None:
    with atomic_file(path) as temporary:
        lines = (json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text("".join(lines), encoding="utf-8")


def _encode_blocks(config: Config, spool: Spool, actor: dict[str, object], progress: Advance) -> dict[str, float]:
    """Sums over all blocks of rows, tokens and seconds of each stage; greatest peak_mb; steady rates; workers."""
    done: dict[str, float] = defaultdict(float)
    if not spool.blocks:
        return done
    import ray.data

    pool = encode_pool(config)
    tasks = [pa.table({"path": paths}) for paths in spool.tasks(pool.workers)]
    counts = ray.data.from_arrow(tasks).map_batches(
        DocumentEncoder,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_kwargs=actor | {"threads": pool.threads},
        **actor_pool(config, pool, len(tasks)),
    )
    started, launched = time.perf_counter(), time.time()
    ends: list[BlockEnd] = []
    for block in counts.iter_rows():
        ends.append(BlockEnd(block.pop("worker"), block.pop("ended"), block["computed_tokens"], block["cpu_s"]))
        done["peak_mb"] = max(done["peak_mb"], block.pop("peak_mb"))
        for name, value in block.items():
            done[name] += value
        passed = time.perf_counter() - started
        note = f"{done['rows'] / passed:,.1f} rows/s, {done['tokens'] / passed:,.0f} tokens/s"
        progress(done["rows"], spool.rows, note)
    done["workers"] = min(pool.workers, len(tasks))
    done["startup_s"] = min(end.at for end in ends) - launched
    done["steady_tokens_per_s"], done["steady_tokens_per_cpu_s"] = steady_rates(ends)
    return done


@dataclass(frozen=True)
class BlockEnd:
    """When a worker had finished a block, by its own clock (s), the tokens that the backbone read, and the CPU time."""

    worker: str
    at: float
    tokens: int
    cpu_s: float


def steady_rates(ends: Iterable[BlockEnd]) -> tuple[float, float]:
    """Tokens per second, summed over workers, and tokens per CPU second; both without each worker's first block.

    By the workers' clocks: the driver hears of all blocks of a task at once, too late to tell. A
    worker that finished fewer than two blocks has no steady state and adds nothing.

    Example:
        >>> steady_rates([BlockEnd("a", 5.0, 100, 9.0), BlockEnd("a", 6.0, 30, 1.5), BlockEnd("a", 7.0, 50, 2.5)])
        (40.0, 20.0)
    """
    workers: dict[str, list[BlockEnd]] = defaultdict(list)
    for end in ends:
        workers[end.worker].append(end)
    total, tokens, cpu_s = 0.0, 0, 0.0
    for finished in workers.values():
        first, *rest = sorted(finished, key=lambda end: end.at)
        if rest:
            read = sum(end.tokens for end in rest)
            total += read / (rest[-1].at - first.at)
            tokens, cpu_s = tokens + read, cpu_s + sum(end.cpu_s for end in rest)
    return total, tokens / cpu_s if cpu_s else 0.0


def _live_rows(survey: Survey, stored: dict[VectorKey, Place]) -> dict[VectorKey, tuple[Place, str]]:
    """Where each wanted vector lies.

    Raises:
        DatasetError: if a row got lost, which would be a defect of this program.
    """
    lost = [key.freelancer_id for key in survey.wanted if key not in stored]
    if lost or len(survey.wanted) != survey.rows.good:
        raise DatasetError(
            f"{len(lost)} freelancers have no vector after encoding ({', '.join(lost[:3])}) and "
            f"{survey.rows.good} good rows gave {len(survey.wanted)} keys: please report this, and try running again"
        )
    return {key: (stored[key], row_hash) for key, row_hash in survey.wanted.items()}
