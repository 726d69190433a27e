"""The verbs below `skillmatch benchmark`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from skillmatch_ray.cli.options import ConfigOption, ReportOption, SetOption, WorkspaceOption, settings
from skillmatch_ray.console import console, progress_bar

app = typer.Typer()
benchmarks = typer.Typer(no_args_is_help=True, help="Measure speed against named peers, in one run on this machine.")
app.add_typer(benchmarks, name="benchmark", rich_help_panel="Evidence")


@benchmarks.command("encode", epilog="Example: skillmatch benchmark encode --documents 400 --report encode.json")
def benchmark_encode(
    *,
    documents: Annotated[int | None, typer.Option(min=10, help="Freelancers of the sample.")] = None,
    full: Annotated[bool, typer.Option("--full", help="20,000 documents, every peer over all of them.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Section encoding: a bare loop, the pipeline, sentence-transformers (extra `benchmark`)."""
    from skillmatch_ray.benchmarks import encode

    resolved = settings(config, overrides)
    result = encode.benchmark_encode(
        resolved, documents=documents or encode.DEFAULT_DOCUMENTS, report=report, full=full
    )
    console().print_json(data=asdict(result), default=str)


@benchmarks.command("search", epilog="Example: skillmatch benchmark search --rows 10000 --report search.json")
def benchmark_search(
    *,
    rows: Annotated[int | None, typer.Option(min=1000, help="Made-up freelancers in the index.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Filtered search: our retriever, the same calls by hand, exact numpy, faiss (`milvus.uri` picks the backend)."""
    from skillmatch_ray.benchmarks import search as bench

    with progress_bar("benchmark") as advance:
        result = bench.benchmark_search(
            settings(config, overrides), rows=rows or bench.DEFAULT_ROWS, report=report, progress=advance
        )
    console().print_json(data=asdict(result), default=str)


@benchmarks.command("serve", epilog="Example: skillmatch benchmark serve --workspace workspace --seconds 10")
def benchmark_serve(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="Of each number of clients.")] = 10.0,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """The HTTP service under load (wrk) against the same work called in process."""
    from skillmatch_ray.benchmarks import serve as bench

    result = bench.benchmark_serve(settings(config, overrides, workspace=workspace), seconds=seconds, report=report)
    console().print_json(data=asdict(result), default=str)
