"""The command line: one thin verb for each thing that people do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from skillmatch_ray.config import Config, load_config
from skillmatch_ray.console import console, progress_bar
from skillmatch_ray.errors import ConfigError, SkillmatchError
from skillmatch_ray.files import write_json

app = typer.Typer(
    name="skillmatch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Find the freelancers who have the skills: multilingual retrieval on Ray and Milvus.",
)

releases = typer.Typer(no_args_is_help=True, help="List, activate, roll back and prune releases.")
app.add_typer(releases, name="release")

benchmarks = typer.Typer(no_args_is_help=True, help="Measure speed against named peers, in one run on this machine.")
app.add_typer(benchmarks, name="benchmark")

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


@app.command(epilog="Example: skillmatch quickstart --workspace workspace --report report.json")
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


@app.command(epilog="Example: skillmatch sample --out data --freelancers 10000 --projects 2000 --seed 7")
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


@app.command(epilog="Example: skillmatch validate --dataset data --quarantine quarantine")
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


@app.command(epilog="Example: skillmatch train --dataset data --model models/mine --set training.steps=200")
def train(
    *,
    dataset: DatasetOption,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model directory to write.")],
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Train the head on the interactions of a dataset, with Ray Train; resumes what was cut off."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.losses.weighted_sum import build_loss
    from skillmatch_ray.stages import cache_states, train_model

    resolved = settings(config, overrides, workspace=workspace)
    build_loss(resolved.training.loss)  # a wrong loss must not be found after an hour of encoding
    cache_states(resolved, Dataset(dataset))
    done = train_model(resolved, Dataset(dataset), model)
    console().print(f"wrote {done.model} ({done.steps} steps, validation MAP {done.validation_map})")
    finish(report, asdict(done))


@app.command(epilog="Example: skillmatch encode --dataset data --model models/mine --out vectors")
def encode(
    *,
    dataset: DatasetOption,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the vectors.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Encode every freelancer to a vector, with Ray Data; only what is new or changed is computed."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.stages import encode_vectors

    done = encode_vectors(settings(config, overrides), Dataset(dataset), model, out)
    console().print(done.summary())
    finish(report, asdict(done))


@app.command(epilog="Example: skillmatch evaluate --workspace workspace --dataset data --report report.json")
def evaluate(
    *,
    dataset: DatasetOption,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Model directory.")] = None,
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Evaluate its active release.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Measure a model beside five untrained floors on a dataset with judgements or interactions."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.stages import evaluate_model, model_of

    if (model is None) == (workspace is None):
        raise ConfigError("give either --model DIR or --workspace DIR (its active release)")
    resolved = settings(config, overrides, workspace=workspace)
    found = evaluate_model(resolved, Dataset(dataset), model or model_of(resolved))
    console().print(found.render())
    finish(report, {"evaluation": found.as_dict()})


@app.command(epilog="Example: skillmatch reindex --workspace workspace --dataset data --model models/mine")
def reindex(
    *,
    dataset: DatasetOption,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Default: that of the active release.")] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Update the active index in place.")] = False,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Encode what changed, build a new index, validate it, and make it the active release."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.stages import encode_vectors, index_vectors, model_of, update_index

    resolved = settings(config, overrides, workspace=workspace)
    directory = model or model_of(resolved)
    if changed and model:
        raise ConfigError("--changed updates the active release with its own model: leave out --model")
    encode_vectors(resolved, Dataset(dataset), directory)
    finish(
        report,
        (update_index(resolved, Dataset(dataset)) if changed else index_vectors(resolved, Dataset(dataset), directory)),
    )


@releases.command("list", epilog="Example: skillmatch release list --workspace workspace")
def release_list(
    *, workspace: WorkspaceOption = None, config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """Every release of the workspace, oldest first."""
    from skillmatch_ray.index.releases import list_releases
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    for release in list_releases(Workspace(resolved.workspace)):
        console().print(f"{release.name}  {release.built_at:%Y-%m-%d %H:%M}  {release.rows} rows  {release.backend}")


@releases.command("status", epilog="Example: skillmatch release status --workspace workspace --report status.json")
def release_status(
    *,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """The active release, the one before it, and whether what they need is there."""
    from skillmatch_ray.index.releases import status
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    found = status(Workspace(resolved.workspace), resolved)
    console().print_json(data=found, default=str)
    finish(report, found)


@releases.command("activate", epilog="Example: skillmatch release activate NAME --workspace workspace")
def release_activate(
    name: Annotated[str, typer.Argument(help="As `release list` shows it.")],
    *,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Make one release the one that answers."""
    from skillmatch_ray.index.releases import activate
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    console().print(f"active: {activate(Workspace(resolved.workspace), name, resolved).name}")


@releases.command("rollback", epilog="Example: skillmatch release rollback --workspace workspace")
def release_rollback(
    *, workspace: WorkspaceOption = None, config: ConfigOption = None, overrides: SetOption = None
) -> None:
    """Make the release answer again that answered before."""
    from skillmatch_ray.index.releases import rollback
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    console().print(f"active: {rollback(Workspace(resolved.workspace), resolved).name}")


@releases.command("prune", epilog="Example: skillmatch release prune --keep 2 --workspace workspace")
def release_prune(
    *,
    keep: Annotated[int, typer.Option(min=1, help="Newest releases to keep besides the active and the previous.")] = 2,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Delete old releases."""
    from skillmatch_ray.index.releases import prune
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    for name in prune(Workspace(resolved.workspace), resolved, keep):
        console().print(f"deleted {name}")


@app.command(epilog='Example: skillmatch match --text "React developer for a booking page" --top-k 5')
def match(
    *,
    brief: Annotated[Path | None, typer.Argument(help="JSON file with a project.")] = None,
    text: Annotated[str | None, typer.Option(help="The brief itself, in any language.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Find the freelancers for one project in the active release."""
    from skillmatch_ray.matching import open_engine, read_brief

    resolved = settings(config, overrides, workspace=workspace)
    project = read_brief(brief, text)
    with open_engine(resolved) as engine:
        result = engine.match(project, top_k=top_k, explain=True)
    console().print(result.render())
    finish(report, result.as_dict())


@app.command(epilog="Example: skillmatch serve --workspace workspace --set serving.port=8000")
def serve(
    *,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Answer briefs over HTTP with Ray Serve until stopped."""
    from skillmatch_ray.serving.run import serve_forever

    serve_forever(settings(config, overrides, workspace=workspace))


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


def main() -> None:
    """Run the command line; what a user can mend is printed without a traceback."""
    try:
        app()
    except SkillmatchError as e:
        console().print(f"[red]error:[/red] {e}")
        sys.exit(1)
