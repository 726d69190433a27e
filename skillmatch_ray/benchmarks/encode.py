"""`skillmatch benchmark encode`: the pipeline beside a bare loop and other engines, over the same texts.

Every rate is backbone tokens per second in steady state, section vectors without the head on every side. Start-up
and the head are told apart. A peer that is too slow for all texts runs on a random subset, whose size is told.
"""

from __future__ import annotations

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
from rich.console import Group
from rich.table import Table

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.benchmarks.encode_peers import (
    AGREEMENT_SECTIONS,
    Clock,
    PeerError,
    Rate,
    different_tokens,
    fastembed_rate,
    onnxruntime_rate,
    section_vectors,
    sentence_transformers_rates,
    synchronize,
)
from skillmatch_ray.config import Config, ModelSettings
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Freelancer
from skillmatch_ray.files import write_json
from skillmatch_ray.model.matcher import Matcher, section_prefix
from skillmatch_ray.pipeline.encode import encode_freelancers, head_vectors
from skillmatch_ray.pipeline.session import threads_for
from skillmatch_ray.planning.flops import transformer_flops
from skillmatch_ray.sample.generator import write_sample

DEFAULT_DOCUMENTS = 600
FULL_DOCUMENTS = 20_000
PEER_SECONDS = 40.0
"""About how long one setting of a peer may run."""
HEAD_DOCUMENTS = 64
LEAST_BLOCKS = 6
"""Of each worker."""
MATRIX = 2048

Progress = Callable[[float, float, str], None]


