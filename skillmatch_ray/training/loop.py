"""The training loop of one worker: pure torch, the same with and without Ray."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from skillmatch_ray.backbone.encoder import pick_dtype
from skillmatch_ray.backbone.trainable import TrainableBackbone
from skillmatch_ray.config import TrainingSettings
from skillmatch_ray.documents import Document, DocumentKind
from skillmatch_ray.errors import ModelError
from skillmatch_ray.losses.base import Embedded, Loss
from skillmatch_ray.model.batch import EncodedDocument
from skillmatch_ray.model.matcher import Towers, Vectors, assemble
from skillmatch_ray.relations import RelationBatch
from skillmatch_ray.training.distributed import gather_rows, share_of, world
from skillmatch_ray.training.sampler import RelationSampler
from skillmatch_ray.training.source import StateSource, hide_sections

BACKBONE: Final = "backbone.model."
"""Of the names of the backbone's weights in a `TrainingModel`."""


class TrainingModel(nn.Module):
    """Towers, loss and perhaps a trained backbone as one module, so that data-parallel training sees one call.

    Args:
        towers: what is trained.
        loss: may have parameters of its own (a learned temperature).
        backbone: documents then hold token ids instead of states.
    """

    def __init__(self, towers: Towers, loss: Loss, backbone: TrainableBackbone | None = None) -> None:
        super().__init__()
        self.towers = towers
        self.loss = loss
        self.backbone = backbone

    def forward(
        self,
        projects: Sequence[EncodedDocument],
        freelancers: Sequence[EncodedDocument],
        relations: RelationBatch,
    ) -> Tensor:
        """() loss of the whole batch, from this worker's share of its documents."""
        own_projects, own_freelancers = self.towers(self.states(projects), self.states(freelancers))
        return self.loss(  # type: ignore[no-any-return]
            Embedded.of(
                gather_rows(own_projects, len(relations.project_ids)),
                gather_rows(own_freelancers, len(relations.freelancer_ids)),
                relations,
            )
        )

    def states(self, documents: Sequence[EncodedDocument]) -> Sequence[EncodedDocument]:
        """Token states of documents that hold ids; documents that hold states as they are."""
        if self.backbone is None:
            return documents
        sections = [ids.cpu().numpy() for document in documents for ids in document.states]
        return assemble([document.types for document in documents], self.backbone(sections))

    @torch.no_grad()
    def encode(self, kind: DocumentKind, documents: Sequence[EncodedDocument]) -> Vectors:
        """(B, D) float32 vectors of documents as the training's source gives them."""
        return self.towers.encode(kind, self.states(documents))

    def trained_state(self) -> dict[str, Tensor]:
        """Weights without those of the backbone that stay frozen."""
        state = {name: value for name, value in self.state_dict().items() if not name.startswith(BACKBONE)}
        return state | self.tuned()

    def tuned(self) -> dict[str, Tensor]:
        """The weights of the backbone that learn."""
        trained = self.backbone.trained() if self.backbone is not None else {}
        return {BACKBONE + name: value.detach() for name, value in trained.items()}

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `trained_state`.

        Raises:
            ModelError: if a weight is missing or unknown.
        """
        wanted = self.trained_state().keys()
        if state.keys() != wanted:
            raise ModelError(f"checkpoint and model differ in the weights {sorted(state.keys() ^ wanted)[:5]}")
        self.load_state_dict(dict(state), strict=False)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then a cosine down to a tenth; a pure function of the step, so nothing to save."""
    warmup = max(1, round(settings.warmup_share * settings.steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress))))


