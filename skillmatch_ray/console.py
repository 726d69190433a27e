"""Progress and messages for people, with and without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[float, float, str], None]
"""Called with (done, total, note); a total of 0 is not known."""

_LINE_EVERY_S = 10.0
_LOG_WIDTH = 150


def console() -> Console:
    """Where messages for people go; standard output stays free for results."""
    # Without a terminal rich assumes 80 columns, in which a table of candidates can not be read.
    return Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else _LOG_WIDTH)


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """A bar with the time left on a terminal; a line every ten seconds elsewhere."""
    if sys.stderr.isatty():
        with _terminal_bar(title) as advance:
            yield advance
    else:
        yield _line_writer(title)


@contextmanager
def _terminal_bar(title: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console()) as bars:
        task = bars.add_task(title, total=None, note="")
        yield lambda done, total, note: bars.update(task, completed=done, total=total or None, note=note)


def _line_writer(title: str) -> Advance:
    started = time.monotonic()
    last = started

    def advance(done: float, total: float, note: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_EVERY_S and done > 0:
            return
        last = now
        left = f", {(now - started) * (total - done) / done:.0f} s left" if done and total else ""
        share = f"{done / total:.0%} " if total else ""
        sys.stderr.write(f"{title}: {share}{note} ({now - started:.0f} s{left})\n")
        sys.stderr.flush()

    return advance
