"""`skillmatch benchmark encode`: the pipeline beside a bare loop and sentence-transformers, over the same texts.

Every rate is backbone tokens per second in steady state. Start-up and the head are told apart. A peer that is
too slow for all texts runs on a random subset, whose size is in the report.
"""

from __future__ import annotations

import importlib.util
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from skillmatch_ray.backbone.encoder import Backbone, TokenIds, TokenStates
from skillmatch_ray.backbone.resolve import CHECKPOINT_FILES
from skillmatch_ray.config import Config, ModelSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.files import write_json
from skillmatch_ray.model.matcher import Matcher, section_prefix
from skillmatch_ray.pipeline.encode import encode_freelancers
from skillmatch_ray.sample.generator import write_sample

DEFAULT_DOCUMENTS = 400
FULL_DOCUMENTS = 20_000
PEER_SECONDS = 60.0
"""About how long one setting of a peer may run."""
BATCH_SIZES = (8, 16, 32, 64, 128)
COSINE_SECTIONS = 200
HEAD_DOCUMENTS = 64
LEAST_AGREEMENT = 0.98
LEAST_BLOCKS = 12
"""Of each worker."""
MATRIX = 2048

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Rate:
    """One contestant.

    Attributes:
        tokens_per_s: backbone tokens, steady state.
        sections: on which it was measured.
        startup_s: until the first result, not in the rate.
        note: how it was set.
    """

    tokens_per_s: float
    sections: int
    startup_s: float = 0.0
    note: str = ""


@dataclass
class EncodeBenchmark:
    """What one run found.

    Attributes:
        machine: processor, cores, dtype of the backbone.
        texts: counts of documents, sections and tokens, languages among them.
        rates: contestant -> its rate.
        ratios: pipeline_over_*.
        documents_per_s: of the pipeline, steady state.
        head_share: time of the default head over time of the backbone, same documents.
        cosine_to_float32: lowest and mean over sections.
        matrix_flops: the machine's own matrix product in the backbone's dtype, FLOP/s.
        matrix_share: the pipeline's FLOP/s over it.
        not_run: peer -> why.
        agreement: lowest cosine between our section vectors and those of sentence-transformers.
    """

    machine: dict[str, Any]
    texts: dict[str, Any]
    rates: dict[str, Rate] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    documents_per_s: float = 0.0
    head_share: float = 0.0
    cosine_to_float32: dict[str, float] = field(default_factory=dict)
    matrix_flops: float = 0.0
    matrix_share: float = 0.0
    not_run: dict[str, str] = field(default_factory=dict)
    agreement: float = 0.0


def benchmark_encode(
    config: Config, *, documents: int = DEFAULT_DOCUMENTS, report: Path | None = None, full: bool = False
) -> EncodeBenchmark:
    """Measure everything in one run; writes `report` as JSON where given.

    Args:
        config: backbone, encode and ray settings; the seed of the sample.
        documents: freelancers of the built-in sample.
        report: where the figures go.
        full: 20,000 documents, and every peer over all of them.
    """
    count = FULL_DOCUMENTS if full else documents
    config = _with_many_blocks(config, count)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_sample(root / "data", config.sample.model_copy(update={"freelancers": count}), config.seed)
        people = Dataset(root / "data").freelancers()
        backbone = Backbone.load(config.backbone)
        result = _describe(people, backbone, config)
        result.rates["loop"] = _loop(people, backbone, config)
        result.rates["pipeline"], result.documents_per_s = _pipeline(backbone, config, root)
        _peers(result, _texts(people, backbone), backbone, root, seconds=float("inf") if full else PEER_SECONDS)
        result.head_share = _head_share(people[:HEAD_DOCUMENTS], backbone, config.model)
        result.cosine_to_float32 = _cosine(people, backbone, config)
    _conclude(result, backbone)
    if report is not None:
        write_json(report, asdict(result))
    return result


