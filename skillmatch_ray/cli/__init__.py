"""The command line: one thin verb for each thing that people do."""

from __future__ import annotations

import sys

import typer

from skillmatch_ray.cli import benchmarks, data, learning, operating, searching
from skillmatch_ray.console import console
from skillmatch_ray.errors import SkillmatchError

app = typer.Typer(
    name="skillmatch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find the freelancers who have the skills: multilingual retrieval on Ray and Milvus.",
)
for room in (data, learning, searching, operating, benchmarks):
    app.add_typer(room.app)


def main() -> None:
    """Run the command line; what a user can mend is printed without a traceback."""
    try:
        app()
    except SkillmatchError as e:
        console().print(f"[red]error:[/red] {e}")
        sys.exit(1)
