"""Verbs that make and check datasets, and the one that runs everything."""

from __future__ import annotations

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
from skillmatch_ray.console import console

app = typer.Typer()


@app.command(
    rich_help_panel="Start here", epilog="Example: skillmatch quickstart --workspace workspace --report report.json"
)
def quickstart(
    *,
    workspace: WorkspaceOption = None,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", "-d", help="Your own dataset; default: a sample.")
    ] = None,
    freelancers: Annotated[int | None, typer.Option(min=1, help="Size of the sample.")] = None,
    projects: Annotated[int | None, typer.Option(min=1, help="Size of the sample.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """From nothing to a match: sample, encode, train, evaluate, index, three briefs answered."""
    from skillmatch_ray.quickstart import QUICKSTART_BASE, run_quickstart

    resolved = settings(
        config,
        overrides,
        QUICKSTART_BASE,
        workspace=workspace,
        sample__freelancers=freelancers,
        sample__projects=projects,
        seed=seed,
    )
    finish(report, run_quickstart(resolved, dataset))


@app.command(
    rich_help_panel="Data", epilog="Example: skillmatch sample --out data --freelancers 10000 --projects 2000 --seed 7"
)
def sample(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the new dataset.")],
    freelancers: Annotated[int | None, typer.Option(min=1)] = None,
    projects: Annotated[int | None, typer.Option(min=1)] = None,
    taxonomy: Annotated[Path | None, typer.Option(help="Directory of another taxonomy in Parquet.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Generate a multilingual dataset of freelancers, projects, interactions and judgements."""
    from skillmatch_ray.sample.generator import write_sample

    resolved = settings(
        config,
        overrides,
        sample__freelancers=freelancers,
        sample__projects=projects,
        sample__taxonomy=taxonomy,
        seed=seed,
    )
    counts = write_sample(out, resolved.sample, resolved.seed)
    console().print(f"wrote {out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    finish(report, counts)


@app.command(rich_help_panel="Data", epilog="Example: skillmatch validate --dataset data --quarantine quarantine")
def validate(
    *,
    dataset: DatasetOption,
    quarantine: Annotated[Path | None, typer.Option(help="Write bad rows with their reasons here.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Check every row of a dataset; bad rows are counted, explained and set aside."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.validate import validate_dataset

    resolved = settings(config, overrides)
    found = validate_dataset(Dataset(dataset), quarantine, resolved.dataset)
    console().print(found.render())
    finish(report, found.as_dict())


@app.command(
    "import-benchmark",
    rich_help_panel="Data",
    epilog="Example: skillmatch import-benchmark Freelancer-Project-Matching --out benchmark; "
    "skillmatch evaluate --workspace workspace --dataset benchmark/briefs",
)
def import_benchmark(
    directory: Annotated[Path, typer.Argument(help="Files of MaltCompany/Freelancer-Project-Matching.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for the datasets briefs/ and queries/.")],
    flattened: Annotated[
        bool, typer.Option("--flattened", help="Profiles parsed back from the strings that WorkRB makes of them.")
    ] = False,
    report: ReportOption = None,
) -> None:
    """Turn the public benchmark into two datasets that `evaluate` and all other verbs read."""
    from skillmatch_ray.evaluation import malt

    written = malt.import_benchmark(directory, out, flattened=flattened)
    for dataset in written:
        console().print(f"wrote {dataset.root}")
    finish(report, {"datasets": [str(dataset.root) for dataset in written]})
