"""Adapting the backbone to words that are known in several languages, before a head is trained on it.

A frozen backbone puts the words of a trade that it met too rarely in other places for each language, and a head that
learns from a history mends that for words of the history alone. Contrastive steps over translated phrases move the
transformer layers themselves, which carries over to words that are not among them. What comes out is a checkpoint
like any other, frozen in all that follows. Our own addition: arXiv 2409.12097 takes the backbone as it is.

Shapes: N pairs of texts in a step, D dimensions.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from skillmatch_ray.backbone.encoder import Backbone, pick_device
from skillmatch_ray.backbone.trainable import TrainableBackbone
from skillmatch_ray.config import AdaptationSettings, Config, TrainingSettings
from skillmatch_ray.console import Advance
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.evaluation.alignment import PairAlignment, mean_alignment, pair_alignments
from skillmatch_ray.files import atomic_directory, atomic_file, hash_json, owner_lock, read_json, write_json
from skillmatch_ray.glossary import Labels
from skillmatch_ray.losses.infonce import InfoNCE
from skillmatch_ray.training.loop import learning_rate
from skillmatch_ray.training.translations import TranslationPairs

ADAPTATION_FILE: Final = "adaptation.json"
"""Beside the weights: what made them."""

STATE_FILE: Final = "state.pt"

PADDED_TOKENS: Final = {"cpu": 1024, "cuda": 16384}
"""Of one forward pass: phrases are so short that padding them to the longest of a step would double the work."""


@dataclass(frozen=True)
class AdaptationReport:
    """What an adaptation did.

    Attributes:
        checkpoint: the new backbone, for `backbone.name`.
        key: names the run: equal keys give equal weights.
        steps: done in all.
        loss: of the last step.
        concepts: that were learned from.
        held_out: concepts that no step saw, on which the two alignments are measured.
        before: where their translations stood under the base, mean over pairs of languages.
        after: the same under the new backbone.
        seconds: of this run; 0 where the result was there already.
    """

    checkpoint: Path
    key: str
    steps: int
    loss: float
    concepts: int
    held_out: int
    before: PairAlignment
    after: PairAlignment
    seconds: float

    def summary(self) -> str:
        """One line for people."""
        return (
            f"wrote {self.checkpoint} ({self.steps} steps over {self.concepts} concepts); of {self.held_out} others "
            f"the translation stands first in {self.after.first:.1%} ({self.before.first:.1%} before), at mean rank "
            f"{self.after.mean_rank:.2f} ({self.before.mean_rank:.2f})"
        )


def adapt(
    config: Config,
    concepts: Sequence[Labels],
    out: Path,
    *,
    device: str = "auto",
    progress: Advance = lambda *_: None,
) -> AdaptationReport:
    """Train the backbone's transformer layers on translated phrases, and write it as a new checkpoint.

    A run that was cut off goes on from its last state; one that is done is not done again.

    Args:
        config: backbone, adaptation and seed.
        concepts: labels by language; `sample.vocabulary` gives them.
        out: directory of the new checkpoint.
        device: where to train.
        progress: called with (steps done, steps to do, note).

    Raises:
        BackboneError: if the base cannot be found or read.
        ConfigError: if `out` holds something else, or too few concepts are named in the same languages.
        LockedError: if another run writes there.
    """
    base = Backbone.load(config.backbone, str(pick_device(device)))
    prefixes = [config.backbone.project_prefix, config.backbone.freelancer_prefix]
    settings = [base.fingerprint, prefixes, config.seed, config.adaptation.model_dump()]
    key = hash_json([*settings, [dict(one) for one in concepts]])
    with owner_lock(_state_directory(out) / "lock", "skillmatch adapt"):
        report = _finished(out, key) or _adapt(config, base, concepts, out, key, progress)
    shutil.rmtree(_state_directory(out), ignore_errors=True)
    return report


def _adapt(
    config: Config, base: Backbone, concepts: Sequence[Labels], out: Path, key: str, progress: Advance
) -> AdaptationReport:
    started = time.perf_counter()
    learned, held = hold_out(concepts, config.adaptation.held_out, config.seed)
    run = Adaptation(base, TranslationPairs(learned, config.adaptation, config.seed), _state_directory(out), key)
    run.finish(progress)
    with atomic_directory(out) as directory:
        _write(run.model, base.checkpoint, directory)
        report = AdaptationReport(
            checkpoint=out,
            key=key,
            steps=run.step,
            loss=round(run.last_loss, 4),
            concepts=len(learned),
            held_out=len(held),
            before=phrase_alignment(base, held),
            after=phrase_alignment(Backbone(directory, config.backbone, str(base.device)), held),
            seconds=round(time.perf_counter() - started, 1),
        )
        made_of = {"base": config.backbone.name, "seed": config.seed}
        write_json(directory / ADAPTATION_FILE, asdict(report) | made_of)
    return report


def hold_out(concepts: Sequence[Labels], count: int, seed: int) -> tuple[list[Labels], list[Labels]]:
    """Concepts to learn from, and at most `count` (a fifth of all) to measure on, named in the commonest languages.

    Raises:
        ConfigError: if fewer than two of them could be held out.
    """
    order = [concepts[i] for i in np.random.default_rng(seed).permutation(len(concepts))]
    ((commonest, _),) = Counter(map(frozenset, order)).most_common(1)
    alike = [i for i, labels in enumerate(order) if labels.keys() == commonest]
    held = set(alike[: min(count, len(concepts) // 5)])
    if len(held) < 2:
        raise ConfigError(f"{len(concepts)} concepts: at least 10 are needed, 2 of which are measured on")
    return [one for i, one in enumerate(order) if i not in held], [order[i] for i in sorted(held)]


def phrase_alignment(backbone: Backbone, concepts: Sequence[Labels]) -> PairAlignment:
    """Where translations of concepts' usual labels stand by the mean of their tokens, mean over pairs of languages."""
    prefix, vectors = backbone.settings.freelancer_prefix, {}
    for language in sorted(concepts[0]):
        states = backbone.encode([prefix + labels[language][0] for labels in concepts])
        means = torch.stack([states[i].float().mean(0) for i in range(len(concepts))])
        vectors[language] = nn.functional.normalize(means, dim=1).cpu().numpy()
    return mean_alignment(pair_alignments(vectors).values())


