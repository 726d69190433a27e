"""The model card, written from the run."""

from __future__ import annotations

from typing import Any

import yaml

from skillmatch_ray.config import Config
from skillmatch_ray.losses.weighted_sum import build_loss

_CARD = """# skillmatch model {short}

Two-tower matcher of projects and freelancers: frozen backbone `{backbone}`, {layers} head layers, vectors
L2-normalised, score = dot product. Architecture after arXiv 2409.12097.

- fingerprint: `{fingerprint}`
- trained for {steps} steps, seed {seed}, last loss {loss:.4f}
- best MAP on validation projects: {validation}
- loss: {citations}

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
    validation = metrics["validation_map"]
    settings = config.model_dump(mode="json", include={"seed", "backbone", "model", "training"})
    return _CARD.format(
        short=metrics["fingerprint"][:12],
        backbone=config.backbone.name,
        layers=config.model.layers,
        fingerprint=metrics["fingerprint"],
        steps=metrics["steps"],
        seed=config.seed,
        loss=metrics["loss"],
        validation="none held" if validation is None else f"{validation:.4f}",
        citations=citations,
        config=yaml.safe_dump(settings, sort_keys=False),
    )
