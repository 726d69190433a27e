"""Verbs for those who run it."""

from __future__ import annotations

import typer

from skillmatch_ray.cli.options import ConfigOption, SetOption, WorkspaceOption, settings

app = typer.Typer()


@app.command(
    rich_help_panel="Operation", epilog="Example: skillmatch serve --workspace workspace --set serving.port=8000"
)
def serve(
    *,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Answer briefs over HTTP with Ray Serve until stopped."""
    from skillmatch_ray.serving.run import serve_forever

    serve_forever(settings(config, overrides, workspace=workspace))
