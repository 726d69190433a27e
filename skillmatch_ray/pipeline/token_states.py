"""Token states of every section of a dataset, computed by Ray Data actors into a memory-mapped store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer

from skillmatch_ray.backbone.encoder import Backbone, token_space_fingerprint
from skillmatch_ray.backbone.resolve import resolve_backbone
from skillmatch_ray.backbone.store import BYTES_PER_VALUE, TokenStateStore, section_key
from skillmatch_ray.config import BackboneSettings, Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.files import owner_lock, read_json, read_table
from skillmatch_ray.glossary import NO_GLOSSARY, Glossary
from skillmatch_ray.model.matcher import section_prefix
from skillmatch_ray.pipeline.session import actor_pool, encode_pool
from skillmatch_ray.pipeline.spool import Spool, spool_in
from skillmatch_ray.sample.vocabulary import read_glossary

Advance = Callable[[float, float, str], None]

SECTIONS_PER_PART = 512
SAMPLE_EVERY = 16
"""One section in so many is tokenised for the estimate."""


@dataclass(frozen=True)
class TokenStatesReport:
    """What was computed.

    Attributes:
        sections: different section texts of the dataset.
        computed: of those, the ones that the store did not have.
        tokens: computed.
        bytes: that they take on disk.
        seconds: of the backbone, summed over actors.
        estimated_bytes: of the missing states, from a sample, before the run.
    """

    sections: int
    computed: int
    tokens: int
    bytes: int
    seconds: float
    estimated_bytes: int = 0


class SectionStates:
    """Paths of spooled texts in, counts out; the states go straight into the store. A plain callable.

    Args:
        settings: of the backbone.
        store_dir: the store, on storage that all workers share.
        threads: of this worker.
        device: "auto", "cpu" or "cuda".
    """

    def __init__(self, settings: BackboneSettings, store_dir: Path, threads: int, device: str = "auto") -> None:
        import torch

        torch.set_num_threads(threads)
        self.backbone = Backbone.load(settings, device)
        self.store = TokenStateStore(store_dir, self.backbone.fingerprint, self.backbone.dim)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """(path,) rows -> one row (sections, tokens, seconds) each, durable by then."""
        return pa.Table.from_pylist([self.compute(Path(path)) for path in batch["path"].to_pylist()])

    def compute(self, path: Path) -> dict[str, float]:
        """One spooled block into one part of the store."""
        started = time.perf_counter()
        texts = read_table(path)["text"].to_pylist()
        states = self.backbone.encode(texts)
        self.store.add(texts, states)
        return {"sections": len(texts), "tokens": int(states.offsets[-1]), "seconds": time.perf_counter() - started}


def cache_token_states(
    dataset: Dataset, config: Config, store_dir: Path, *, progress: Advance = lambda *_: None
) -> TokenStatesReport:
    """Compute what the store lacks; parts that an earlier, killed run finished are kept.

    Args:
        dataset: its projects (where it has any) and freelancers.
        config: backbone, glossary, encode and ray settings.
        store_dir: the store's directory.
        progress: called with (sections done, sections to do, note); first with 0 done and the size to come.

    Raises:
        DatasetError: if the freelancers are missing.
        FingerprintError: if the store belongs to another backbone.
        LockedError: if another writer of this host is filling the store.
    """
    checkpoint = resolve_backbone(config.backbone.name)
    dim = int(read_json(checkpoint / "config.json")["hidden_size"])
    store = TokenStateStore(store_dir, token_space_fingerprint(checkpoint, config.backbone), dim)
    done, tokens, seconds = 0, 0, 0.0
    with owner_lock(store_dir / ".lock", "caching token states"), spool_in(store_dir, SECTIONS_PER_PART) as spool:
        store.refresh()
        texts = section_texts(dataset, config.backbone, read_glossary(config.glossary))
        sections, estimate = _spool_missing(texts, config.backbone, store, spool)
        size = estimate * dim * BYTES_PER_VALUE
        progress(
            0, spool.rows, f"{spool.rows:,} sections, about {estimate:,} tokens and {size / 2**20:,.0f} MB to come"
        )
        for row in _compute(spool, config, store_dir) if spool.blocks else ():
            done, tokens, seconds = done + row["sections"], tokens + row["tokens"], seconds + row["seconds"]
            progress(done, spool.rows, f"{tokens:,} tokens, {tokens / seconds:,.0f} tokens/s")
    return TokenStatesReport(sections, done, tokens, tokens * dim * BYTES_PER_VALUE, seconds, size)


def _spool_missing(
    texts: Iterable[str], settings: BackboneSettings, store: TokenStateStore, spool: Spool
) -> tuple[int, int]:
    """(different sections, estimated tokens of those spooled); only keys are held in memory."""
    tokenizer = Tokenizer.from_file(str(resolve_backbone(settings.name) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(settings.max_section_tokens)
    seen: set[bytes] = set()
    sampled, sample_tokens = 0, 0
    for text in texts:
        key = section_key(text)
        if key in seen:
            continue
        seen.add(key)
        if text in store:
            continue
        if spool.rows % SAMPLE_EVERY == 0:
            sampled, sample_tokens = sampled + 1, sample_tokens + len(tokenizer.encode(text).ids)
        spool.add({"text": text})
    spool.flush()
    return len(seen), round(spool.rows * sample_tokens / max(1, sampled))


def section_texts(dataset: Dataset, settings: BackboneSettings, glossary: Glossary = NO_GLOSSARY) -> Iterator[str]:
    """Every section text with its prefix, projects first."""
    for document in dataset.documents():
        prefix = section_prefix(document.kind, settings)
        yield from (prefix + section.text for section in glossary.read(document).sections())


def _compute(spool: Spool, config: Config, store_dir: Path) -> Iterator[dict[str, Any]]:
    import ray.data

    pool = encode_pool(config)
    tasks = [pa.table({"path": paths}) for paths in spool.tasks(pool.workers, most=1)]
    counts = ray.data.from_arrow(tasks).map_batches(
        SectionStates,
        batch_size=None,
        batch_format="pyarrow",
        fn_constructor_kwargs={
            "settings": config.backbone,
            "store_dir": store_dir.resolve(),
            "threads": pool.threads,
        },
        **actor_pool(config, pool, len(tasks)),
    )
    yield from counts.iter_rows()
