"""How much memory processes hold while something runs."""

from __future__ import annotations

import contextlib
import statistics
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

_MEGABYTE = 2**20


@dataclass(frozen=True)
class Memory:
    """Resident memory over a measurement, MB, summed over the processes.

    Attributes:
        early_mb: median of its second fifth, when everything is warm.
        late_mb: median of its last fifth.
        peak_mb: the most seen.
        growth: late / early - 1.
    """

    early_mb: float
    late_mb: float
    peak_mb: float
    growth: float


@dataclass
class MemoryWatch:
    """Samples of the resident memory, MB."""

    samples: list[float] = field(default_factory=list)

    def summary(self) -> Memory | None:
        """Early and late medians; None where no process was seen, as of a Ray that runs elsewhere.

        Example:
            >>> MemoryWatch([1, 4, 4, 4, 5]).summary().growth
            0.25
        """
        fifth = max(1, len(self.samples) // 5)
        early = statistics.median(self.samples[fifth : 2 * fifth] or self.samples)
        late = statistics.median(self.samples[-fifth:])
        if not early:
            return None
        return Memory(round(early, 1), round(late, 1), round(max(self.samples), 1), round(late / early - 1, 4))


@contextlib.contextmanager
def watch_memory(name: str, period_s: float) -> Iterator[MemoryWatch]:
    """Sample, while the block runs, the descendants of this process whose command line holds `name`."""
    watch, ended = MemoryWatch(), threading.Event()

    def run() -> None:
        while True:
            watch.samples.append(resident_mb(name))
            if ended.wait(period_s):
                return

    thread = threading.Thread(target=run, name="watch-memory", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def resident_mb(name: str) -> float:
    """Resident memory of this process' descendants whose command line holds `name`."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if name in " ".join(process.cmdline()):
                total += process.memory_info().rss
    return total / _MEGABYTE