def _with_many_blocks(config: Config, documents: int) -> Config:
    """Blocks so small that every worker finishes several: a rate needs more than one."""
    most = max(8, documents // (LEAST_BLOCKS * config.encode.workers))
    rows = min(config.encode.rows_per_block, most)
    return config.model_copy(update={"encode": config.encode.model_copy(update={"rows_per_block": rows})})


def _texts(people: Sequence[Freelancer], backbone: Backbone) -> list[str]:
    """Different section texts, prefix included: no side gains from equal ones."""
    prefix = section_prefix("freelancer", backbone.settings)
    return list(dict.fromkeys(prefix + section.text for person in people for section in person.sections()))


def _describe(people: Sequence[Freelancer], backbone: Backbone, config: Config) -> EncodeBenchmark:
    texts = _texts(people, backbone)
    lengths = [len(ids) for ids in backbone.tokenize(texts)]
    machine = {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": psutil.getloadavg()[0],
        "device": str(backbone.device),
        "dtype": str(backbone.dtype),
        "torch": torch.__version__,
        "workers": config.encode.workers,
    }
    described = {
        "documents": len(people),
        "sections": len(texts),
        "tokens": sum(lengths),
        "mean_tokens": round(float(np.mean(lengths)), 1),
        "languages": sorted({person.language or "?" for person in people}),
    }
    return EncodeBenchmark(machine, described)


def _processor() -> str:
    """The processor's name, or the GPU's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _loop(people: Sequence[Freelancer], backbone: Backbone, config: Config) -> Rate:
    """The pipeline's own engine in the pipeline's own blocks, without Ray, disk or head."""
    step = config.encode.rows_per_block
    blocks = [_texts(people[i : i + step], backbone) for i in range(0, len(people), step)]
    backbone.encode(blocks[0][:32])
    started, tokens, sections = time.perf_counter(), 0, 0
    for texts in blocks:
        tokenized = backbone.tokenize(texts)
        states = backbone.encode_tokens(tokenized)
        section_vectors(states)
        tokens += _different_tokens(tokenized)
        sections += len(texts)
    _synchronize(backbone)
    return Rate(
        tokens / (time.perf_counter() - started), sections, note=f"token budget {backbone.settings.token_budget}"
    )


def _different_tokens(tokenized: Sequence[TokenIds]) -> int:
    """Tokens that the backbone reads: sections that are equal after truncation count once."""
    return sum({ids.tobytes(): len(ids) for ids in tokenized}.values())


def section_vectors(states: TokenStates) -> Tensor:
    """(S, D) float32 mean over the tokens of each section."""
    lengths = torch.from_numpy(np.diff(states.offsets)).to(states.states.device)
    owner = torch.repeat_interleave(torch.arange(len(states), device=lengths.device), lengths)
    sums = torch.zeros((len(states), states.states.shape[1]), device=lengths.device)
    return sums.index_add_(0, owner, states.states.float()) / lengths[:, None]


def _pipeline(backbone: Backbone, config: Config, root: Path) -> tuple[Rate, float]:
    """(rate, documents per second): the product's own run, with a model that only pools."""
    Matcher.untrained(backbone, ModelSettings(layers=0)).save(root / "model")
    done = encode_freelancers(config, Dataset(root / "data"), root / "model", root / "out")
    per_document = done.computed_tokens / done.encoded
    rate = Rate(done.steady_tokens_per_s, done.encoded, done.startup_s, f"{done.workers} workers; sections = documents")
    return rate, rate.tokens_per_s / per_document


def _peers(result: EncodeBenchmark, texts: list[str], backbone: Backbone, root: Path, seconds: float) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        result.not_run["sentence-transformers"] = "not installed: pip install 'skillmatch-ray[benchmark]'"
        return
    rng = np.random.default_rng(0)
    shuffled = [texts[i] for i in rng.permutation(len(texts))]
    checkpoint = peer_checkpoint(backbone, root / "peer")
    default = sentence_transformer(checkpoint, backbone, torch.float32)
    result.agreement = agreement(_with_batch(default, 32), backbone, shuffled[:COSINE_SECTIONS])
    if result.agreement < LEAST_AGREEMENT:
        result.not_run["sentence-transformers"] = f"its vectors differ from ours (cosine {result.agreement:.3f})"
        return
    result.rates["sentence_transformers_default"] = _measure(
        _with_batch(default, 32), shuffled, backbone, seconds, "float32, batch 32"
    )
    model = sentence_transformer(checkpoint, backbone, backbone.dtype)
    sample = shuffled[: max(256, BATCH_SIZES[-1])]
    tuned = {
        size: _measure(_with_batch(model, size), sample, backbone, seconds / len(BATCH_SIZES)).tokens_per_s
        for size in BATCH_SIZES
    }
    best = max(tuned, key=lambda size: tuned[size])
    note = f"{str(backbone.dtype).removeprefix('torch.')}, batch {best} of {list(BATCH_SIZES)}"
    result.rates["sentence_transformers_best"] = _measure(_with_batch(model, best), shuffled, backbone, seconds, note)


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


def agreement(encode: Encode, backbone: Backbone, texts: Sequence[str]) -> float:
    """Lowest cosine between a peer's section vectors and ours: a peer that computes less is no peer."""
    ours = torch.nn.functional.normalize(section_vectors(backbone.encode(texts)), dim=-1).cpu()
    theirs = torch.nn.functional.normalize(torch.as_tensor(encode(texts)).float().cpu(), dim=-1)
    return float((ours * theirs).sum(-1).min())


def _measure(encode: Encode, texts: list[str], backbone: Backbone, seconds: float, note: str = "") -> Rate:
    """Rate over a random subset that takes about `seconds`, judged by a first taste."""
    taste = texts[: min(len(texts), 64)]
    encode(taste[:16])
    started = time.perf_counter()
    encode(taste)
    spent = time.perf_counter() - started
    part = texts[: min(len(texts), max(len(taste), int(len(taste) * min(seconds / spent, len(texts)))))]
    tokens = _different_tokens(backbone.tokenize(part))
    started = time.perf_counter()
    encode(part)
    _synchronize(backbone)
    return Rate(tokens / (time.perf_counter() - started), len(part), note=note)


def _head_share(people: Sequence[Freelancer], backbone: Backbone, settings: ModelSettings) -> float:
    matcher = Matcher.untrained(backbone, settings)
    started = time.perf_counter()
    documents = matcher.token_states("freelancer", people)
    _synchronize(backbone)
    encoded = time.perf_counter()
    matcher.towers.encode("freelancer", documents)
    return (time.perf_counter() - encoded) / (encoded - started)


def _cosine(people: Sequence[Freelancer], backbone: Backbone, config: Config) -> dict[str, float]:
    texts = _texts(people, backbone)[:COSINE_SECTIONS]
    exact = Backbone.load(config.backbone.model_copy(update={"dtype": "float32"}), str(backbone.device))
    pair = [torch.nn.functional.normalize(section_vectors(b.encode(texts)), dim=-1) for b in (backbone, exact)]
    cosine = (pair[0] * pair[1]).sum(-1)
    return {"lowest": float(cosine.min()), "mean": float(cosine.mean())}


def _conclude(result: EncodeBenchmark, backbone: Backbone) -> None:
    pipeline = result.rates["pipeline"].tokens_per_s
    for name, rate in result.rates.items():
        if name != "pipeline":
            result.ratios[f"pipeline_over_{name}"] = round(pipeline / rate.tokens_per_s, 3)
    result.matrix_flops = _matrix_flops(backbone)
    flops = flops_per_token(backbone, result.texts["mean_tokens"])
    result.matrix_share = round(pipeline * flops / result.matrix_flops, 3)


def flops_per_token(backbone: Backbone, length: float) -> float:
    """Multiplications and additions of one token in a section of `length` tokens.

    Each layer has 4 matrices of D x D and 2 of D x F, at 2 FLOP a weight, and attention with 4 x length x D.
    """
    sizes = backbone.encoder.sizes
    dim = sizes.dim
    return float(sizes.layers * (2 * (4 * dim * dim + 2 * dim * sizes.ffn) + 4 * length * dim))


def _matrix_flops(backbone: Backbone, repeats: int = 10) -> float:
    a = torch.randn(MATRIX, MATRIX, device=backbone.device).to(backbone.dtype)
    a @ a
    _synchronize(backbone)
    started = time.perf_counter()
    for _ in range(repeats):
        a @ a
    _synchronize(backbone)
    return repeats * 2.0 * MATRIX**3 / (time.perf_counter() - started)


def _synchronize(backbone: Backbone) -> None:
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
