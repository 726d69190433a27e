"""The peers of `skillmatch benchmark encode`: sentence-transformers, ONNX Runtime, fastembed over the same weights.

A peer is a function from texts to one vector a section, the mean over its tokens. Before it is timed its vectors
must agree with ours: a peer that computes less is no peer. Shapes: S sections, T tokens, D dimensions.
"""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skillmatch_ray.backbone.encoder import Backbone, TokenIds, TokenStates, token_budget_batches
from skillmatch_ray.backbone.resolve import CHECKPOINT_FILES
from skillmatch_ray.files import write_json

Encode = Callable[[Sequence[str]], NDArray[np.float32]]

BATCH_SIZES = (8, 16, 32, 64, 128)
TOKEN_BUDGETS = (1024, 4096)
AGREEMENT_SECTIONS = 200
LEAST_AGREEMENT = 0.98
ONNX_FILE = "model.onnx"
ONNX_INPUTS = ("input_ids", "attention_mask")
_TASTE = 64
"""Sections by whose time the size of the subset is chosen."""


@dataclass(frozen=True)
class Rate:
    """One contestant.

    Attributes:
        tokens_per_s: backbone tokens, steady state.
        sections: on which it was measured.
        startup_s: until the first result, not in the rate.
        note: how it was set.
        tokens: on which it was measured.
        tokens_per_cpu_s: per second of processor time; other work on the machine hardly changes it.
    """

    tokens_per_s: float
    sections: int
    startup_s: float = 0.0
    note: str = ""
    tokens: int = 0
    tokens_per_cpu_s: float = 0.0

    @property
    def with_startup(self) -> float:
        """Tokens per second, start-up included."""
        return self.tokens / (self.tokens / self.tokens_per_s + self.startup_s)


class Clock:
    """Wall time and processor time of this process since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """(seconds, CPU seconds)."""
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]

    def work(self, backbone: Backbone) -> float:
        """What the device worked: processor time on a CPU, seconds on a GPU."""
        wall_s, cpu_s = self.read()
        return cpu_s if backbone.device.type == "cpu" else wall_s


class PeerError(Exception):
    """A peer cannot take part; the message tells why."""


def sentence_transformers_rates(backbone: Backbone, texts: list[str], directory: Path, seconds: float) -> list[Rate]:
    """[at its defaults, at its best]: float32 and batch 32; the backbone's dtype and the best of `BATCH_SIZES`.

    Args:
        backbone: whose weights and truncation it gets.
        texts: different section texts, in random order; a first part of them is used, as time allows.
        directory: for the checkpoint.
        seconds: about how long each may run.

    Raises:
        PeerError: if it is not installed, or its vectors differ from ours.
    """
    _installed("sentence_transformers")
    checkpoint = peer_checkpoint(backbone, directory)
    started = time.perf_counter()
    default = sentence_transformer(checkpoint, backbone, torch.float32)
    startup = time.perf_counter() - started
    _check(_with_batch(default, 32), backbone, texts)
    first = measure(_with_batch(default, 32), texts, backbone, seconds, startup, "float32, batch 32")
    started = time.perf_counter()
    model = sentence_transformer(checkpoint, backbone, backbone.dtype)
    startup = time.perf_counter() - started
    sizes = {size: _with_batch(model, size) for size in BATCH_SIZES}
    return [first, _best(sizes, "batch", texts, backbone, seconds, startup)]


def onnxruntime_rate(backbone: Backbone, texts: list[str], directory: Path, seconds: float) -> Rate:
    """ONNX Runtime in float32 over length-sorted token-budget batches, the best of `TOKEN_BUDGETS`.

    Its CPU provider has no bfloat16 kernels for this model, so its own float32 rate is what there is.

    Raises:
        PeerError: if it is not installed, the backbone runs on a GPU, or its vectors differ from ours.
    """
    _needs_onnx(backbone, "onnxruntime")
    started = time.perf_counter()
    session = onnx_session(export_onnx(backbone, directory))
    startup = time.perf_counter() - started
    budgets = {budget: _onnx_encode(session, backbone, budget) for budget in TOKEN_BUDGETS}
    _check(budgets[TOKEN_BUDGETS[0]], backbone, texts)
    return _best(budgets, "float32, token budget", texts, backbone, seconds, startup)


def fastembed_rate(backbone: Backbone, texts: list[str], directory: Path, seconds: float) -> Rate:
    """The same ONNX graph in fastembed, float32, the best of `BATCH_SIZES`; it sorts nothing by length.

    Raises:
        PeerError: if it is not installed, the backbone runs on a GPU, or its vectors differ from ours.
    """
    _needs_onnx(backbone, "fastembed")
    export_onnx(backbone, peer_checkpoint(backbone, directory))
    started = time.perf_counter()
    model = fastembed_model(backbone, directory)
    startup = time.perf_counter() - started
    sizes = {size: _fastembed_encode(model, size) for size in BATCH_SIZES}
    _check(sizes[32], backbone, texts)
    return _best(sizes, "float32, batch", texts, backbone, seconds, startup)


def fastembed_model(backbone: Backbone, directory: Path) -> Any:
    """A fastembed model over a directory with `peer_checkpoint` and `export_onnx`; the graph itself takes the mean."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = f"skillmatch-{backbone.fingerprint[:16]}"
    if name not in {known["model"] for known in TextEmbedding.list_supported_models()}:
        TextEmbedding.add_custom_model(
            name, PoolingType.DISABLED, normalization=False, sources=ModelSource(hf=name), dim=backbone.dim,
            model_file=ONNX_FILE,
        )  # fmt: skip
    return TextEmbedding(name, specific_model_path=str(directory), threads=torch.get_num_threads())


