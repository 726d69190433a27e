"""The stages that verbs are made of, each resumable and each naming what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillmatch_ray.config import Config
from skillmatch_ray.console import console, progress_bar
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import ReleaseError
from skillmatch_ray.files import read_json, write_json
from skillmatch_ray.split import SAMPLE_FILE
from skillmatch_ray.workspace import Workspace, provenance

if TYPE_CHECKING:
    from skillmatch_ray.evaluation.behaviour import Behaviour
    from skillmatch_ray.evaluation.evaluate import EvaluationReport
    from skillmatch_ray.glossary import Glossary
    from skillmatch_ray.index.release import Release
    from skillmatch_ray.pipeline.encode import EncodeReport
    from skillmatch_ray.studies.study import Study
    from skillmatch_ray.training.adaptation import AdaptationReport
    from skillmatch_ray.training.mining import MiningReport
    from skillmatch_ray.training.train import TrainReport


BEHAVIOUR_FILE: Final = "behaviour.json"
"""Result of `check-model`, in the model's directory."""


def model_of(config: Config) -> Path:
    """The model directory of the workspace's active release.

    Raises:
        ReleaseError: if there is none.
    """
    from skillmatch_ray.index.releases import active_release

    return Path(active_release(Workspace(config.workspace)).model_dir)


def living(config: Config, dataset: Dataset) -> Dataset:
    """The dataset without those who were deleted online."""
    from skillmatch_ray.index import living as rule

    return rule.living(Workspace(config.workspace), dataset)


def cache_states(config: Config, dataset: Dataset) -> Any:
    """Token states of every section of the dataset that the workspace does not have yet."""
    from skillmatch_ray.pipeline.token_states import cache_token_states

    dataset = living(config, dataset)
    with progress_bar("token states") as advance:
        return cache_token_states(dataset, config, Workspace(config.workspace).token_states, progress=advance)


def adapt_backbone(config: Config, concepts: Sequence[Path], out: Path) -> AdaptationReport:
    """Train the backbone on translated names into `out`; on one device, in this process."""
    from skillmatch_ray.sample.vocabulary import vocabulary
    from skillmatch_ray.training.adaptation import adapt

    known = vocabulary(concepts)
    with progress_bar("adapting") as advance:
        return adapt(config, known, out, progress=advance)


def reading_like(model_dir: Path, config: Config) -> Config:
    """The configuration with the glossary of a model."""
    from skillmatch_ray.model.matcher import GLOSSARY_FILE

    file = (model_dir / GLOSSARY_FILE).resolve()
    return config.model_copy(update={"glossary": (str(file),) if file.is_file() else ()})


def link_model(config: Config, model_dir: Path, sources: Sequence[str], out: Path, *, share: float = 1.0) -> Glossary:
    """Write a copy of a model with the glossary of `sources`, or a random share of it; the glossary."""
    from skillmatch_ray.model.linking import link, some
    from skillmatch_ray.sample.vocabulary import read_glossary

    glossary = some(read_glossary(sources), share, config.seed)
    link(model_dir, glossary, out)
    return glossary


def train_model(config: Config, dataset: Dataset, model_dir: Path) -> TrainReport:
    """Train the head into `model_dir`; token states must be cached."""
    from skillmatch_ray.pipeline.session import ensure_ray
    from skillmatch_ray.training.train import train

    ensure_ray(config.ray)
    workspace = Workspace(config.workspace)
    run_dir = workspace.runs / "train"
    steps = config.training.steps
    with progress_bar("training") as advance:

        def follow(line: dict[str, Any]) -> None:
            if "loss" in line:
                advance(line["step"], steps, _progress_note(line))

        report = train(config, living(config, dataset), workspace.token_states, model_dir, run_dir, progress=follow)
    write_json(run_dir / "provenance.json", provenance(config))
    return report


def _progress_note(line: dict[str, Any]) -> str:
    return (
        f"loss {line['loss']:.3f}, lr {line['learning_rate']:.1e}, {line['tokens'] / line['seconds']:.0f} tokens/s, "
        f"{line['negatives_per_anchor']:.0f} negatives an anchor"
    )


