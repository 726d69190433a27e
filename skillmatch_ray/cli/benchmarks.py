"""Verbs that gather evidence: `skillmatch benchmark ...` for speed, `skillmatch study` for quality."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skillmatch_ray.cli.options import (
    ConfigOption,
    DatasetOption,
    ReportOption,
    SetOption,
    WorkspaceOption,
    finish,
    settings,
)
from skillmatch_ray.console import console, progress_bar
from skillmatch_ray.errors import ConfigError
from skillmatch_ray.files import read_json

app = typer.Typer()
benchmarks = typer.Typer(no_args_is_help=True, help="Measure speed against named peers, in one run on this machine.")
app.add_typer(benchmarks, name="benchmark", rich_help_panel="Evidence")


@benchmarks.command("encode", epilog="Example: skillmatch benchmark encode --documents 400 --report encode.json")
def benchmark_encode(
    *,
    documents: Annotated[int | None, typer.Option(min=10, help="Freelancers of the sample.")] = None,
    full: Annotated[bool, typer.Option("--full", help="20,000 documents, every peer over all of them.")] = False,
    peers: Annotated[bool, typer.Option(help="--no-peers: only the bare loop and the pipeline.")] = True,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Section encoding: a bare loop, the pipeline, sentence-transformers and others (extra `benchmark`)."""
    from skillmatch_ray.benchmarks import encode

    resolved = settings(config, overrides)
    with progress_bar("benchmark") as advance:
        result = encode.benchmark_encode(
            resolved,
            documents=documents or encode.DEFAULT_DOCUMENTS,
            report=report,
            full=full,
            peers=peers,
            progress=advance,
        )
    console().print(result.render())


@benchmarks.command("search", epilog="Example: skillmatch benchmark search --rows 10000 --report search.json")
def benchmark_search(
    *,
    rows: Annotated[int | None, typer.Option(min=1000, help="Made-up freelancers in the index.")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="lite|URI", help="Milvus Lite, or a server's address. [default: milvus.uri]")
    ] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Searches of each contestant under each filter.")] = None,
    build_minutes: Annotated[
        float | None, typer.Option(min=0, help="End a longer build with the rows reached. [default: no limit]")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Filtered search: our retriever, the same calls by hand, exact numpy, faiss; the report grows as it runs."""
    from skillmatch_ray.benchmarks import search as bench

    chosen = [] if backend is None else [f"milvus.uri={'null' if backend == 'lite' else backend}"]
    with progress_bar("benchmark") as advance:
        result = bench.benchmark_search(
            settings(config, [*(overrides or []), *chosen]),
            rows=rows or bench.DEFAULT_ROWS,
            queries=queries or bench.DEFAULT_QUERIES,
            build_minutes=build_minutes,
            report=report,
            progress=advance,
        )
    console().print_json(data=asdict(result), default=str)


@benchmarks.command("rates", epilog="Example: skillmatch benchmark rates --machine epyc-2 --report rates.json")
def benchmark_rates(
    *,
    machine: Annotated[str, typer.Option(help="Name of this machine in rates.yaml.")],
    documents: Annotated[int | None, typer.Option(min=100, help="Freelancers of the sample.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """What `skillmatch plan` needs to know of this machine's cores, memory and disk."""
    from skillmatch_ray.benchmarks import rates as bench

    found = bench.benchmark_rates(
        settings(config, overrides), machine=machine, documents=documents or bench.DEFAULT_DOCUMENTS, report=report
    )
    console().print_json(data=[rate.model_dump(mode="json") for rate in found])


@benchmarks.command("hybrid", epilog="Example: skillmatch benchmark hybrid --workspace workspace -d workspace/dataset")
def benchmark_hybrid(
    *,
    dataset: DatasetOption,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Dense search against dense and BM25 fused, by pair of languages; prints the `milvus.hybrid` that helps."""
    from skillmatch_ray.benchmarks import hybrid as bench
    from skillmatch_ray.dataset import Dataset

    with progress_bar("hybrid") as advance:
        resolved = settings(config, overrides, workspace=workspace)
        found = bench.benchmark_hybrid(resolved, Dataset(dataset), report=report, progress=advance)
    console().print(found.render())
    console().print(f"surely better: milvus.hybrid={found.content['recommended']}")


@benchmarks.command("serve", epilog="Example: skillmatch benchmark serve --workspace workspace --seconds 10")
def benchmark_serve(
    *,
    seconds: Annotated[float, typer.Option(min=1, help="Of each number of clients.")] = 10.0,
    soak: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="Then 1.5 times the capacity, so long.")] = 0.0,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """The HTTP service under load (wrk) against the same work called in process."""
    from skillmatch_ray.benchmarks import serve as bench

    resolved = settings(config, overrides, workspace=workspace)
    result = bench.benchmark_serve(resolved, seconds=seconds, soak_minutes=soak, report=report)
    console().print_json(data=asdict(result), default=str)


@benchmarks.command("train", epilog="Example: skillmatch benchmark train --documents 200 --report train.json")
def benchmark_train(
    *,
    documents: Annotated[int | None, typer.Option(min=40, help="Freelancers, and projects, of the sample.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Counted steps of each contestant.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Training: states cached or live, one worker or two, and sentence-transformers (extra `benchmark`)."""
    from skillmatch_ray.benchmarks import train as bench

    result = bench.benchmark_train(
        settings(config, overrides),
        documents=documents or bench.DEFAULT_DOCUMENTS,
        steps=steps or bench.DEFAULT_STEPS,
        report=report,
    )
    console().print_json(data=asdict(result), default=str)


@app.command("study", rich_help_panel="Evidence", epilog="Example: skillmatch study pooling --workspace workspace")
def study(
    name: Annotated[str | None, typer.Argument(help="Which; --list shows all.")] = None,
    *,
    show_list: Annotated[bool, typer.Option("--list", help="One line for each study, and nothing else.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory of runs and page; default: in the workspace.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The paper's head and many steps, for a GPU.")] = False,
    seeds: Annotated[int | None, typer.Option(min=1, help="Of each headline variant.")] = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", "-d", help="Directory of tables; default: the workspace's sample.")
    ] = None,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """One controlled experiment on the workspace's data: runs what is missing, writes a page of conclusions."""
    from skillmatch_ray.studies.registry import find_study, list_lines

    if show_list:
        typer.echo("\n".join(list_lines()))
        return
    if name is None:
        raise ConfigError("name a study, or give --list")
    from skillmatch_ray.stages import conduct_study
    from skillmatch_ray.studies.runner import study_base

    found = find_study(name)
    resolved = settings(config, overrides, study_base(found, full=full), workspace=workspace)
    page = conduct_study(resolved, found, dataset, out, seeds=seeds, full=full)
    console().print(f"wrote {page}")
    finish(report, read_json(page.parent / "figures.json"))