def _fastembed_encode(model: Any, size: int) -> Encode:
    return lambda part: np.stack(list(model.embed(list(part), batch_size=size)))


def _needs_onnx(backbone: Backbone, package: str) -> None:
    """What a peer that runs our ONNX graph with `package` needs."""
    for needed in ("onnx", package, "transformers"):
        _installed(needed)
    if backbone.device.type != "cpu":
        raise PeerError("measured on CPUs only")


def _installed(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise PeerError("not installed: pip install 'skillmatch-ray[benchmark]'")


def _check(encode: Encode, backbone: Backbone, texts: Sequence[str]) -> None:
    lowest = agreement(encode, backbone, texts[:AGREEMENT_SECTIONS])
    if lowest < LEAST_AGREEMENT:
        raise PeerError(f"its vectors differ from ours (cosine {lowest:.3f})")


def _best(
    choices: dict[int, Encode], name: str, texts: list[str], backbone: Backbone, seconds: float, startup: float
) -> Rate:
    """The fastest setting on a sample, measured over what `seconds` allow."""
    sample = texts[: max(256, BATCH_SIZES[-1])]
    tuned = {
        size: measure(encode, sample, backbone, seconds / len(choices)).tokens_per_s for size, encode in choices.items()
    }
    best = max(tuned, key=lambda size: tuned[size])
    dtype = "" if "float" in name else f"{str(backbone.dtype).removeprefix('torch.')}, "
    return measure(choices[best], texts, backbone, seconds, startup, f"{dtype}{name} {best} of {list(choices)}")


def measure(
    encode: Encode, texts: list[str], backbone: Backbone, seconds: float, startup: float = 0.0, note: str = ""
) -> Rate:
    """Rate over as many of `texts` as take about `seconds`, judged by a first taste."""
    taste = texts[: min(len(texts), _TASTE)]
    encode(taste[:16])
    started = time.perf_counter()
    encode(taste)
    spent = time.perf_counter() - started
    part = texts[: min(len(texts), max(len(taste), int(len(taste) * min(seconds / spent, len(texts)))))]
    tokens = different_tokens(backbone.tokenize(part))
    clock = Clock()
    encode(part)
    synchronize(backbone)
    wall_s, cpu_s = clock.read()
    return Rate(tokens / wall_s, len(part), startup, note, tokens, tokens / cpu_s)


def different_tokens(tokenized: Sequence[TokenIds]) -> int:
    """Tokens that the backbone reads: sections that are equal after truncation count once."""
    return sum({ids.tobytes(): len(ids) for ids in tokenized}.values())


def section_vectors(states: TokenStates) -> Tensor:
    """(S, D) float32 mean over the tokens of each section."""
    lengths = torch.from_numpy(np.diff(states.offsets)).to(states.states.device)
    owner = torch.repeat_interleave(torch.arange(len(states), device=lengths.device), lengths)
    sums = torch.zeros((len(states), states.states.shape[1]), device=lengths.device)
    return sums.index_add_(0, owner, states.states.float()) / lengths[:, None]


def agreement(encode: Encode, backbone: Backbone, texts: Sequence[str]) -> float:
    """Lowest cosine between a peer's section vectors and ours."""
    ours = nn.functional.normalize(section_vectors(backbone.encode(texts)), dim=-1).cpu()
    theirs = nn.functional.normalize(torch.as_tensor(encode(texts)).float().cpu(), dim=-1)
    return float((ours * theirs).sum(-1).min())


def synchronize(backbone: Backbone) -> None:
    """Wait for a GPU, so that a clock read afterwards tells the truth."""
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)


