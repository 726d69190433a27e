"""`skillmatch nightly`: encode what changed, build, validate, compare with the release that answers, switch.

Built from the stages of the other verbs. Until the last of them the old release goes on answering; a
run that was cut off is repeated, and does again only what it had not finished.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from skillmatch_ray.config import Config
from skillmatch_ray.console import console
from skillmatch_ray.dataset import INTERACTIONS, PROJECTS, Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import LockedError, ReleaseError
from skillmatch_ray.files import owner_lock, write_json
from skillmatch_ray.index.compaction import CompactionReport, compact
from skillmatch_ray.index.release import Release, ReleaseStore
from skillmatch_ray.index.releases import Pruned, active_release, prune
from skillmatch_ray.operations.drift import Drift, Snapshot, compare, load_snapshot, save_snapshot, take_snapshot
from skillmatch_ray.pipeline.vectors import read_manifest
from skillmatch_ray.stages import (
    activate_release,
    build_index,
    cache_states,
    encode_vectors,
    evaluate_model,
    reading_like,
    train_model,
    vectors_of,
)
from skillmatch_ray.training.train import training_key
from skillmatch_ray.validate import validate_dataset
from skillmatch_ray.workspace import Workspace

_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass
class NightlyReport:
    """What a nightly run did.

    Attributes:
        before: release that answered.
        release: release that was built; None where nothing had changed.
        activated: whether it answers now.
        encoded: freelancers encoded.
        removed: freelancers that are gone.
        erased: what was erased of deleted freelancers; None with `nightly.erase` off.
        pruned: which old releases went, and why others stay; None where an index was being built.
        quarantined: rows set aside, by table.
        retrained: what became of a new model; None where none was asked for.
        drift: against the release before; None where it could not be asked.
        not_compared: why it could not.
        held_back: why the new release does not answer.
    """

    before: str
    release: str | None = None
    activated: bool = False
    encoded: int = 0
    removed: int = 0
    erased: CompactionReport | None = None
    pruned: Pruned | None = None
    quarantined: dict[str, int] = field(default_factory=dict)
    retrained: dict[str, Any] | None = None
    drift: Drift | None = None
    not_compared: str = ""
    held_back: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For reports."""
        return asdict(self)

    def check(self) -> None:
        """Nothing, if the new release answers or none was needed.

        Raises:
            ReleaseError: if it is held back, with the reasons and the next action.
        """
        if self.held_back:
            raise ReleaseError(
                f"release {self.release} was built but does not answer: {'; '.join(self.held_back)}. If that is as it "
                f"should be: skillmatch release activate {self.release}"
            )


def run_nightly(
    config: Config, dataset: Dataset, *, retrain: bool = False, feedback: Path | None = None, force: bool = False
) -> NightlyReport:
    """Bring the active release up to date with the dataset, if the outcome looks like the day before.

    Args:
        config: settings; `config.workspace` has an active release.
        dataset: of today.
        retrain: train a new model first, and take it if it is no worse on held-out projects.
        feedback: more interactions to train on: a dataset directory, or one file.
        force: switch whatever the drift is; the gate of the index still holds.

    Raises:
        LockedError: if another nightly run, encoding or build is under way.
        DatasetError: if too many rows are bad; nothing has changed then.
        ReleaseError: if the new index does not pass its gate. One that drifted too far is no error here: it is
            there, but does not answer (`NightlyReport.check`).
    """
    workspace = Workspace(config.workspace)
    with owner_lock(workspace.root / "nightly.lock", "skillmatch nightly"):
        report = NightlyReport(before=active_release(workspace).name)
        try:
            _run(config, workspace, dataset, report, retrain=retrain, feedback=feedback, force=force)
            report.pruned = _pruned(config, workspace)
        finally:
            write_json(_directory(workspace) / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}.json", report.as_dict())
    return report


def _pruned(config: Config, workspace: Workspace) -> Pruned | None:
    """What became of old releases; those that somebody searches are left to another night."""
    try:
        return prune(workspace, config, config.nightly.keep_releases)
    except LockedError as e:
        console().print(f"old releases stay until the next night: {e}")
        return None


def _directory(workspace: Workspace) -> Path:
    return workspace.runs / "nightly"


def _snapshots(workspace: Workspace) -> Path:
    return _directory(workspace) / "snapshots"


