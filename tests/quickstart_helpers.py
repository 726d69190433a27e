"""The quickstart with the tiny backbone, through the command line."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from skillmatch_ray.cli import main

TINY_QUICKSTART = """
backbone: {name: %s, max_section_tokens: 64, dtype: float32}
model: {layers: 1, heads: 4}
adaptation: {steps: 3, pairs_per_step: 8}
training: {steps: 6, projects_per_step: 16, validate_every: 3, checkpoint_every: 3, threads_per_worker: 1}
encode: {threads_per_worker: 1}
sample: {freelancers: 300, projects: 200}
"""


@dataclass(frozen=True)
class TinyWorkspace:
    """What `skillmatch quickstart` made with the tiny backbone."""

    root: Path
    config: Path
    report: dict[str, Any]
    output: str


def skillmatch(*arguments: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """Run the installed command line."""
    command = [str(Path(sys.executable).parent / "skillmatch"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def skillmatch_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process: imports and the Ray of the test run serve for all calls."""
    output, errors, words = io.StringIO(), io.StringIO(), ["skillmatch", *map(str, arguments)]
    code: Any = 0
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as e:
            code = e.code
    return subprocess.CompletedProcess(words, int(code or 0), output.getvalue(), errors.getvalue())