def _with_batch(model: Any, size: int) -> Encode:
    return lambda part: model.encode(list(part), batch_size=size, show_progress_bar=False)


def peer_checkpoint(backbone: Backbone, directory: Path) -> Path:
    """The same weights and tokenizer, with the file that tells transformers how to load the tokenizer."""
    directory.mkdir()
    for name in CHECKPOINT_FILES:
        (directory / name).symlink_to((backbone.checkpoint / name).resolve())
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    length = {"model_max_length": backbone.settings.max_section_tokens}
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | special | length)
    return directory


def sentence_transformer(checkpoint: Path, backbone: Backbone, dtype: torch.dtype) -> Any:
    """sentence-transformers over `peer_checkpoint`, truncated like the backbone, with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    length = backbone.settings.max_section_tokens
    words = Transformer(str(checkpoint), model_kwargs={"dtype": dtype}, max_seq_length=length)
    return SentenceTransformer(modules=[words, Pooling(backbone.dim, "mean")], device=str(backbone.device))


class _MeanOfTokens(nn.Module):
    """(B, T) ids and 0/1 mask -> (B, D) mean over the tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
        kept = mask[..., None].to(hidden.dtype)
        mean: Tensor = (hidden * kept).sum(1) / kept.sum(1)
        return mean


def export_onnx(backbone: Backbone, directory: Path) -> Path:
    """The same weights as an ONNX graph in float32, of any batch and length."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(backbone.checkpoint, dtype=torch.float32, add_pooling_layer=False)
    ids, mask = torch.zeros((2, 7), dtype=torch.int64), torch.ones((2, 7), dtype=torch.int64)
    axes = {name: {0: "batch", 1: "tokens"} for name in ONNX_INPUTS}
    directory.mkdir(exist_ok=True)
    path = directory / ONNX_FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of each shape that it takes for a constant
        torch.onnx.export(
            _MeanOfTokens(model).eval(), (ids, mask), str(path), input_names=list(axes), output_names=["vectors"],
            dynamic_axes=axes | {"vectors": {0: "batch"}}, dynamo=False,
        )  # fmt: skip
    return path


def onnx_session(path: Path) -> Any:
    """An ONNX Runtime session on all CPUs, with its highest optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() or os.cpu_count() or 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _onnx_encode(session: Any, backbone: Backbone, budget: int) -> Encode:
    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = backbone.tokenize(texts)
        lengths = np.array([len(ids) for ids in tokens])
        vectors = np.empty((len(texts), backbone.dim), dtype=np.float32)
        for batch in token_budget_batches(lengths, budget):
            ids = np.ones((len(batch), int(lengths[batch].max())), dtype=np.int64)
            mask = (np.arange(ids.shape[1]) < lengths[batch][:, None]).astype(np.int64)
            ids[mask.astype(bool)] = np.concatenate([tokens[i] for i in batch])
            vectors[batch] = session.run(["vectors"], dict(zip(ONNX_INPUTS, (ids, mask), strict=True)))[0]
        return vectors

    return encode
