"""`skillmatch benchmark train`: documents a second of training, ours and sentence-transformers', in one run.

Ours is `skillmatch train` itself on Ray Train: token states from the cache or live, one worker or two on the same
cores. The peer fits the same backbone on (project, freelancer) pairs of the same sample with its own in-batch loss,
once as people use it (every weight learns) and once with a frozen backbone below a trained dense layer. Its documents
are one text of all sections, cut to as many tokens; it computes the backbone in every step.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import torch

from skillmatch_ray.backbone.encoder import Backbone
from skillmatch_ray.benchmarks.encode_peers import peer_checkpoint, sentence_transformer
from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Document
from skillmatch_ray.files import write_json
from skillmatch_ray.model.matcher import section_prefix
from skillmatch_ray.pipeline.session import ensure_ray
from skillmatch_ray.pipeline.token_states import cache_token_states
from skillmatch_ray.sample.generator import write_sample
from skillmatch_ray.training.setup import build_sampler, read_history
from skillmatch_ray.training.train import METRICS_FILE, train

DEFAULT_DOCUMENTS: Final = 200
DEFAULT_STEPS: Final = 8
WARM_STEPS: Final = 2
"""First steps that no rate counts: memory is laid out, kernels are chosen."""

OURS: Final[Mapping[str, Mapping[str, Any]]] = {
    "cached_1_worker": {"workers": 1},
    "cached_2_workers": {"workers": 2},
    "live_1_worker": {"workers": 1, "live_states": True},
    "live_2_workers": {"workers": 2, "live_states": True},
}
PEERS: Final = {"sentence_transformers_full": True, "sentence_transformers_frozen_dense": False}
"""Name -> whether the backbone learns."""


@dataclass(frozen=True)
class TrainRate:
    """One contestant.

    Attributes:
        documents_per_s: projects and freelancers through forward, backward and optimiser, steady state.
        documents: on which it was measured.
        seconds: that they took.
        last_loss: of its own loss.
    """

    documents_per_s: float
    documents: int
    seconds: float
    last_loss: float


@dataclass
class TrainBenchmark:
    """What one run found.

    Attributes:
        machine: cores, threads, versions, load before the run.
        settings: sample, steps, head and batch.
        rates: contestant -> rate.
        ratios: cached_1_worker over each of the others.
        cache: seconds and bytes of the token states, which the cached rates do not hold.
        not_run: contestant -> why.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    rates: dict[str, TrainRate] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)
    cache: dict[str, float] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


def benchmark_train(
    config: Config, *, documents: int = DEFAULT_DOCUMENTS, steps: int = DEFAULT_STEPS, report: Path | None = None
) -> TrainBenchmark:
    """Measure everything in one run; writes `report` as JSON where given.

    Args:
        config: backbone, model, training and ray settings; the seed of the sample.
        documents: freelancers of the built-in sample, and as many projects.
        steps: of each contestant, `WARM_STEPS` not counted among them.
        report: where the figures go.
    """
    config = _changed(config, steps=steps + WARM_STEPS, validation_share=0.0, validate_every=steps + WARM_STEPS)
    ensure_ray(config.ray)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        sizes = {"freelancers": documents, "projects": documents}
        write_sample(root / "data", config.sample.model_copy(update=sizes), config.seed)
        dataset = Dataset(root / "data")
        result = _describe(config, documents, steps)
        result.cache = _fill_cache(config, dataset, root)
        for name, change in OURS.items():
            result.rates[name] = _ours(_changed(config, **change), dataset, root, name)
        _run_peers(result, config, dataset, root)
    own = result.rates["cached_1_worker"].documents_per_s
    result.ratios = {
        f"cached_1_worker_over_{name}": round(own / rate.documents_per_s, 3)
        for name, rate in result.rates.items()
        if name != "cached_1_worker"
    }
    if report is not None:
        write_json(report, asdict(result))
    return result


def _changed(config: Config, **training: Any) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def _describe(config: Config, documents: int, steps: int) -> TrainBenchmark:
    machine = {"cores": psutil.cpu_count(), "load_before": psutil.getloadavg()[0], "torch": torch.__version__}
    settings = {
        "freelancers": documents,
        "projects": documents,
        "steps": steps,
        "layers": config.model.layers,
        "projects_per_step": config.training.projects_per_step,
        "backbone": config.backbone.name,
        "use_gpu": config.training.use_gpu,
        "seed": config.seed,
    }
    return TrainBenchmark(machine, settings)


