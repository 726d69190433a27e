"""The model card, written from the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from skillmatch_ray.config import Config
from skillmatch_ray.files import read_json
from skillmatch_ray.losses.weighted_sum import build_loss
from skillmatch_ray.training.adaptation import ADAPTATION_FILE

_CARD = """# skillmatch model {short}

Two-tower matcher of projects and freelancers: backbone `{backbone}` ({learns}), {layers} head layers, vectors
L2-normalised, score = dot product. Architecture after arXiv 2409.12097.

- fingerprint: `{fingerprint}`
- trained for {steps} steps, seed {seed}, last loss {loss:.4f}, {seconds:.0f} s
- loss: {citations}

## Validation

{validation}

```python
from skillmatch_ray.model.matcher import load_matcher

matcher = load_matcher("THIS DIRECTORY")
scores = matcher.encode_projects(projects) @ matcher.encode_freelancers(freelancers).T
```

## Configuration

```yaml
{config}```
"""


def model_card(config: Config, metrics: dict[str, Any]) -> str:
    """Markdown that tells what the model is, from what it was trained, and how to load it."""
    loss = build_loss(config.training.loss)
    citations = ", ".join(f"{name} ({loss.parts[name].citation})" for name in loss.weights)
    settings = config.model_dump(mode="json", include={"seed", "glossary", "backbone", "model", "training"})
    return _CARD.format(
        short=metrics["fingerprint"][:12],
        backbone=config.backbone.name,
        layers=config.model.layers,
        fingerprint=metrics["fingerprint"],
        steps=metrics["steps"],
        seed=config.seed,
        loss=metrics["loss"],
        seconds=metrics["seconds"],
        learns=_adapted(Path(config.backbone.name)) + _learns(config.training.trainable_backbone_layers),
        validation=_validation(metrics["validation"], config.training.stop_metric),
        citations=citations,
        config=yaml.safe_dump(settings, sort_keys=False),
    )


def _adapted(checkpoint: Path) -> str:
    report = checkpoint / ADAPTATION_FILE
    return f"adapted to {read_json(report)['concepts']:,} translated concepts, then " if report.is_file() else ""


def _learns(layers: int | str) -> str:
    if layers == "all":
        return "every weight fine-tuned"
    return f"last {layers} layers fine-tuned" if layers else "frozen"


def _validation(figures: dict[str, float], chosen_by: str) -> str:
    """A table of the best state's figures on projects that it was not trained on."""
    if not figures:
        return "No projects were kept for validation."
    head = f"Projects kept from training; this state has the best `{chosen_by}`. later/: posted after the last training"
    tail = "interaction; unseen_skills/: naming a skill that training never saw."
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    return f"{head}\n{tail}\n\n| figure | value |\n|---|---|\n{rows}"