class Adaptation:
    """The training steps; their state is kept on disk.

    Args:
        base: the backbone to start from.
        pairs: what is learned.
        directory: of the state.
        key: of the run; the state of another one is left aside.
    """

    def __init__(self, base: Backbone, pairs: TranslationPairs, directory: Path, key: str) -> None:
        self.settings: AdaptationSettings = pairs.settings
        self.base, self.pairs, self.key = base, pairs, key
        self.step, self.last_loss = 0, float("nan")
        self.state_file = directory / STATE_FILE
        layers = self.settings.layers or int(read_json(base.checkpoint / "config.json")["num_hidden_layers"])
        self.model = TrainableBackbone(base.checkpoint, layers, PADDED_TOKENS[base.device.type]).to(base.device)
        if base.device.type == "cpu":  # the gradient of fused attention takes a third of a step over such short texts
            self.model.model.set_attn_implementation("eager")
        self.weights = self.model.trained()
        self.loss = InfoNCE(self.settings.temperature)
        self.schedule = TrainingSettings(steps=self.settings.steps, learning_rate=self.settings.learning_rate)
        self.optimizer = torch.optim.AdamW(self.weights.values(), weight_decay=self.schedule.weight_decay)
        self._restore()

    def finish(self, progress: Advance) -> None:
        """All steps that are left."""
        while self.step < self.settings.steps:
            loss = self.advance()
            progress(self.step, self.settings.steps, f"loss {loss:.3f}")
            if self.step % self.settings.checkpoint_every == 0:
                self._save()

    def advance(self) -> float:
        """One step; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.schedule)
        loss = self._loss()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights.values(), self.schedule.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.last_loss = float(loss.detach())
        return self.last_loss

    def _loss(self) -> Tensor:
        """() of the pairs of this step, one text as a project has it and the other as a freelancer."""
        drawn, settings = self.pairs.draw(self.step), self.base.settings
        texts = [settings.project_prefix + text for text in drawn.left]
        texts += [settings.freelancer_prefix + text for text in drawn.right]
        half = self.base.dtype == torch.bfloat16
        with torch.autocast(self.base.device.type, dtype=torch.bfloat16, enabled=half):
            states = self.model(self.base.tokenize(texts))
        vectors = nn.functional.normalize(torch.stack([one.float().mean(0) for one in states]), dim=1)  # (2N, D)
        signs = torch.from_numpy(drawn.signs()).to(vectors.device)
        left, right = vectors[: len(signs)], vectors[len(signs) :]
        return self.loss.from_embeddings(left, right, signs, torch.zeros_like(signs, dtype=torch.bool))

    def _save(self) -> None:
        state = {
            "key": self.key,
            "step": self.step,
            "loss": self.last_loss,
            "weights": self.weights,
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_file(self.state_file) as temporary:
            torch.save(state, temporary)

    def _restore(self) -> None:
        if not self.state_file.is_file():
            return
        state: Mapping[str, Any] = torch.load(self.state_file, weights_only=True, map_location=self.base.device)
        if state["key"] != self.key:
            return
        with torch.no_grad():
            for name, value in state["weights"].items():
                self.weights[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.last_loss = state["step"], state["loss"]


def _state_directory(out: Path) -> Path:
    return out.with_name(f".{out.name}.adapting")


def _finished(out: Path, key: str) -> AdaptationReport | None:
    """The report of a run that is done; None where nothing is there.

    Raises:
        ConfigError: if something else is there.
    """
    if not out.exists():
        return None
    found = read_json(out / ADAPTATION_FILE) if (out / ADAPTATION_FILE).is_file() else {}
    if found.get("key") != key:
        raise ConfigError(f"--out {out} holds something else already: name another directory, or remove it")
    fields: dict[str, Any] = {name: found[name] for name in ("key", "steps", "loss", "concepts", "held_out")}
    fields |= {name: PairAlignment(**found[name]) for name in ("before", "after")}
    return AdaptationReport(checkpoint=out, seconds=0.0, **fields)


def _write(model: TrainableBackbone, base: Path, directory: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        shutil.copyfile(base / name, directory / name)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.model.state_dict().items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