def _fill_cache(config: Config, dataset: Dataset, root: Path) -> dict[str, float]:
    started = time.perf_counter()
    done = cache_token_states(dataset, config, root / "states")
    return {"seconds": round(time.perf_counter() - started, 2), "bytes": done.bytes, "sections": done.computed}


def _ours(config: Config, dataset: Dataset, root: Path, name: str) -> TrainRate:
    run = root / "runs" / name
    train(config, dataset, root / "states", root / "models" / name, run)
    lines = [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return _rate([(s["documents"], s["seconds"], s["loss"]) for s in lines if "loss" in s])


def _rate(steps: Sequence[tuple[int, float, float]]) -> TrainRate:
    """(documents, seconds, loss) of each step -> the rate without the warm ones.

    Example:
        >>> _rate([(9, 9.0, 3.0), (9, 9.0, 3.0), (4, 1.0, 2.0), (8, 3.0, 1.0)])
        TrainRate(documents_per_s=3.0, documents=12, seconds=4.0, last_loss=1.0)
    """
    counted = steps[WARM_STEPS:]
    documents, seconds = sum(s[0] for s in counted), sum(s[1] for s in counted)
    return TrainRate(round(documents / seconds, 2), documents, round(seconds, 3), round(counted[-1][2], 4))


def _run_peers(result: TrainBenchmark, config: Config, dataset: Dataset, root: Path) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        result.not_run |= dict.fromkeys(PEERS, "not installed: pip install 'skillmatch-ray[benchmark]'")
        return
    device = "cuda" if config.training.use_gpu else "cpu"
    backbone = Backbone.load(config.backbone, device)
    checkpoint = peer_checkpoint(backbone, root / "peer")
    for name, learns in PEERS.items():
        model = _peer_model(checkpoint, backbone, config, learns=learns)
        result.rates[name] = _rate(_fit(model, list(_pairs(config, dataset)), config))


def _peer_model(checkpoint: Path, backbone: Backbone, config: Config, *, learns: bool) -> Any:
    model = sentence_transformer(checkpoint, backbone, torch.float32)
    model.max_seq_length = config.model.max_document_tokens
    if not learns:
        from sentence_transformers.sentence_transformer.modules import Dense

        model.requires_grad_(requires_grad=False)
        model.append(Dense(backbone.dim, backbone.dim, activation_function=torch.nn.Identity()))
        model.to(model.device)
    return model


def _pairs(config: Config, dataset: Dataset) -> Iterator[tuple[list[str], list[str]]]:
    """Texts of the projects of each step and of one positive of each, in the order of our own sampler."""
    history = read_history(dataset, config)
    sampler = build_sampler(config, history)

    def text(document: Document) -> str:
        prefix = section_prefix(document.kind, config.backbone)
        return prefix + "\n".join(section.text for section in document.sections())

    for step in range(config.training.steps):
        projects = sampler.batch(step).project_ids
        positives = [history.relations.positives(p)[0] for p in projects]
        yield [text(history.projects[p]) for p in projects], [text(history.freelancers[f]) for f in positives]


def _fit(model: Any, batches: Sequence[tuple[list[str], list[str]]], config: Config) -> list[tuple[int, float, float]]:
    """(documents, seconds, loss) of each step of sentence-transformers' own model and loss."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    loss_of: Callable[..., torch.Tensor] = MultipleNegativesRankingLoss(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=config.training.backbone_learning_rate)
    model.train()
    steps = []
    for texts in batches:
        started = time.perf_counter()
        features = [
            {name: value.to(model.device) for name, value in model.preprocess(part).items() if torch.is_tensor(value)}
            for part in texts
        ]
        loss = loss_of(features, torch.arange(len(texts[0]), device=model.device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning, config.training.gradient_clip)
        optimizer.step()
        value = float(np.asarray(loss.detach().cpu()))
        steps.append((sum(map(len, texts)), time.perf_counter() - started, value))
    return steps