@dataclass
class EncodeBenchmark:
    """What one run found.

    Attributes:
        machine: processor, cores, dtype of the backbone.
        texts: counts of documents, sections and tokens, languages among them.
        rates: contestant -> its rate.
        ratios: pipeline_over_*, steady state.
        ratios_per_cpu_s: the same per second of processor time: what remains where other work shares the machine.
        ratios_with_startup: the same with every side's start-up in its time.
        documents_per_s: of the pipeline, steady state, without the head.
        head_share: time of the default head over that of the backbone, same documents (on a CPU: processor time).
        documents_per_s_with_head: the same with the default head.
        worker_peak_mb: most memory that a worker of the pipeline held.
        cosine_to_float32: lowest and mean over sections.
        matrix_flops: the machine's own matrix product in the backbone's dtype, FLOP/s.
        matrix_flops_float32: in float32.
        matrix_share: the pipeline's FLOP over those of matrix products in the same processor time (on a GPU: time).
        not_run: peer -> why.
        seconds: of everything.
    """

    machine: dict[str, Any]
    texts: dict[str, Any]
    rates: dict[str, Rate] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    ratios_per_cpu_s: dict[str, float] = field(default_factory=dict)
    ratios_with_startup: dict[str, float] = field(default_factory=dict)
    documents_per_s: float = 0.0
    head_share: float = 0.0
    documents_per_s_with_head: float = 0.0
    worker_peak_mb: float = 0.0
    cosine_to_float32: dict[str, float] = field(default_factory=dict)
    matrix_flops: float = 0.0
    matrix_flops_float32: float = 0.0
    matrix_share: float = 0.0
    not_run: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For reports; the ratios stand at the top."""
        return self.ratios | asdict(self)

    def render(self) -> Group:
        """For people."""
        return Group(self._table(), *self._lines(), *(f"not run: {name}: {why}" for name, why in self.not_run.items()))

    def _table(self) -> Table:
        texts = self.texts
        table = Table(
            "engine", "tokens/s", "pipeline over it", "per CPU second", "pipeline over it", "on sections", "start-up s",
            "settings",
            title=f"{texts['documents']:,} documents, {texts['sections']:,} sections, {texts['mean_tokens']} tokens "
            f"each on average, {len(texts['languages'])} languages; {self.machine['processor']}", title_justify="left",
        )  # fmt: skip
        for name, rate in self.rates.items():
            ratios = (of.get(f"pipeline_over_{name}", 1.0) for of in (self.ratios, self.ratios_per_cpu_s))
            wall, cpu = (f"{ratio:.2f}" for ratio in ratios)
            table.add_row(
                name.replace("_", " "), f"{rate.tokens_per_s:,.0f}", wall, f"{rate.tokens_per_cpu_s:,.0f}", cpu,
                f"{rate.sections:,}", f"{rate.startup_s:.1f}", rate.note,
            )  # fmt: skip
        return table

    def _lines(self) -> list[str]:
        dtype, cosine = str(self.machine["dtype"]).removeprefix("torch."), self.cosine_to_float32
        products = (self.matrix_flops / 1e9, self.matrix_flops_float32 / 1e9)
        return [
            *(f"{name} = {ratio:.2f}" for name, ratio in self.ratios.items()),
            f"documents/s: {self.documents_per_s:,.1f} without the head, {self.documents_per_s_with_head:,.1f} with it",
            f"head: {self.head_share:.0%} of the backbone's time",
            f"memory of a worker: {self.worker_peak_mb:,.0f} MB at most",
            f"cosine to float32: {cosine['lowest']:.5f} lowest, {cosine['mean']:.5f} mean",
            f"matrix products, GFLOP/s: {products[0]:,.0f} {dtype}, {products[1]:,.0f} float32",
            f"the pipeline reaches {self.matrix_share:.0%} of the {dtype} rate",
            "with start-up: " + ", ".join(f"{name} = {ratio:.2f}" for name, ratio in self.ratios_with_startup.items()),
        ]


def benchmark_encode(
    config: Config,
    *,
    documents: int = DEFAULT_DOCUMENTS,
    report: Path | None = None,
    full: bool = False,
    peers: bool = True,
    progress: Progress = lambda *_: None,
) -> EncodeBenchmark:
    """Measure everything in one run; writes `report` as JSON where given.

    Args:
        config: backbone, encode and ray settings; the seed of the sample.
        documents: freelancers of the built-in sample.
        report: where the figures go.
        full: 20,000 documents, and every peer over all of them.
        peers: whether sentence-transformers, ONNX Runtime and fastembed run too.
        progress: called with (steps done, steps, what comes).
    """
    begun = time.perf_counter()
    count = FULL_DOCUMENTS if full else documents
    seconds = float("inf") if full else PEER_SECONDS
    config = _with_many_blocks(config, count)
    torch.set_num_threads(threads_for(1, config.encode.threads_per_worker))
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        progress(0, 7, "sample")
        write_sample(root / "data", config.sample.model_copy(update={"freelancers": count}), config.seed)
        people = Dataset(root / "data").freelancers()
        backbone = Backbone.load(config.backbone)
        result = _describe(people, backbone)
        progress(1, 7, "bare loop")
        result.rates["loop"] = _loop(people, backbone, config)
        progress(2, 7, "pipeline")
        _pipeline(result, backbone, config, root)
        if peers:
            _peers(result, backbone, _shuffled(_texts(people, backbone)), root, seconds, progress=progress)
        progress(6, 7, "head, precision, matrix products")
        result.head_share = _head_share(people[:HEAD_DOCUMENTS], backbone, config.model)
        result.cosine_to_float32 = _cosine(people, backbone, config)
    _conclude(result, backbone)
    result.seconds = round(time.perf_counter() - begun, 1)
    if report is not None:
        write_json(report, result.as_dict())
    return result


def _shuffled(texts: list[str]) -> list[str]:
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def _peers(
    result: EncodeBenchmark, backbone: Backbone, texts: list[str], root: Path, seconds: float, *, progress: Progress
) -> None:
    try:
        progress(3, 7, "sentence-transformers")
        default, best = sentence_transformers_rates(backbone, texts, root / "peer", seconds)
        result.rates |= {"sentence_transformers_default": default, "sentence_transformers_best": best}
    except PeerError as e:
        result.not_run["sentence-transformers"] = str(e)
    for step, name, rate in ((4, "onnxruntime", onnxruntime_rate), (5, "fastembed", fastembed_rate)):
        try:
            progress(step, 7, name)
            result.rates[name] = rate(backbone, texts, root / name, seconds)
        except PeerError as e:
            result.not_run[name] = str(e)


def _with_many_blocks(config: Config, documents: int) -> Config:
    """Blocks so small that every worker finishes several: a rate needs more than one."""
    most = max(8, documents // (LEAST_BLOCKS * (config.encode.workers or psutil.cpu_count() or 1)))
    rows = min(config.encode.rows_per_block, most)
    return config.model_copy(update={"encode": config.encode.model_copy(update={"rows_per_block": rows})})


def _texts(people: Sequence[Freelancer], backbone: Backbone) -> list[str]:
    """Different section texts, prefix included: no side gains from equal ones."""
    prefix = section_prefix("freelancer", backbone.settings)
    return list(dict.fromkeys(prefix + section.text for person in people for section in person.sections()))


def _describe(people: Sequence[Freelancer], backbone: Backbone) -> EncodeBenchmark:
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
    clock, tokens, sections = Clock(), 0, 0
    for texts in blocks:
        tokenized = backbone.tokenize(texts)
        states = backbone.encode_tokens(tokenized)
        section_vectors(states)
        tokens += different_tokens(tokenized)
        sections += len(texts)
    synchronize(backbone)
    note = f"token budget {backbone.token_budget}, {torch.get_num_threads()} threads"
    wall_s, cpu_s = clock.read()
    return Rate(tokens / wall_s, sections, note=note, tokens=tokens, tokens_per_cpu_s=tokens / cpu_s)


def _pipeline(result: EncodeBenchmark, backbone: Backbone, config: Config, root: Path) -> None:
    """The product's own run, with a model that only pools."""
    Matcher.untrained(backbone, ModelSettings(layers=0)).save(root / "model")
    done = encode_freelancers(config, Dataset(root / "data"), root / "model", root / "out")
    # What is not steady: reading, starting Ray and workers, publishing.
    startup = max(0.0, done.seconds - done.computed_tokens / done.steady_tokens_per_s)
    note = f"{done.workers} workers; on documents, not sections"
    result.rates["pipeline"] = Rate(
        done.steady_tokens_per_s, done.encoded, startup, note, done.computed_tokens, done.steady_tokens_per_cpu_s
    )
    result.documents_per_s = round(done.steady_tokens_per_s * done.encoded / done.computed_tokens, 2)
    result.worker_peak_mb = done.peak_mb
    result.machine["workers"] = done.workers