def encode_vectors(config: Config, dataset: Dataset, model_dir: Path, out: Path | None = None) -> EncodeReport:
    """Encode the freelancers that are new or changed."""
    from skillmatch_ray.pipeline.encode import encode_freelancers

    states = Workspace(config.workspace).token_states
    out = out or vectors_of(config, model_dir)
    store = _states_for(model_dir, states)
    if store is None and states.is_dir():
        console().print(f"token states in {states} are not those of the model's backbone: all are computed anew")
    with progress_bar("encoding") as advance:
        report = encode_freelancers(config, living(config, dataset), model_dir, out, store_dir=store, progress=advance)
    write_json(out / "provenance.json", provenance(config))
    return report


def _states_for(model_dir: Path, directory: Path) -> Path | None:
    """The token states in `directory` where they are those of the model's backbone."""
    from skillmatch_ray.backbone.store import holds_states_of
    from skillmatch_ray.model.matcher import read_model_config

    fingerprint = read_model_config(model_dir)["backbone_fingerprint"]
    return directory if holds_states_of(directory, fingerprint) else None


def mine(config: Config, dataset: Dataset, model_dir: Path, out: Path) -> MiningReport:
    """Hard negatives of the dataset's training projects by a model, into the directory `out`."""
    from skillmatch_ray.model.matcher import load_matcher
    from skillmatch_ray.training.mining import mine_negatives
    from skillmatch_ray.training.setup import build_sampler, read_history

    encode_vectors(config, dataset, model_dir)
    history = read_history(dataset, config)
    projects = build_sampler(config, history).projects
    store = _states_for(model_dir, Workspace(config.workspace).token_states)
    matcher = load_matcher(model_dir, store_dir=store)
    vectors = matcher.encode_projects([history.projects[p] for p in projects])
    return mine_negatives(config, history, projects, vectors, vectors_of(config, model_dir), out)


def vectors_of(config: Config, model_dir: Path) -> Path:
    """Where the vectors of one model are kept: where the active release has them if it is of that model."""
    from skillmatch_ray.index.release import ReleaseStore
    from skillmatch_ray.model.matcher import read_model_config

    workspace = Workspace(config.workspace)
    store, fingerprint = ReleaseStore(workspace), read_model_config(model_dir)["fingerprint"]
    name = store.active_name()
    active = store.get(name) if name else None
    return active.vectors_dir if active and active.fingerprint == fingerprint else workspace.vectors(fingerprint)


def evaluate_model(
    config: Config, dataset: Dataset, model_dir: Path | None, peers: Sequence[str] = ()
) -> EvaluationReport:
    """The model beside the five floors and its peers, on the held-out or judged projects of the dataset."""
    from skillmatch_ray.evaluation.evaluate import evaluate_directory

    with progress_bar("evaluation") as advance:
        return evaluate_directory(config, dataset, model_dir, peers=peers, progress=advance)


def write_evaluation_page(config: Config, report: EvaluationReport, model_dir: Path, directory: Path) -> Path:
    """One self-contained HTML page of an evaluation; the file."""
    from skillmatch_ray.evaluation.page import write_page
    from skillmatch_ray.model.matcher import read_model_config

    model = {"directory": str(model_dir), **read_model_config(model_dir)}
    return write_page(report, directory, {"model": model, **provenance(config)})


def index_vectors(
    config: Config, dataset: Dataset, model_dir: Path, url: str | None = None, vectors: Path | None = None
) -> dict[str, Any]:
    """Build an index of the model's vectors, validate it, and make it the active release, through `url` if given."""
    release = build_index(config, dataset, model_dir, vectors)
    activate_release(config, release, url)
    return release.as_dict()


def check_behaviour(model_dir: Path) -> Behaviour:
    """Run the behavioural tests of a model; the result is kept beside it, for the gate."""
    from skillmatch_ray.evaluation.behaviour import check_model
    from skillmatch_ray.model.matcher import load_matcher

    matcher = load_matcher(model_dir)
    found = check_model(matcher)
    write_json(model_dir / BEHAVIOUR_FILE, {"fingerprint": matcher.fingerprint, **found.as_dict()})
    return found


