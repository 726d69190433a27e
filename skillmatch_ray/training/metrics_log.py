"""Metrics of a training run, as JSON Lines and for TensorBoard."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from skillmatch_ray.training.loop import StepReport

TENSORBOARD: Final = "tensorboard"
"""Directory of the event files, beside the JSON Lines."""


class MetricsLog:
    """Appends to both; open it as a context, so that no event stays in memory.

    Args:
        path: the JSON Lines file.
        step: done already; TensorBoard forgets what an interrupted run wrote after it.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        self.path = path
        self.events = SummaryWriter(str(path.parent / TENSORBOARD), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.events.close()

    def step(self, report: StepReport) -> None:
        """One step of training."""
        values = asdict(report)
        self._line(values)
        figures = {"loss", "learning_rate", "negatives_per_anchor"}
        for name in sorted(figures):
            self.events.add_scalar(f"train/{name}", values[name], report.step)
        self.events.add_scalar("train/tokens_per_s", report.tokens / report.seconds, report.step)

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """Figures of one validation."""
        self._line({"step": step, "validation": figures})
        for name, value in figures.items():
            self.events.add_scalar(f"validation/{name.replace('@', '_')}", value, step)  # it allows no @

    def _line(self, values: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
