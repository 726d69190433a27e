"""Verbs for those who run it."""

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
from skillmatch_ray.errors import ConfigError

app = typer.Typer()
rendered = typer.Typer(no_args_is_help=True, help="Write the settings of this repository in another system's words.")
app.add_typer(rendered, name="render", rich_help_panel="Operation")


@app.command(rich_help_panel="Search", epilog="Example: skillmatch serve --workspace workspace --set serving.port=8000")
def serve(
    *,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Answer briefs over HTTP with Ray Serve until stopped."""
    from skillmatch_ray.serving.run import serve_forever

    serve_forever(settings(config, overrides, workspace=workspace))


@app.command(
    rich_help_panel="Operation", epilog="Example: skillmatch doctor --workspace workspace --report doctor.json"
)
def doctor(
    *,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Check this machine; each problem with its remedy. Exit code 1 only if the quickstart cannot run."""
    from skillmatch_ray.operations.doctor import diagnose

    found = diagnose(settings(config, overrides, workspace=workspace))
    console().print(found.render())
    finish(report, found.as_dict())
    if not found.healthy:
        raise typer.Exit(1)


@app.command(
    rich_help_panel="Operation",
    epilog="Example: skillmatch plan --freelancers 10000000 --tokens-per-profile 600 --qps 200 --gpu h100",
)
def plan(
    *,
    freelancers: Annotated[int, typer.Option(min=1, help="In the index.")],
    tokens_per_profile: Annotated[int, typer.Option(min=1, help="Tokens of all sections of one freelancer.")] = 600,
    qps: Annotated[float, typer.Option(min=0, help="Briefs a second at the peak; 0 leaves serving out.")] = 0.0,
    gpu: Annotated[
        str | None, typer.Option(help="Card that encodes: h100, h200, a100, l4, or another with --rate.")
    ] = None,
    cpu: Annotated[str, typer.Option(help="Machine of everything else.")] = "epyc-2",
    hours: Annotated[float, typer.Option(min=0.01, help="In which everybody shall be encoded.")] = 8.0,
    tokens_per_brief: Annotated[int, typer.Option(min=1, help="Tokens of one project.")] = 350,
    rate: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A rate of yours; may be repeated.")
    ] = None,
    report: ReportOption = None,
) -> None:
    """Workers, hours, memory, disk and replicas for so many freelancers, from stored rates."""
    from skillmatch_ray.planning.plan import Demand, size_workload
    from skillmatch_ray.planning.rates import load_rates

    demand = Demand(freelancers, tokens_per_profile, qps, gpu, cpu, hours, tokens_per_brief)
    found = size_workload(demand, load_rates().with_given(rate or []))
    console().print(found.render())
    finish(report, found.as_dict())


@app.command(rich_help_panel="Operation", epilog="Example: skillmatch nightly --workspace workspace --dataset data")
def nightly(
    *,
    dataset: DatasetOption,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train a new model first; taken if it is no worse.")
    ] = False,
    feedback: Annotated[
        Path | None, typer.Option(help="More interactions to train on: a dataset directory, or one file.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Switch whatever the drift is.")] = False,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Encode what changed, build, validate, compare with the release that answers, switch."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.operations.nightly import run_nightly

    resolved = settings(config, overrides, workspace=workspace)
    if feedback is not None and not retrain:
        raise ConfigError("--feedback is what a new model learns from: give --retrain too")
    found = run_nightly(resolved, Dataset(dataset), retrain=retrain, feedback=feedback, force=force)
    console().print_json(data=found.as_dict(), default=str)
    finish(report, found.as_dict())
    found.check()


@app.command(
    rich_help_panel="Operation",
    epilog="Example: skillmatch feedback --workspace workspace --outcomes crm --out data/feedback",
)
def feedback(
    *,
    outcomes: Annotated[
        Path, typer.Option(help="Directory with a table `outcomes`: request_id or project_id, freelancer_id, outcome.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory that gets interactions.jsonl.")],
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Join what the service showed (serving.log_served) with what became of it, into interactions to train on."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.feedback import join_feedback
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    found = join_feedback(Workspace(resolved.workspace), Dataset(outcomes), out)
    console().print_json(data=found.as_dict())
    finish(report, found.as_dict())


@app.command(rich_help_panel="Operation", epilog="Example: skillmatch compact --workspace workspace --dataset data")
def compact(
    *,
    dataset: DatasetOption,
    workspace: WorkspaceOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    report: ReportOption = None,
) -> None:
    """Erase deleted freelancers from journal, vectors and token states, and shorten the journal."""
    from skillmatch_ray.dataset import Dataset
    from skillmatch_ray.index.compaction import compact as forget
    from skillmatch_ray.workspace import Workspace

    resolved = settings(config, overrides, workspace=workspace)
    done = forget(resolved, Workspace(resolved.workspace), Dataset(dataset))
    console().print(done.render())
    finish(report, done.as_dict())


@rendered.command("kuberay", epilog="Example: skillmatch render kuberay --image registry/skillmatch:1 --out kuberay")
def render_kuberay(
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory of the manifests.")],
    image: Annotated[
        str, typer.Option(help="Container image with this package (jobs/README.md tells how to build it).")
    ],
    cluster: Annotated[Path, typer.Option(help="Cluster file to take the settings from.")] = Path("cluster.yaml"),
    serve_file: Annotated[Path, typer.Option("--serve", help="Serve file to take the applications from.")] = Path(
        "serve_config.yaml"
    ),
    claim: Annotated[
        str, typer.Option(help="PersistentVolumeClaim with dataset, models and workspace.")
    ] = "skillmatch",
    redis: Annotated[str | None, typer.Option(help="HOST:PORT that keeps the head's state over a restart.")] = None,
) -> None:
    """RayCluster, RayJob (reindex) and RayService, from cluster.yaml and serve_config.yaml."""
    from skillmatch_ray.operations.kuberay import Placement, render

    for file in render(cluster, serve_file, Placement(image, claim, redis), out):
        console().print(f"wrote {file}")
