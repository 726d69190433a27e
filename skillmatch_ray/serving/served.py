"""Which candidates were shown: one JSON line a match with ids, scores and the release, never a text."""

from __future__ import annotations

import datetime as dt
import logging
import os
import threading
import uuid
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, ConfigDict, Field

logger = logging.getLogger(__name__)


class ServedMatch(BaseModel):
    """One answered match.

    Attributes:
        request_id: as the client was told.
        project_id: as the client named it.
        at: when, UTC.
        release: that answered.
        fingerprint: of its space.
        candidates: (freelancer_id, cosine), in the order shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    project_id: str
    at: dt.datetime = Field(default_factory=lambda: dt.datetime.now(dt.UTC))
    release: str
    fingerprint: str
    candidates: list[tuple[str, float]]


class ServedLog:
    """Appends to one file a day; each replica has its own, so that no two write to one.

    A disk that takes no more costs lines, never an answer.

    Args:
        directory: made when the first line comes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer = f"{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._lock = threading.Lock()
        self._day: dt.date | None = None
        self._file: TextIO | None = None
        self._failing = False

    def record(self, match: ServedMatch) -> None:
        """Write one line."""
        try:
            with self._lock:
                print(match.model_dump_json(), file=self._open(match.at.date()), flush=True)
            self._failing = False
        except OSError as e:
            if not self._failing:
                logger.error("served candidates are not remembered: %s: %s", self._directory, e.strerror)  # noqa: TRY400
            self._failing = True

    def _open(self, day: dt.date) -> TextIO:
        if self._file is None or day != self._day:
            self.close()
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{day:%Y-%m-%d}-{self._writer}.jsonl"
            self._file, self._day = path.open("a", encoding="utf-8"), day
        return self._file

    def close(self) -> None:
        """Close the day's file."""
        if self._file:
            self._file.close()
        self._file = None
