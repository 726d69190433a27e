"""Verbs that train, measure and apply a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from skillmatch_ray.cli.options import (
    ConfigOption,
    DatasetOption,
    ModelOption,
    ReportOption,
    SetOption,
    WorkspaceOption,
    finish,
    lasting,
    model_given,
    settings,
)
from skillmatch_ray.console import console, progress_bar
from skillmatch_ray.files import locate

app = typer.Typer()


@app.command(rich_help_panel="Model", epilog="Example: skillmatch adapt --out backbone --concepts names.jsonl")
def adapt(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the new checkpoint.", callback=lasting)],
    concepts: Annotated[
        list[Path] | None,
        typer.Option(help="Your names by language, beside the built-in ones: JSON Lines, or a taxonomy's directory."),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Train the backbone on names that are known in several languages, before a head is trained on it; resumes."""
    from skillmatch_ray.stages import adapt_backbone

    done = adapt_backbone(settings(config, overrides), concepts or (), out)
    console().print(done.summary())
    console().print(f"use it: --set backbone.name={out}", soft_wrap=True)
    finish(report, asdict(done))


@app.command(
    rich_help_panel="Model",
    epilog="Example: skillmatch train --dataset data --model models/mine --set training.steps=200",
)
def train(
    *,
    dataset: DatasetOption,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model directory to write.", callback=lasting)],
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Train the head on the interactions of a dataset, with Ray Train; resumes what was cut off."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.losses.weighted_sum import build_loss
    from skillmatch_ray.stages import cache_states, train_model
    from skillmatch_ray.training.negatives import existing

    resolved = settings(config, overrides, workspace=workspace)
    build_loss(resolved.training.loss)  # what is wrong must not be found after an hour of encoding
    if resolved.training.mined_negatives:
        existing(resolved.training.mined_negatives)
    if not resolved.training.live:
        cache_states(resolved, Dataset(dataset))
    done = train_model(resolved, Dataset(dataset), model)
    console().print(f"wrote {done.model} ({done.steps} steps, validation MAP {done.validation_map})")
    finish(report, asdict(done))


@app.command(
    rich_help_panel="Model",
    epilog="Example: skillmatch link --model models/mine --glossary names.jsonl --glossary builtin --out models/linked",
)
def link(
    *,
    model: ModelOption = None,
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Take its active release.")] = None,
    glossary: Annotated[
        list[str],
        typer.Option(help="Names by language: JSON Lines, a taxonomy's directory, or 'builtin'; may be repeated."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model directory to write.", callback=lasting)],
    share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Keep a random share of the concepts, to see what gaps cost.")
    ] = 1.0,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", "-d", metavar="DIR", help="Tell how many of its skills are known.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Give a trained model another glossary, without training; then `reindex --model` it."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.model.linking import Coverage
    from skillmatch_ray.stages import link_model

    resolved = settings(config, overrides, workspace=workspace)
    found = link_model(resolved, model_given(model, workspace, resolved), glossary, out, share=share)
    names = ", ".join(f"{language} {count:,}" for language, count in found.languages().items())
    console().print(f"wrote {out}: {len(found.concepts):,} concepts, names: {names}", soft_wrap=True)
    done: dict[str, Any] = {"model": out, "concepts": len(found.concepts), "names": found.languages()}
    if dataset:
        coverage = Coverage.of(found, Dataset(locate(dataset)).documents())
        console().print(coverage.render())
        done["coverage"] = coverage.as_dict()
    finish(report, done)


@app.command(rich_help_panel="Model", epilog="Example: skillmatch mine --dataset data --model models/mine --out mined")
def mine(
    *,
    dataset: DatasetOption,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model directory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the negatives and the report.")],
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Hard negatives by a model, guarded against false ones; train on them with training.mined_negatives."""
    from skillmatch_ray import stages
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.training.negatives import NEGATIVES_FILE

    done = stages.mine(settings(config, overrides, workspace=workspace), Dataset(dataset), model, out)
    console().print(done.render())
    console().print(f"train on them: --set training.mined_negatives={out / NEGATIVES_FILE}", soft_wrap=True)
    finish(report, asdict(done))


@app.command(
    rich_help_panel="Model", epilog="Example: skillmatch encode --dataset data --model models/mine --out vectors"
)
def encode(
    *,
    dataset: DatasetOption,
    model: Annotated[Path, typer.Option("--model", "-m", help="Model directory.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            parser=locate,
            callback=lasting,
            help="Directory of the vectors, also s3://... or gs://...",
        ),
    ],
    workers: Annotated[int | None, typer.Option(min=1, help="Actors; with --gpus they share them.")] = None,
    max_workers: Annotated[int | None, typer.Option(min=1, help="Let the pool grow up to this.")] = None,
    gpus: Annotated[str | None, typer.Option(metavar="N|auto", help="GPUs in all; auto: those of the cluster.")] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(help="CPUs, and threads, of each actor.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Encode every freelancer to a vector, with Ray Data; only what is new or changed is computed."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.pipeline.session import share_gpus
    from skillmatch_ray.stages import encode_vectors

    resolved = settings(
        config,
        overrides,
        encode__workers=workers,
        encode__max_workers=max_workers,
        encode__cpus_per_worker=cpus_per_worker,
    )
    if gpus is not None:
        resolved = share_gpus(resolved, gpus, workers)
    done = encode_vectors(resolved, Dataset(dataset), model, out)
    console().print(done.summary())
    finish(report, asdict(done))


@app.command(
    rich_help_panel="Model",
    epilog="Example: skillmatch evaluate --workspace workspace --dataset data --report report.json --html page",
)
def evaluate(
    *,
    dataset: DatasetOption,
    model: ModelOption = None,
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Evaluate its active release.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Another model beside it: a model directory, or a sentence-transformers name or path."),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
    html: Annotated[Path | None, typer.Option(help="Also write one page with plots and failures here.")] = None,
) -> None:
    """Measure a model beside five untrained floors and its peers, on a dataset with judgements or interactions."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.stages import evaluate_model, write_evaluation_page

    # Only a workspace that was named matters here: nothing is written into it.
    resolved = settings(config, overrides, workspace=workspace) if workspace else settings(config, overrides)
    directory = model_given(model, workspace, resolved)
    found = evaluate_model(resolved, Dataset(dataset), directory, peer or ())
    console().print(found.render())
    if html:
        console().print(f"page: {write_evaluation_page(resolved, found, directory, html)}")
    finish(report, {"evaluation": found.as_dict()})


@app.command(
    "check-model",
    rich_help_panel="Model",
    epilog="Example: skillmatch check-model --model models/mine --report behaviour.json",
)
def check_model(
    *,
    model: ModelOption = None,
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Check its active release.")] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Behavioural tests: language, order, gender, names, negation, stuffing, queries. Exit code 1 if one fails."""
    from skillmatch_ray.stages import check_behaviour

    resolved = settings(config, overrides, workspace=workspace)
    found = check_behaviour(model_given(model, workspace, resolved))
    console().print(found.render())
    for finding in found.findings:
        for failure in finding.failures if not finding.passed else ():
            console().print(f"[dim]{finding.name}: {failure}[/dim]")
    finish(report, found.as_dict())
    if found.failed:
        raise typer.Exit(1)


@app.command(
    rich_help_panel="Model",
    epilog="Example: skillmatch align --workspace workspace --documents 200 --report align.json",
)
def align(
    *,
    model: ModelOption = None,
    workspace: Annotated[Path | None, typer.Option("--workspace", "-w", help="Take its active release.")] = None,
    documents: Annotated[int, typer.Option(min=2, help="Freelancers, each written in five languages.")] = 100,
    projects: Annotated[int, typer.Option(min=1, help="Projects, each asked in all five pools.")] = 100,
    taxonomy: Annotated[Path | None, typer.Option(help="Directory of another taxonomy in Parquet.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other than that of the training data.")] = 1000,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Rank of the same document translated, and MAP in the same pool of another language, before and after training."""
    from skillmatch_ray.evaluation import alignment

    resolved = settings(config, overrides, workspace=workspace)
    directory = model_given(model, workspace, resolved)
    with progress_bar("aligning") as advance:
        found = alignment.align(directory, documents, projects, seed, taxonomy=taxonomy, progress=advance)
    console().print(found.render())
    finish(report, found.as_dict())
