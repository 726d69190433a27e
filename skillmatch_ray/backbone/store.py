"""Token states on disk, memory-mapped: what the backbone made of a section is computed once.

A store is a directory of parts. A part is NAME.bin (N x D float16, packed) and NAME.parquet (one row a
section: key, first token, tokens), the second written last: a part without it does not exist.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillmatch_ray.backbone.encoder import Backbone, TokenStates
from skillmatch_ray.errors import FingerprintError
from skillmatch_ray.files import atomic_file, read_json, write_json

STORE_HEADER = "store.json"
BYTES_PER_VALUE = 2
_KEY_BYTES = 16


def section_key(text: str) -> bytes:
    """Key of one section text, prefix included."""
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()


def holds_states_of(directory: Path, fingerprint: str) -> bool:
    """Whether a directory is a store of this backbone; False where it is none, or another's."""
    header = directory / STORE_HEADER
    return header.is_file() and bool(read_json(header)["fingerprint"] == fingerprint)


@dataclass(frozen=True)
class _Place:
    part: int
    start: int
    tokens: int


@dataclass
class TokenStateStore:
    """Read side and write side of one store.

    Args:
        root: its directory; made where missing.
        fingerprint: `Backbone.fingerprint` whose states it holds.
        dim: D.

    Raises:
        FingerprintError: if the directory holds the states of another backbone.
    """

    root: Path
    fingerprint: str
    dim: int
    _places: dict[bytes, _Place] = field(default_factory=dict, repr=False)
    _parts: list[NDArray[np.float16]] = field(default_factory=list, repr=False)
    _known: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        header = self.root / STORE_HEADER
        if not header.is_file():
            write_json(header, {"fingerprint": self.fingerprint, "dim": self.dim})
        found = read_json(header)
        if found != {"fingerprint": self.fingerprint, "dim": self.dim}:
            raise FingerprintError(
                f"{self.root} holds token states of backbone {found['fingerprint'][:12]}, not of "
                f"{self.fingerprint[:12]}: give another directory, or delete it"
            )
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        return section_key(text) in self._places

    def refresh(self) -> None:
        """See the parts that other writers have finished since."""
        for index in sorted(self.root.glob("*.parquet")):
            if index.name not in self._known:
                self._open(index)

    def _open(self, index: Path) -> None:
        table = pq.read_table(index)
        part = len(self._parts)
        data = np.memmap(index.with_suffix(".bin"), dtype=np.float16, mode="r").reshape(-1, self.dim)
        self._parts.append(data)
        self._known.add(index.name)
        columns = (table[name].to_pylist() for name in ("key", "start", "tokens"))
        for key, start, tokens in zip(*columns, strict=True):
            self._places[key] = _Place(part, start, tokens)

    def get(self, text: str) -> Tensor:
        """(tokens, D) float16 states of one section.

        Raises:
            KeyError: if the store does not have it.
        """
        place = self._places[section_key(text)]
        return torch.from_numpy(self._parts[place.part][place.start : place.start + place.tokens].copy())

    def tokens(self, text: str) -> int:
        """Number of tokens of one section, without reading its states."""
        return self._places[section_key(text)].tokens

    def add(self, texts: Sequence[str], states: TokenStates) -> None:
        """Write one part with the states of `texts`; visible to all once it is whole."""
        if not texts:
            return
        name = uuid.uuid4().hex
        lengths = np.diff(states.offsets)
        with atomic_file(self.root / f"{name}.bin") as temporary:
            states.states.to(torch.float16).cpu().numpy().tofile(temporary)
        table = pa.table(
            {
                "key": pa.array([section_key(text) for text in texts], pa.binary(_KEY_BYTES)),
                "start": pa.array(states.offsets[:-1], pa.int64()),
                "tokens": pa.array(lengths, pa.int32()),
            }
        )
        with atomic_file(self.root / f"{name}.parquet") as temporary:
            pq.write_table(table, temporary)
        self._open(self.root / f"{name}.parquet")

    def nbytes(self) -> int:
        """Bytes of all states on disk."""
        return sum(part.nbytes for part in self._parts)


def section_states(backbone: Backbone, texts: Sequence[str], store: TokenStateStore | None = None) -> list[Tensor]:
    """(tokens, D) states of each section text: read where the store has them, computed where not.

    Args:
        backbone: computes what is missing.
        texts: section texts, prefix included.
        store: states of this very backbone.
    """
    if store is None:
        states = backbone.encode(texts)
        return [states[i] for i in range(len(texts))]
    missing = [i for i, text in enumerate(texts) if text not in store]
    computed = backbone.encode([texts[i] for i in missing]) if missing else None
    place = {i: n for n, i in enumerate(missing)}
    return [
        computed[place[i]] if computed is not None and i in place else store.get(text).to(backbone.device)
        for i, text in enumerate(texts)
    ]
