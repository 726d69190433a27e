"""BERT over packed sections: they lie one after another, nothing is padded, and each token is computed once.

The linear layers see (N, D); only attention knows where a section ends. On a CPU sections of one length
attend together, on a GPU all of them in one variable-length kernel. What the forward pass does not need
is left out: no mask, no copy of the word embeddings (they are read from the checkpoint's memory map), and
on a CPU the weights are laid out for its matrix instructions once, not at each product.

Shapes: N tokens of all sections, R rows that the linear layers see (N, on a CPU rounded up), D dimensions,
H heads, T tokens of one section.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from skillmatch_ray.errors import BackboneError
from skillmatch_ray.files import read_json

Linear = Callable[[Tensor], Tensor]

FAMILIES = {"bert": 0, "xlm-roberta": 1, "roberta": 1, "camembert": 1}
"""Model type of config.json -> whether positions start behind the padding token's id."""

_WORDS = "embeddings.word_embeddings.weight"
_PACK_ROWS = 1024
"""Rows of a product that packed weights are laid out for; other numbers work as well."""
_ROW_STEP = 32
"""On a CPU rows are rounded up to it: oneDNN compiles a kernel for each number of rows, and fewer are faster."""
_KERNEL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "1"}
"""Kernels that oneDNN keeps, and PyTorch once more on top: of 1,024 each, as they are by default, a worker
grows by half a gigabyte; with 256 and 1 it is as fast."""


@dataclass(frozen=True)
class Sizes:
    """What config.json says of the architecture."""

    dim: int
    layers: int
    heads: int
    ffn: int
    epsilon: float
    first_position: int

    @classmethod
    def read(cls, path: Path) -> Sizes:
        """From a checkpoint's config.json.

        Raises:
            BackboneError: if it is not a BERT with the usual activation and positions.
        """
        config = read_json(path)
        family, activation = config.get("model_type"), config.get("hidden_act", "gelu")
        if family not in FAMILIES or activation != "gelu":
            raise BackboneError(
                f"{path}: model_type {family!r} with hidden_act {activation!r} is not supported: "
                f"give a checkpoint of {', '.join(FAMILIES)} with gelu, such as multilingual E5"
            )
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise BackboneError(f"{path}: position_embedding_type must be 'absolute'")
        return cls(
            dim=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            ffn=config["intermediate_size"],
            epsilon=config["layer_norm_eps"],
            first_position=FAMILIES[family] * (config.get("pad_token_id", 1) + 1),
        )


@dataclass(frozen=True)
class _Norm:
    """A layer normalisation over D."""

    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class _Layer:
    """One transformer layer; `qkv` is three matrices in one, with the scale of attention in it."""

    qkv: Linear
    attention_out: Linear
    attention_norm: _Norm
    ffn_in: Linear
    ffn_out: Linear
    norm: _Norm