def _head_share(people: Sequence[Freelancer], backbone: Backbone, settings: ModelSettings) -> float:
    matcher = Matcher.untrained(backbone, settings)
    clock = Clock()
    documents = matcher.token_states("freelancer", people)
    synchronize(backbone)
    encoded = clock.work(backbone)
    head_vectors(matcher, documents)
    return (clock.work(backbone) - encoded) / encoded


def _cosine(people: Sequence[Freelancer], backbone: Backbone, config: Config) -> dict[str, float]:
    texts = _texts(people, backbone)[:AGREEMENT_SECTIONS]
    exact = Backbone.load(config.backbone.model_copy(update={"dtype": "float32"}), str(backbone.device))
    pair = [torch.nn.functional.normalize(section_vectors(b.encode(texts)), dim=-1) for b in (backbone, exact)]
    cosine = (pair[0] * pair[1]).sum(-1)
    return {"lowest": float(cosine.min()), "mean": float(cosine.mean())}


def _conclude(result: EncodeBenchmark, backbone: Backbone) -> None:
    pipeline = result.rates["pipeline"]
    for name, rate in result.rates.items():
        if name != "pipeline":
            result.ratios[f"pipeline_over_{name}"] = round(pipeline.tokens_per_s / rate.tokens_per_s, 3)
            per_cpu_s = pipeline.tokens_per_cpu_s / rate.tokens_per_cpu_s
            result.ratios_per_cpu_s[f"pipeline_over_{name}"] = round(per_cpu_s, 3)
            result.ratios_with_startup[f"pipeline_over_{name}"] = round(pipeline.with_startup / rate.with_startup, 3)
    result.documents_per_s_with_head = round(result.documents_per_s / (1 + result.head_share), 2)
    result.matrix_flops, work = _matrix_flops(backbone, backbone.dtype)
    result.matrix_flops_float32, _ = _matrix_flops(backbone, torch.float32)
    flops = flops_per_token(backbone, result.texts["mean_tokens"])
    reached = pipeline.tokens_per_cpu_s if backbone.device.type == "cpu" else pipeline.tokens_per_s
    result.matrix_share = round(reached * flops / work, 3)


def flops_per_token(backbone: Backbone, length: float) -> float:
    """Multiplications and additions of one token in a section of `length` tokens."""
    sizes = backbone.encoder.sizes
    return transformer_flops(layers=sizes.layers, dim=sizes.dim, ffn=sizes.ffn, length=length)


def _matrix_flops(backbone: Backbone, dtype: torch.dtype, repeats: int = 10) -> tuple[float, float]:
    """FLOP of square matrix products, per second and per second of `Clock.work`."""
    a = torch.randn(MATRIX, MATRIX, device=backbone.device).to(dtype)
    a @ a
    synchronize(backbone)
    clock = Clock()
    for _ in range(repeats):
        a @ a
    synchronize(backbone)
    flops = repeats * 2.0 * MATRIX**3
    return flops / clock.read()[0], flops / clock.work(backbone)