def require_behaviour(model_dir: Path) -> None:
    """Refuse a model that fails a required behavioural test; what was found before is believed.

    Raises:
        ReleaseError: naming the failed tests with value and limit.
    """
    from skillmatch_ray.evaluation.behaviour import VERSION
    from skillmatch_ray.model.matcher import read_model_config

    kept = model_dir / BEHAVIOUR_FILE
    found = read_json(kept) if kept.is_file() else {}
    if (found.get("fingerprint"), found.get("version")) != (read_model_config(model_dir)["fingerprint"], VERSION):
        found = check_behaviour(model_dir).as_dict()
    failed = [check for check in found["checks"] if check["required"] and not check["passed"]]
    if failed:
        told = "; ".join(f"{c['name']} is {c['value']:.3f}, must be {c['direction']} {c['limit']:g}" for c in failed)
        raise ReleaseError(
            f"model {model_dir} does not pass the behavioural tests that milvus.gate_checks requires: {told}. "
            "`skillmatch check-model` tells more; the release that was active goes on answering."
        )


def build_index(config: Config, dataset: Dataset, model_dir: Path, vectors: Path | None = None) -> Release:
    """Build an index of the model's vectors and validate it; it does not answer yet.

    Args:
        config: workspace and milvus settings.
        dataset: with freelancers.
        model_dir: that made the vectors.
        vectors: where they are; None = `vectors_of`.

    Raises:
        ReleaseError: if the gate stays shut.
    """
    from skillmatch_ray.index.releases import build_release

    if config.milvus.gate_checks:
        require_behaviour(model_dir)
    workspace, vectors = Workspace(config.workspace), vectors or vectors_of(config, model_dir)
    with progress_bar("index") as advance:
        return build_release(config, workspace, dataset, model_dir, vectors, progress=advance)


def activate_release(config: Config, release: Release, url: str | None = None) -> None:
    """Make a release the one that answers, through `url` if given."""
    from skillmatch_ray.client import desk

    desk(config, url).activate(release.name)
    console().print(f"release {release.name} is active: {release.rows} freelancers")


def update_index(config: Config, dataset: Dataset, url: str | None = None) -> dict[str, int]:
    """Bring the active index up to date in place, by the service at `url` if given; only changed rows are written."""
    from skillmatch_ray.client import desk

    done = desk(config, url).update(dataset)
    console().print(", ".join(f"{rows} {what}" for what, rows in done.items()))
    return done


def conduct_study(
    config: Config, study: Study, dataset_dir: Path | None, out: Path | None, *, seeds: int | None, full: bool
) -> Path:
    """Token states where they are missing, the runs of a study, and its page, whose path is returned.

    Args:
        config: resolved from the study's base.
        study: what is asked.
        dataset_dir: None takes the workspace's sample as it is; where it is missing it is made.
        out: None takes a directory in the workspace.
        seeds: of headline variants; None takes the default.
        full: whether the base is that of `--full`.

    Raises:
        ReleaseError: if the study looks at a finished model and the workspace has none.
        SkillmatchError: with the message of a run.
    """
    from skillmatch_ray.quickstart import make_sample
    from skillmatch_ray.studies.page import conclusions_of, write_page
    from skillmatch_ray.studies.runner import run_study
    from skillmatch_ray.studies.study import HEADLINE_SEEDS, Places

    workspace = Workspace(config.workspace)
    sample = Dataset(workspace.dataset) if (workspace.dataset / SAMPLE_FILE).is_file() else None
    dataset = Dataset(dataset_dir) if dataset_dir else sample or make_sample(config, workspace)
    model = model_of(config).resolve() if study.needs_model else None
    config = reading_like(model, config) if model else config
    cache_states(config, dataset)
    out = (out or workspace.runs / "studies" / study.name).resolve()
    places = Places(dataset.root.resolve(), workspace.token_states.resolve(), model, out)
    with progress_bar(f"study {study.name}") as advance:
        outcome = run_study(study, config, places, seeds=seeds or HEADLINE_SEEDS, full=full, progress=advance)
    page = write_page(outcome)
    for sentence in conclusions_of(outcome):
        console().print(f"- {sentence}", soft_wrap=True)
    return page
