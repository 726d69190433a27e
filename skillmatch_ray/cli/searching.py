"""Verbs that build the index, switch its releases, and ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skillmatch_ray.cli.options import (
    ConfigOption,
    DatasetOption,
    ReportOption,
    SetOption,
    UrlOption,
    WorkspaceOption,
    finish,
    lasting,
    settings,
)
from skillmatch_ray.console import console
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import locate

app = typer.Typer()
releases = typer.Typer(no_args_is_help=True, help="List, activate, roll back and prune releases.")
app.add_typer(releases, name="release", rich_help_panel="Search")


@app.command(
    rich_help_panel="Search",
    epilog="Example: skillmatch reindex --workspace workspace --dataset data --model models/mine",
)
def reindex(
    *,
    dataset: DatasetOption,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Default: that of the active release.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Update the active index in place.")] = False,
    vectors: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=locate,
            callback=lasting,
            help="Where the vectors are kept, also s3://... or gs://...; default: where they are, else the workspace.",
        ),
    ] = None,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Encode what changed, build a new index, validate it, and make it the active release."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.stages import encode_vectors, index_vectors, model_of, update_index

    resolved = settings(config, overrides, workspace=workspace)
    if changed and model:
        raise ConfigError("--changed updates the active release with its own model: leave out --model")
    if changed and vectors:
        raise ConfigError("--changed keeps the vectors where the active release has them: leave out --vectors")
    directory = model or model_of(resolved)
    encode_vectors(resolved, Dataset(dataset), directory, vectors)
    done: dict[str, Any]
    if changed:
        done = update_index(resolved, Dataset(dataset), url)
    else:
        done = index_vectors(resolved, Dataset(dataset), directory, url, vectors)
    finish(report, done)


@releases.command("list", epilog="Example: skillmatch release list --workspace workspace")
def release_list(
    *,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Every release of the workspace, oldest first."""
    from skillmatch_ray.client import desk

    found = desk(settings(config, overrides, workspace=workspace), url).releases()
    for release in found:
        built_at = release["built_at"][:16].replace("T", " ")
        console().print(f"{release['name']}  {built_at}  {release['rows']} rows  {release['backend']}")
    finish(report, found)


@releases.command("status", epilog="Example: skillmatch release status --workspace workspace --report status.json")
def release_status(
    *,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """The active release, the one before it, and whether what they need is there."""
    from skillmatch_ray.client import desk

    found = desk(settings(config, overrides, workspace=workspace), url).status()
    console().print_json(data=found, default=str)
    finish(report, found)


@releases.command("activate", epilog="Example: skillmatch release activate NAME --workspace workspace")
def release_activate(
    name: Annotated[str, typer.Argument(help="As `release list` shows it.")],
    *,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Make one release the one that answers."""
    from skillmatch_ray.client import desk

    active = desk(settings(config, overrides, workspace=workspace), url).activate(name)
    console().print(f"active: {active}")
    finish(report, {"active": active})


@releases.command("rollback", epilog="Example: skillmatch release rollback --url http://127.0.0.1:8000")
def release_rollback(
    *,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Make the release answer again that answered before."""
    from skillmatch_ray.client import desk

    active = desk(settings(config, overrides, workspace=workspace), url).rollback()
    console().print(f"active: {active}")
    finish(report, {"active": active})


@releases.command("prune", epilog="Example: skillmatch release prune --keep 2 --workspace workspace")
def release_prune(
    *,
    keep: Annotated[int, typer.Option(min=1, help="Newest releases to keep besides the active and the previous.")] = 2,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Delete old releases; tells what went, and why the others stay."""
    from skillmatch_ray.client import desk

    done = desk(settings(config, overrides, workspace=workspace), url).prune(keep)
    console().print(done.render(), soft_wrap=True)
    finish(report, done.as_dict())
    done.check()


@app.command(
    rich_help_panel="Search", epilog='Example: skillmatch match --text "React developer for a booking page" --top-k 5'
)
def match(
    *,
    brief: Annotated[Path | None, typer.Argument(help="JSON file with a project.")] = None,
    text: Annotated[str | None, typer.Option(help="The brief itself, in any language.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    url: UrlOption = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Find the freelancers for one project in the active release."""
    from skillmatch_ray.matching import match_once, read_brief

    resolved = settings(config, overrides, workspace=workspace)
    result = match_once(resolved, read_brief(brief, text), top_k, url)
    console().print(result.render())
    finish(report, result.as_dict())
