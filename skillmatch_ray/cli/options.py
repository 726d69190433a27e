"""What the verbs share: their options, the resolved configuration, the report for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from skillmatch_ray.config import Config, load_config
from skillmatch_ray.console import console
from skillmatch_ray.files import write_json

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting; may be repeated.")
]
ReportOption = Annotated[Path | None, typer.Option("--report", help="Also write the result as JSON here.")]
WorkspaceOption = Annotated[Path | None, typer.Option("--workspace", "-w", help="Directory that holds everything.")]
DatasetOption = Annotated[Path, typer.Option("--dataset", "-d", help="Directory of tables.")]


def settings(
    config: Path | None, overrides: list[str] | None, base: dict[str, Any] | None = None, **options: Any
) -> Config:
    """The resolved configuration: `base`, then the file, then options and overrides of the command line."""
    given = [
        f"{key.replace('__', '.')}={json.dumps(str(value) if isinstance(value, Path) else value)}"
        for key, value in options.items()
        if value is not None
    ]
    return load_config(config, [*given, *(overrides or [])], base)


def finish(report: Path | None, value: Any) -> None:
    """Write the machine-readable result where one was asked for."""
    if report is not None:
        write_json(report, value)
        console().print(f"report: {report}")