class PackedEncoder:
    """The forward pass of a frozen BERT-like checkpoint over packed sections.

    Args:
        checkpoint: directory with config.json and model.safetensors.
        dtype: to compute in.
        device: to compute on.
        tuned: weights that replace those of the file, by the names that transformers gives them.

    Raises:
        BackboneError: if the checkpoint is of another architecture or incomplete, or a tuned weight does not fit it.
    """

    def __init__(
        self, checkpoint: Path, dtype: torch.dtype, device: torch.device, tuned: Mapping[str, Tensor] | None = None
    ) -> None:
        self.sizes = Sizes.read(checkpoint / "config.json")
        self.dtype, self.device = dtype, device
        _bound_kernel_caches()
        weights = _Weights(checkpoint / "model.safetensors", tuned or {})
        # On a CPU the embeddings stay in the file's own type and map: only rows that are used take memory.
        words, types = weights[_WORDS], weights["embeddings.token_type_embeddings.weight"]
        kind = words.dtype if device.type == "cpu" else dtype
        self._words = words.to(device, kind)
        self._positions = (weights["embeddings.position_embeddings.weight"] + types[0]).to(device, kind)
        self._norm = self._norm_of(weights, "embeddings.LayerNorm", self._words.dtype)
        self._layers = [self._layer(weights, f"encoder.layer.{i}.") for i in range(self.sizes.layers)]

    def _layer(self, weights: _Weights, name: str) -> _Layer:
        own = f"{name}attention.self."
        scale = (self.sizes.dim // self.sizes.heads) ** -0.5
        parts = [(weights.linear(f"{own}{part}"), scale if part == "query" else 1.0) for part in _QKV]
        qkv = torch.cat([w * s for (w, _), s in parts]), torch.cat([b * s for (_, b), s in parts])
        return _Layer(
            qkv=self._linear(*qkv),
            attention_out=self._linear(*weights.linear(f"{name}attention.output.dense")),
            attention_norm=self._norm_of(weights, f"{name}attention.output.LayerNorm", self.dtype),
            ffn_in=self._linear(*weights.linear(f"{name}intermediate.dense")),
            ffn_out=self._linear(*weights.linear(f"{name}output.dense")),
            norm=self._norm_of(weights, f"{name}output.LayerNorm", self.dtype),
        )

    def _norm_of(self, weights: _Weights, name: str, dtype: torch.dtype) -> _Norm:
        weight, bias = (tensor.to(self.device, dtype) for tensor in weights.linear(name))
        return _Norm(weight, bias, self.sizes.epsilon)

    def _linear(self, weight: Tensor, bias: Tensor) -> Linear:
        weight, bias = weight.to(self.device, self.dtype), bias.to(self.device, self.dtype)
        if not _can_pack(self.dtype, self.device):
            return lambda x: F.linear(x, weight, bias)
        ops: Any = torch.ops.mkldnn
        packed = ops._reorder_linear_weight(weight.contiguous(), _PACK_ROWS)  # noqa: SLF001 -- torch.compile's own way
        return lambda x: ops._linear_pointwise(x, packed, bias, "none", [], "")  # noqa: SLF001

    @torch.inference_mode()
    def __call__(self, ids: NDArray[np.integer[Any]], lengths: NDArray[np.int64]) -> Tensor:
        """(N, D) token states.

        Args:
            ids: (N,) token ids, section after section.
            lengths: tokens of each section; neighbours of one length are computed together on a CPU.
        """
        ends, tokens = np.cumsum(lengths), len(ids)
        spare = -tokens % _ROW_STEP if self.device.type == "cpu" else 0
        ids = np.pad(ids, (0, spare))
        within = np.pad(np.arange(tokens) - np.repeat(ends - lengths, lengths), (0, spare))
        x = F.embedding(self._to_device(ids), self._words)
        x = x + F.embedding(self._to_device(within + self.sizes.first_position), self._positions)
        x = self._norm(x).to(self.dtype)  # (R, D)
        attend = self._attention(lengths, ends)
        for layer in self._layers:
            x = layer.attention_norm(x + layer.attention_out(attend(layer.qkv(x))))
            x = layer.norm(x + layer.ffn_out(F.gelu(layer.ffn_in(x))))
        return x[:tokens]

    def _to_device(self, values: NDArray[np.integer[Any]]) -> Tensor:
        tensor = torch.from_numpy(values.astype(np.int64, copy=False))
        # From pinned memory the copy runs beside the computation of the batch before.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _attention(self, lengths: NDArray[np.int64], ends: NDArray[np.int64]) -> Callable[[Tensor], Tensor]:
        """(R, 3 D) queries, keys and values -> (R, D), for these sections; spare rows become zeros."""
        if self.device.type == "cuda" and self.dtype != torch.float32:
            bounds = self._to_device(np.concatenate([[0], ends])).to(torch.int32)
            longest = int(lengths.max())
            return lambda qkv: _attend_varlen(qkv, self.sizes.heads, bounds, longest)
        groups = list(_runs(lengths))
        heads, dim = self.sizes.heads, self.sizes.dim
        # Measured on AVX512-BF16: two products and a softmax take half the time of SDPA in bfloat16; in float32
        # SDPA is the faster.
        plain = self.dtype == torch.bfloat16 and self.device.type == "cpu"

        def attend(qkv: Tensor) -> Tensor:
            out = qkv.new_zeros(len(qkv), dim)
            for start, count, length in groups:
                rows = slice(start, start + count * length)
                part = qkv[rows].view(count, length, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
                attended = _products(part) if plain else _sdpa(part)
                out[rows].view(count, length, heads, dim // heads).copy_(attended.transpose(1, 2))
            return out

        return attend


_QKV = ("query", "key", "value")


class _Weights:
    """The tensors of a safetensors file, by the names that transformers gives them; memory-mapped.

    Args:
        path: of the file.
        tuned: tensors that stand in for those of the file.
    """

    def __init__(self, path: Path, tuned: Mapping[str, Tensor]) -> None:
        self._path = path
        opener: Any = safe_open  # untyped
        self._file = opener(path, framework="pt", device="cpu")
        words = [name for name in self._file.keys() if name.endswith(_WORDS)]  # noqa: SIM118 -- not a dictionary
        if len(words) != 1:
            raise BackboneError(f"{path} is not a BERT checkpoint: tensors named {_WORDS}: {words}")
        self._prefix = words[0].removesuffix(_WORDS)
        self._tuned: Mapping[str, Tensor] = {}
        for name, value in tuned.items():
            if self[name].shape != value.shape:
                raise BackboneError(
                    f"{path}: tensor {name} is {tuple(self[name].shape)}, but the fine-tuned one is "
                    f"{tuple(value.shape)}: the model was trained on another backbone"
                )
        self._tuned = tuned

    def __getitem__(self, name: str) -> Tensor:
        if name in self._tuned:
            return self._tuned[name]
        try:
            tensor: Tensor = self._file.get_tensor(self._prefix + name)
        except Exception as e:
            raise BackboneError(f"{self._path} lacks tensor {self._prefix + name}: copy the checkpoint again") from e
        return tensor

    def linear(self, name: str) -> tuple[Tensor, Tensor]:
        """(weight, bias)."""
        return self[f"{name}.weight"], self[f"{name}.bias"]


def _bound_kernel_caches() -> None:
    """Where the user set nothing else; read by the first product of the process."""
    for name, capacity in _KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)


def _can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    onednn: Any = torch.backends.mkldnn
    if device.type != "cpu" or not onednn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def _runs(lengths: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """(first token, sections, tokens of each) of neighbours of one length; empty sections are left out.

    Example:
        >>> list(_runs(np.array([5, 5, 3])))
        [(0, 2, 5), (10, 1, 3)]
    """
    start = 0
    for length, same in itertools.groupby(lengths.tolist()):
        count = sum(1 for _ in same)
        if length:
            yield start, count, length
        start += count * length


def _products(part: Tensor) -> Tensor:
    """(3, B, H, T, D / H) -> (B, H, T, D / H)."""
    _, batch, heads, tokens, width = part.shape
    q, k, v = part.reshape(3, batch * heads, tokens, width)
    # Softmax in float32: in bfloat16 it is up to four times slower where T is no multiple of 32.
    shares = torch.bmm(q, k.transpose(1, 2)).softmax(-1, dtype=torch.float32).to(q.dtype)  # (B x H, T, T)
    return torch.bmm(shares, v).view(batch, heads, tokens, width)


def _sdpa(part: Tensor) -> Tensor:
    """(3, B, H, T, D / H) -> (B, H, T, D / H)."""
    q, k, v = part
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def _attend_varlen(qkv: Tensor, heads: int, bounds: Tensor, longest: int) -> Tensor:
    """Flash attention over sections of any lengths, on a GPU; bounds: (S + 1,) int32."""
    from torch.nn.attention.varlen import varlen_attn

    tokens, width = qkv.shape
    q, k, v = qkv.view(tokens, 3, heads, width // (3 * heads)).unbind(1)
    attended: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, scale=1.0)
    merged: Tensor = attended.reshape(tokens, width // 3)
    return merged
