"""The frozen backbone: section texts to token states, in token-budget batches of sections of like length.

Shapes: S sections, N tokens of all sections, T tokens of the longest of a batch, D dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from skillmatch_ray.backbone.packed import PackedEncoder
from skillmatch_ray.backbone.resolve import checkpoint_fingerprint, resolve_backbone
from skillmatch_ray.config import BackboneSettings
from skillmatch_ray.files import hash_json

TokenIds = NDArray[np.int32]

TOKEN_BUDGETS = {"cpu": 4096, "cuda": 65_536}
"""On an AVX512-BF16 CPU 512 to 8,192 differ by 8 %; that of GPUs is chosen, not measured."""

# A token of E5 rarely stands for more than 16 characters; what is cut here would be cut again as tokens.
_CHARACTERS_PER_TOKEN = 40


@dataclass(frozen=True)
class TokenStates:
    """Backbone output of S sections, packed without padding.

    Attributes:
        states: (N, D), the sections one after another.
        offsets: (S + 1,) int64; section i is states[offsets[i]:offsets[i + 1]].
    """

    states: Tensor
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, section: int) -> Tensor:
        """(tokens, D) of one section."""
        return self.states[self.offsets[section] : self.offsets[section + 1]]


def pick_device(device: str = "auto") -> torch.device:
    """The GPU where there is one, unless told otherwise."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32.

    On a CPU without AMX or AVX512-BF16, bfloat16 is emulated and slower than float32.
    """
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    return torch.bfloat16 if device.type == "cuda" or cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 matrix instructions."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


class Backbone:
    """A frozen BERT-like encoder with its tokenizer.

    Args:
        checkpoint: directory with config.json, tokenizer.json and model.safetensors.
        settings: how to run it.
        device: "auto", "cpu", "cuda" or "cuda:N".
        tuned: fine-tuned weights that replace the checkpoint's, by the names that transformers gives them.

    Raises:
        BackboneError: if the checkpoint is of another architecture, or has no weight of such a name and shape.
    """

    def __init__(
        self,
        checkpoint: Path,
        settings: BackboneSettings,
        device: str = "auto",
        tuned: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.settings = settings
        self.checkpoint = checkpoint
        self.device = pick_device(device)
        self.dtype = pick_dtype(settings.dtype, self.device)
        self.tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(settings.max_section_tokens)
        self.tuned = {name: value.detach().float().cpu() for name, value in (tuned or {}).items()}
        self.encoder = PackedEncoder(checkpoint, self.dtype, self.device, self.tuned)
        self.dim = self.encoder.sizes.dim

    @classmethod
    def load(cls, settings: BackboneSettings, device: str = "auto") -> Backbone:
        """Resolve `settings.name` and load it.

        Raises:
            BackboneError: if it cannot be found.
        """
        return cls(resolve_backbone(settings.name), settings, device)

    @property
    def token_budget(self) -> int:
        """Tokens of one forward pass: as set, or what the device needs to be busy."""
        return self.settings.token_budget or TOKEN_BUDGETS.get(self.device.type, TOKEN_BUDGETS["cpu"])

    @property
    def fingerprint(self) -> str:
        """Names the space of the token states: weights, tokenizer and truncation; not speed settings."""
        base = token_space_fingerprint(self.checkpoint, self.settings)
        return hash_json([base, hash_tensors(self.tuned)]) if self.tuned else base

    def with_tuned(self, weights: Mapping[str, Tensor]) -> Backbone:
        """A backbone of the same checkpoint in which these weights replace the old ones.

        Raises:
            BackboneError: if the checkpoint has no weight of such a name and shape.
        """
        return Backbone(self.checkpoint, self.settings, str(self.device), weights)

    def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, specials included, cut to `max_section_tokens`."""
        limit = self.settings.max_section_tokens * _CHARACTERS_PER_TOKEN
        encodings = self.tokenizer.encode_batch_fast([text[:limit] for text in texts])
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        """Character span of each token of one text; (0, 0) for specials."""
        limit = self.settings.max_section_tokens * _CHARACTERS_PER_TOKEN
        spans: list[tuple[int, int]] = self.tokenizer.encode(text[:limit]).offsets
        return spans

    def encode(self, texts: Sequence[str]) -> TokenStates:
        """Token states of section texts (prefix included); equal texts are encoded once."""
        return self.encode_tokens(self.tokenize(texts))

    @torch.inference_mode()
    def encode_tokens(self, sections: Sequence[TokenIds]) -> TokenStates:
        """Token states of tokenised sections, in their order, on the backbone's device."""
        unique, inverse = _unique(sections)
        lengths = np.array([len(ids) for ids in unique], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        states = torch.empty((int(offsets[-1]), self.dim), dtype=self.dtype, device=self.device)
        for batch in packed_batches(lengths, self.token_budget):
            hidden = self.encoder(np.concatenate([unique[i] for i in batch]), lengths[batch])  # (tokens, D)
            places = torch.from_numpy(_positions(offsets[batch], lengths[batch]))
            states.index_copy_(0, places.to(self.device), hidden)
        return _spread(TokenStates(states, offsets), inverse)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over names, in order, and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def token_space_fingerprint(checkpoint: Path, settings: BackboneSettings) -> str:
    """SHA-256 (hex) that names the space of token states of `checkpoint` under `settings`."""
    return hash_json([checkpoint_fingerprint(checkpoint), settings.max_section_tokens])


def packed_batches(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Indices of sections, longest first, such that the tokens of a batch are at most `budget`.

    A section longer than the budget makes a batch of its own. Longest first, so that a lack of
    memory shows at once, and that sections of one length stand together.

    Example:
        >>> [batch.tolist() for batch in packed_batches(np.array([2, 9, 3, 2]), 5)]
        [[1], [2, 0], [3]]
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        before = ends[start] - lengths[order[start]]
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        yield order[start:stop]
        start = stop


def token_budget_batches(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Indices of sections of like length, longest first, such that rows x longest <= budget.

    A section longer than the budget makes a batch of its own. Longest first, so that a lack of
    memory shows at once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + rows]
        start += rows


def _unique(sections: Sequence[TokenIds]) -> tuple[list[TokenIds], NDArray[np.int64]]:
    place: dict[bytes, int] = {}
    unique: list[TokenIds] = []
    inverse = np.empty(len(sections), dtype=np.int64)
    for i, ids in enumerate(sections):
        key = ids.tobytes()
        if key not in place:
            place[key] = len(unique)
            unique.append(ids)
        inverse[i] = place[key]
    return unique, inverse


def _spread(unique: TokenStates, inverse: NDArray[np.int64]) -> TokenStates:
    """The states of each section in its own place again, doubled where sections were equal."""
    if len(unique) == len(inverse):
        return unique
    lengths = np.diff(unique.offsets)[inverse]
    index = torch.from_numpy(_positions(unique.offsets[inverse], lengths))
    return TokenStates(unique.states[index.to(unique.states.device)], np.concatenate([[0], np.cumsum(lengths)]))


def _positions(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of all tokens of sections that start at `starts`, section after section.

    Example:
        >>> _positions(np.array([7, 0]), np.array([2, 3])).tolist()
        [7, 8, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.repeat(starts - before, lengths) + np.arange(int(lengths.sum())))
