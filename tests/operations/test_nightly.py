"""The nightly run over a tiny workspace: what changed goes in, what drifted is held back, what is locked is borne."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest

from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import INTERACTIONS, Dataset
from skillmatch_ray.errors import LockedError, ReleaseError
from skillmatch_ray.files import owner_lock, read_json
from skillmatch_ray.index.release import ReleaseStore
from skillmatch_ray.index.releases import active_release, list_releases
from skillmatch_ray.index.retriever import Retriever
from skillmatch_ray.operations.nightly import latest_projects, run_nightly, training_data
from skillmatch_ray.workspace import Workspace

pytestmark = pytest.mark.ray_local

GONE, NEW, CHANGED = 1, 2, 3


@pytest.fixture
def config(tiny_workspace, tmp_path):
    root = tmp_path / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return load_config(tiny_workspace.config, [f"workspace={root}", "nightly.probes=40"])


def people_of(config):
    return [
        person.model_dump(mode="json", exclude_none=True)
        for person in Dataset(config.workspace / "dataset").freelancers()
    ]


def dataset_with(config, people, root):
    """The dataset of the workspace with other freelancers."""
    root.mkdir()
    for path in (config.workspace / "dataset").iterdir():
        if not path.name.startswith("freelancers"):
            (root / path.name).symlink_to(path)
    (root / "freelancers.jsonl").write_text("".join(json.dumps(person) + "\n" for person in people))
    return Dataset(root)


def a_day_later(config, root):
    people = people_of(config)[GONE:]
    for person in people[:CHANGED]:
        person["headline"] = "Beekeeper with a new trade"
    people += [{"freelancer_id": f"new-{i}", "headline": "Translator", "skills": ["Dutch"]} for i in range(NEW)]
    return dataset_with(config, people, root)


@pytest.mark.usefixtures("ray_session")
def test_a_quiet_day_is_taken_over_and_a_day_without_news_builds_nothing(config, tmp_path):
    workspace = Workspace(config.workspace)
    before = active_release(workspace).name
    today = a_day_later(config, tmp_path / "today")
    deleted = people_of(config)[-1]["freelancer_id"]
    with Retriever(config) as retriever:
        retriever.delete(deleted)
    report = run_nightly(config, today)
    assert (report.before, report.activated, report.held_back) == (before, True, [])
    assert (report.encoded, report.removed) == (CHANGED + NEW, GONE + 1)
    assert active_release(workspace).name == report.release
    assert active_release(workspace).rows == 300 - GONE - 1 + NEW
    assert (report.erased.vectors, report.erased.holding, report.pruned.removed) == (1, (before,), [])
    parts = map(pq.read_table, workspace.root.glob("vectors/*/part-*.parquet"))
    assert deleted not in {person for part in parts for person in part[0].to_pylist()}
    assert deleted not in ReleaseStore(workspace).journal.path.read_text()
    assert report.drift.projects == 40
    assert 0 < report.drift.changed_share < 0.05
    assert report.drift.overlap_at_10 > 0.9
    (kept,) = workspace.runs.joinpath("nightly").glob("2*.json")
    assert read_json(kept)["release"] == report.release
    again = run_nightly(config, today)
    assert (again.release, again.encoded, again.erased.vectors) == (None, 0, 0)
    assert len(list_releases(workspace)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_old_releases_go_and_erasure_may_be_left_to_the_operator(config, tmp_path):
    workspace = Workspace(config.workspace)
    config = config.model_copy(
        update={"nightly": config.nightly.model_copy(update={"keep_releases": 0, "erase": False})}
    )
    first = active_release(workspace).name
    people = people_of(config)
    with Retriever(config) as retriever:
        retriever.delete(people[0]["freelancer_id"])
    reports = [run_nightly(config, dataset_with(config, people[:-n], tmp_path / str(n))) for n in (1, 2)]
    assert [report.erased for report in reports] == [None, None]
    assert [report.pruned.removed for report in reports] == [[], [first]]
    assert people[0]["freelancer_id"] in ReleaseStore(workspace).journal.path.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_day_unlike_the_one_before_is_held_back_until_somebody_says_so(config, tmp_path):
    workspace = Workspace(config.workspace)
    before = active_release(workspace).name
    people = people_of(config)
    for person in people:
        person |= {"headline": "x", "description": "", "skills": ["y"], "job_category": "unheard-of", "country": "NZ"}
    odd = dataset_with(config, people, tmp_path / "odd")
    report = run_nightly(config, odd)
    assert not report.activated
    assert active_release(workspace).name == before
    assert any("category shift 1.000" in reason for reason in report.held_back)
    with pytest.raises(ReleaseError, match=rf"skillmatch release activate {report.release}"):
        report.check()
    assert run_nightly(config, odd, force=True).activated
    assert active_release(workspace).name != before


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_while_a_service_holds_the_index_the_night_goes_on(config, tmp_path):
    settings = config.nightly.model_copy(update={"keep_releases": 0})
    with Retriever(config):
        report = run_nightly(config, a_day_later(config, tmp_path / "today"))
        people = people_of(config)[GONE + 1 :]
        later = run_nightly(
            config.model_copy(update={"nightly": settings}), dataset_with(config, people, tmp_path / "later")
        )
    assert (later.activated, later.pruned.removed, [*later.pruned.left]) == (True, [], [report.before])
    assert report.activated
    assert report.drift is None
    assert "searching release" in report.not_compared


def test_two_nights_do_not_run_at_once(config):
    with (
        owner_lock(config.workspace / "nightly.lock", "skillmatch nightly"),
        pytest.raises(LockedError, match="nightly"),
    ):
        run_nightly(config, Dataset(config.workspace / "dataset"))


def test_the_newest_projects_are_asked_for(config):
    dataset = Dataset(config.workspace / "dataset")
    newest = latest_projects(dataset, 40)
    assert len(newest) == 40
    rest = {project.id for project in dataset.projects()} - {project.id for project in newest}
    dates = {project.id: project.created_at for project in dataset.projects()}
    assert min(dates[project.id] for project in newest) >= max(dates[name] for name in rest)


def test_feedback_is_added_to_what_is_trained_on(config, tmp_path):
    dataset = Dataset(config.workspace / "dataset")
    known = dataset.interactions()
    more = tmp_path / "feedback"
    more.mkdir()
    row = {**known[0].model_dump(mode="json"), "freelancer_id": known[-1].freelancer_id, "outcome": "selected"}
    (more / "interactions.jsonl").write_text(json.dumps(row) + "\n")
    for feedback in (more, more / "interactions.jsonl"):
        with training_data(Workspace(config.workspace), dataset, feedback) as taught:
            assert len(taught.interactions()) == len(known) + 1
            assert len(taught.freelancers()) == 300
            assert (taught.root / "sample.json").read_text() == (dataset.root / "sample.json").read_text()
    with training_data(Workspace(config.workspace), dataset, None) as taught:
        assert taught is dataset
    assert INTERACTIONS.name == "interactions"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_retrained_model_is_taken_only_if_it_is_no_worse(config, tmp_path):
    dataset = Dataset(config.workspace / "dataset")
    old = active_release(Workspace(config.workspace)).model_dir
    better = config.model_copy(update={"training": config.training.model_copy(update={"steps": 8})})
    lenient = better.model_copy(update={"nightly": config.nightly.model_copy(update={"max_map_loss": 1.0})})
    taken = run_nightly(lenient, dataset, retrain=True, force=True)
    assert taken.retrained["taken"]
    assert taken.drift.embedding_shift is None
    assert active_release(Workspace(config.workspace)).model_dir != old
    assert old.is_dir()
    harmed = better.model_copy(
        update={"training": better.training.model_copy(update={"learning_rate": 10.0, "steps": 5})}
    )
    strict = harmed.model_copy(update={"nightly": config.nightly.model_copy(update={"max_map_loss": 0.0})})
    refused = run_nightly(strict, dataset, retrain=True)
    assert not refused.retrained["taken"], refused.retrained
    assert active_release(Workspace(config.workspace)).name == taken.release