def parameter_groups(model: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Trainable parameters by how they learn; `scale` is a group's learning rate over the usual one.

    Section weights are few and each moves every vector, and the projection starts at a good place already, so both
    learn at a rate of their own. Vectors and embeddings do not decay.
    """
    groups: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_group_of(name, parameter)].append(parameter)
    usual = settings.learning_rate
    rates = {
        "backbone": settings.backbone_learning_rate,
        "projections": settings.projection_rate,
        "section_weights": settings.section_weight_rate,
    }
    return [
        {
            "params": found,
            "lr": usual,
            "scale": rates.get(group, usual) / usual,
            "weight_decay": settings.weight_decay if group in ("matrices", "projections") else 0.0,
        }
        for group, found in groups.items()
    ]


def _group_of(name: str, parameter: nn.Parameter) -> str:
    if "backbone." in name:
        return "backbone"
    if name.endswith("section_weight"):
        return "section_weights"
    if name.endswith("projection.weight"):
        return "projections"
    return "vectors" if parameter.ndim <= 1 or name.endswith("type_embedding.weight") else "matrices"


@dataclass
class StepReport:
    """What one step tells.

    Attributes:
        step: counted from 1.
        loss: of the whole batch.
        learning_rate: used.
        tokens: of all documents of this worker's share.
        seconds: of the step.
        negatives_per_anchor: mean number of freelancers that a project was told apart from.
        documents: of the whole batch, over all workers.
    """

    step: int
    loss: float
    learning_rate: float
    tokens: int
    seconds: float
    negatives_per_anchor: float
    documents: int


@dataclass
class Loop:
    """Trains towers on batches of relations.

    Args:
        model: towers and loss, perhaps wrapped for data-parallel training.
        sampler: batches of ids.
        documents: "project" and "freelancer" -> id -> document.
        source: documents to token states.
        settings: steps, learning rate and so on.
        seed: of dropout and hidden sections.
        device: where the towers are.
    """

    model: nn.Module
    sampler: RelationSampler
    documents: Mapping[str, Mapping[str, Document]]
    source: StateSource
    settings: TrainingSettings
    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: int = 0

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.settings))
        self.dtype = pick_dtype(self.settings.dtype, self.device)

    @property
    def core(self) -> TrainingModel:
        """The model without its data-parallel wrapper."""
        core = getattr(self.model, "module", self.model)
        if not isinstance(core, TrainingModel):
            raise TypeError(f"the loop trains a TrainingModel, not a {type(core).__name__}")
        return core

    def run(self, until: int, on_step: Callable[[StepReport], None] = lambda _: None) -> None:
        """Train up to step `until`."""
        self.model.train()
        while self.step < until:
            on_step(self.train_step())

    def train_step(self) -> StepReport:
        """One optimiser step."""
        started = time.perf_counter()
        relations = self.sampler.batch(self.step)
        projects, freelancers = self._own_documents(relations)
        self._seed_dropout()
        rate = learning_rate(self.step, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            loss = self.model(projects, freelancers, relations)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.settings.gradient_clip)
        self.optimizer.step()
        self.step += 1
        tokens = sum(d.tokens for d in (*projects, *freelancers))
        negatives = float((relations.signs <= 0).sum() / max(1, len(relations.project_ids)))
        documents = len(relations.project_ids) + len(relations.freelancer_ids)
        return StepReport(self.step, loss.item(), rate, tokens, time.perf_counter() - started, negatives, documents)

    def _own_documents(self, batch: RelationBatch) -> tuple[list[EncodedDocument], list[EncodedDocument]]:
        return self._own("project", batch.project_ids), self._own("freelancer", batch.freelancer_ids)

    def _own(self, kind: str, ids: Sequence[str]) -> list[EncodedDocument]:
        rank, workers = world()
        own = share_of(len(ids), rank, workers)
        encoded = self.source([self.documents[kind][ids[i]] for i in own])
        share = self.settings.section_dropout
        streams = (np.random.default_rng([self.seed, 3, self.step, int(kind == "project"), i]) for i in own)
        hidden = [hide_sections(document, share, rng) for document, rng in zip(encoded, streams, strict=True)]
        return [
            EncodedDocument(document.types, tuple(state.to(self.device) for state in document.states))
            for document in hidden
        ]

    def _seed_dropout(self) -> None:
        rank, _ = world()
        torch.manual_seed(int(np.random.default_rng([self.seed, 4, self.step, rank]).integers(2**62)))

    def state(self) -> dict[str, Any]:
        """All that a resume needs: everything else is a pure function of seed and step."""
        return {"step": self.step, "model": self.core.trained_state(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.step = int(state["step"])
        self.core.load_trained_state(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