def _run(
    config: Config, workspace: Workspace, dataset: Dataset, report: NightlyReport,
    *, retrain: bool, feedback: Path | None, force: bool,
) -> None:  # fmt: skip
    active = active_release(workspace)
    validation = validate_dataset(dataset, workspace.quarantine, config.dataset)
    report.quarantined = validation.as_dict()["quarantined"]
    projects = latest_projects(dataset, config.nightly.probes)
    before = _before(config, workspace, active, projects, report)
    model_dir = active.model_dir
    if retrain:
        model_dir, report.retrained = retrained(config, workspace, dataset, feedback, model_dir)
    encoded = encode_vectors(config, dataset, model_dir)
    report.encoded, report.removed = encoded.encoded, encoded.removed
    if config.nightly.erase:  # before the new index: it does not wait for a gate
        report.erased = compact(config, workspace, dataset)
    state, kept = (
        source_state(workspace, vectors_of(config, model_dir)),
        load_snapshot(_snapshots(workspace), active.name),
    )
    if kept is not None and kept.source == state and kept.fingerprint == encoded.fingerprint:
        console().print(f"nothing has changed since release {active.name}")
        return
    release = build_index(config, dataset, model_dir)
    report.release = release.name
    after = replace(take_snapshot(config, release, projects), source=state)
    save_snapshot(after, _snapshots(workspace))
    if before is not None and before.probes.keys() & after.probes.keys():
        report.drift = compare(before, after)
        report.held_back = [] if force else report.drift.excesses(config.nightly)
    if not report.held_back:
        activate_release(config, release)
        report.activated = True


def latest_projects(dataset: Dataset, count: int) -> list[Project]:
    """The newest projects, which tell what is asked for now; without dates, those of the last ids."""
    return heapq.nlargest(
        count, dataset.read(PROJECTS), key=lambda project: (project.created_at or _LONG_AGO, project.id)
    )


def _before(
    config: Config, workspace: Workspace, active: Release, projects: Sequence[Project], report: NightlyReport
) -> Snapshot | None:
    """What the active release answers to today's projects; while a service holds it, what it answered when built."""
    try:
        return take_snapshot(config, active, projects)
    except LockedError as e:
        kept = load_snapshot(_snapshots(workspace), active.name)
        report.not_compared = "" if kept else str(e)
        return kept


def source_state(workspace: Workspace, vectors_dir: Path) -> str:
    """Hash of everything that an index is built from: the live rows of the vectors, and the journal."""
    rows = read_manifest(vectors_dir).sort_by("freelancer_id")
    digest = hashlib.sha256(str(ReleaseStore(workspace).journal.last_seq()).encode())
    for column in ("freelancer_id", "content_hash", "row_hash"):
        for value in rows[column].to_pylist():
            digest.update(value.encode())
    return digest.hexdigest()


def retrained(
    config: Config, workspace: Workspace, dataset: Dataset, feedback: Path | None, active: Path
) -> tuple[Path, dict[str, Any]]:
    """(model directory to use, what became of the new model): the new one only where it is no worse.

    Where the configuration names no glossary, the new model has that of the active one.
    """
    config = config if config.glossary else reading_like(active, config)
    with training_data(workspace, dataset, feedback) as taught:
        model_dir = workspace.models / f"nightly-{training_key(config, taught)[:12]}"
        cache_states(config, taught)
        trained = train_model(config, taught, model_dir)
    content = evaluate_model(config, dataset, model_dir, peers=[str(active)]).content
    new, old = content["model"]["map"], content["peers"][str(active)]["map"]
    taken = new >= old - config.nightly.max_map_loss
    console().print(
        f"new model: MAP {new:.3f}, active model: {old:.3f}; {'taken' if taken else 'the active one stays'}"
    )
    told = {"model": str(model_dir), "steps": trained.steps, "map": new, "map_before": old, "taken": taken}
    return (model_dir if taken else active), told


@contextlib.contextmanager
def training_data(workspace: Workspace, dataset: Dataset, feedback: Path | None) -> Iterator[Dataset]:
    """The dataset with the feedback as further parts of its interactions; links, no copies."""
    if feedback is None:
        yield dataset
        return
    more = Dataset(feedback).require(INTERACTIONS) if feedback.is_dir() else [feedback]
    _directory(workspace).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_directory(workspace)) as directory:
        root = Path(directory)
        for path in dataset.root.iterdir():
            if path.name.partition(".")[0] != INTERACTIONS.name:
                (root / path.name).symlink_to(path.resolve())
        (root / INTERACTIONS.name).mkdir()
        for number, part in enumerate([*dataset.parts(INTERACTIONS), *more]):
            (root / INTERACTIONS.name / f"{number:06d}-{part.name}").symlink_to(part.resolve())
        yield Dataset(root)
