"""What the verbs share: their options, the resolved configuration, the report for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from skillmatch_ray.config import Config, load_config, with_whole_paths
from skillmatch_ray.console import console
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import locate, write_json

_UPLOADS = "working_dir_files"
"""Ray unpacks the working directory of each job below a directory of this name, and deletes it some day."""


def lasting(path: Path | None) -> Path | None:
    """The path, unless it lies in the upload of a Ray job.

    Raises:
        ConfigError: if it does: what is written there vanishes with the job.
    """
    if path is not None and _UPLOADS in path.resolve().parts:
        raise ConfigError(
            f"{path} would lie in the job's own upload, which vanishes: give an absolute path on storage that every "
            "node sees (--workspace, --model, --out, --report)"
        )
    return path


ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file with settings.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="Override one setting; may be repeated.")
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Also write the result as JSON here.", callback=lasting)
]
WorkspaceOption = Annotated[Path | None, typer.Option("--workspace", "-w", help="Directory that holds everything.")]
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="Go through a running `skillmatch serve` at this address; key in $SKILLMATCH_API_KEY."),
]
ModelOption = Annotated[Path | None, typer.Option("--model", "-m", help="Model directory.")]
DatasetOption = Annotated[
    Path,
    typer.Option(
        "--dataset", "-d", metavar="DIR", parser=locate, help="Directory of tables, also s3://... or gs://..."
    ),
]


def settings(
    config: Path | None, overrides: list[str] | None, base: dict[str, Any] | None = None, **options: Any
) -> Config:
    """The resolved configuration: `base`, then the file, then options and overrides of the command line.

    Paths in it are named in full: a Ray that runs already has workers in another directory.
    """
    given = [
        f"{key.replace('__', '.')}={json.dumps(str(value) if isinstance(value, Path) else value)}"
        for key, value in options.items()
        if value is not None
    ]
    resolved = with_whole_paths(load_config(config, [*given, *(overrides or [])], base))
    if "workspace" in options:
        lasting(resolved.workspace)
    return resolved


def model_given(model: Path | None, workspace: Path | None, resolved: Config) -> Path:
    """The model directory that a verb was given, or that of the active release of the workspace that it was given.

    Raises:
        ConfigError: if it was given both or none of them.
        ReleaseError: if the workspace has no active release.
    """
    from skillmatch_ray.stages import model_of

    if (model is None) == (workspace is None):
        raise ConfigError("give either --model DIR or --workspace DIR (its active release)")
    return model or model_of(resolved)


def finish(report: Path | None, value: Any) -> None:
    """Write the machine-readable result where one was asked for."""
    if report is not None:
        write_json(report, value)
        console().print(f"report: {report}")
