"""Studies end to end with the tiny backbone: what they leave, what a repeat skips, what the page says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from study_helpers import shrunk
from typer.testing import CliRunner

from skillmatch_ray.config import changed
from skillmatch_ray.errors import ConfigError, DatasetError, ModelError
from skillmatch_ray.evaluation.evaluate import evaluate
from skillmatch_ray.files import read_json
from skillmatch_ray.model.matcher import load_towers
from skillmatch_ray.studies.measure import train_and_rank
from skillmatch_ray.studies.page import conclusions_of, write_page
from skillmatch_ray.studies.registry import STUDIES, find_study, list_lines
from skillmatch_ray.studies.runner import plan, run_jobs, run_study
from skillmatch_ray.studies.study import Contrast, Study, Variant

SMALL_STUDY = Study(
    name="small",
    summary="two poolings",
    question="Which?",
    variants=(
        Variant("mean", "plain mean", {"model": {"alpha": 0.0}}, headline=True),
        Variant("inverse", "1 / length", headline=True),
        Variant("untrained", "untrained", towers="untrained"),
    ),
    contrasts=(Contrast("inverse", "mean"), Contrast("mean", "untrained"), Contrast("inverse", "mean", subset="later")),
)


@pytest.fixture
def places(tiny_places, tmp_path):
    return replace(tiny_places, out=tmp_path / "out")


def test_the_list_has_one_line_for_each_study_and_nothing_else():
    from skillmatch_ray.cli import app

    shown = CliRunner().invoke(app, ["study", "--list"])
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines == list_lines()
    assert [line.split()[0] for line in lines] == list(STUDIES)
    assert all(len(line) <= 140 for line in lines)


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'poling'.*'pooling'.*--list"):
        find_study("poling")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_well_formed(name, tiny_places, tiny_config):
    study = STUDIES[name]
    names = [variant.name for variant in study.variants]
    assert len(set(names)) == len(names)
    assert len({variant.label for variant in study.variants}) == len(names)
    assert {c.first for c in study.contrasts} | {c.second for c in study.contrasts} <= set(names)
    for variant in study.variants:
        changed(shrunk(study, tiny_config), variant.overrides)  # unknown settings would be refused
    keys = [job.key for job in plan(study, shrunk(study, tiny_config), tiny_places, seeds=2)]
    assert len(set(keys)) == len(keys)


@pytest.mark.ray_local
def test_a_study_runs_writes_its_page_and_skips_what_it_has(ray_session, places, tiny_config):
    outcome = run_study(SMALL_STUDY, tiny_config, places, seeds=2)
    assert [(run.variant, run.seed) for run in outcome.runs] == [
        ("mean", 0), ("mean", 1), ("inverse", 0), ("inverse", 1), ("untrained", 0),
    ]  # fmt: skip
    assert outcome.fresh == 5
    page = write_page(outcome).read_text(encoding="utf-8")
    assert all(f"- {sentence}" in page for sentence in conclusions_of(outcome))
    assert (places.out / "small.png").stat().st_size > 1000
    for word in ("plain mean", "recall@10", "configuration", "torch", "logical CPUs", "2 seeds", "Setting"):
        assert word in page
    stamps = {path: path.stat().st_mtime_ns for path in (places.out / "runs").iterdir()}
    (places.out / "runs" / "inverse-1.json").unlink()
    again = run_study(SMALL_STUDY, tiny_config, places, seeds=2)
    assert again.fresh == 1
    assert [run.values for run in again.runs] == [run.values for run in outcome.runs]
    kept = [path for path in stamps if path.name != "inverse-1.json"]
    assert all(path.stat().st_mtime_ns == stamps[path] for path in kept)


def test_finished_runs_need_no_ray_and_other_settings_are_other_runs(places, tiny_config):
    jobs = plan(SMALL_STUDY, tiny_config, places, seeds=1)
    runs = [job.execute() for job in jobs]
    assert run_jobs(jobs) == runs  # no Ray is started: nothing is missing
    other = plan(SMALL_STUDY, changed(tiny_config, {"training": {"steps": 3}}), places, seeds=1)
    assert all(job.finished() is None for job in other)
    faster = plan(SMALL_STUDY, changed(tiny_config, {"training": {"threads_per_worker": 2}}), places, seeds=1)
    assert [job.finished() for job in faster] == runs


def test_a_run_is_the_evaluations_figure_for_the_same_towers(tiny_places, tiny_config, tiny_sample, tiny_backbone):
    variant = Variant("model", "the model", towers="model")
    run = train_and_rank(SMALL_STUDY, variant, tiny_config, 0, tiny_places)
    towers = load_towers(tiny_places.model, tiny_backbone.fingerprint).eval()
    expected = evaluate(tiny_sample, tiny_backbone, {"model": towers}).as_dict()
    assert np.mean(run.values["map"]) == pytest.approx(expected["model"]["map"], abs=0.01)  # the store holds halves
    assert len(run.projects) == expected["counts"]["projects"]
    assert set(run.pairs) == set(expected["per_language_pair"])
    assert set(run.subsets) == set(expected["subsets"])


def test_training_changes_the_towers_and_is_decided_by_the_seed(tiny_places, tiny_config):
    trained = Variant("a", "a")
    first, again = (train_and_rank(SMALL_STUDY, trained, tiny_config, 0, tiny_places) for _ in range(2))
    other = train_and_rank(SMALL_STUDY, trained, changed(tiny_config, {"seed": 1}), 1, tiny_places)
    untrained = train_and_rank(SMALL_STUDY, Variant("b", "b", towers="untrained"), tiny_config, 0, tiny_places)
    assert first.values == again.values
    assert first.values != other.values
    assert first.values != untrained.values
    assert first.figures["last_loss"] > 0


def test_a_missing_model_and_a_missing_history_are_told(tiny_places, tiny_config, tmp_path):
    without = replace(tiny_places, model=None)
    with pytest.raises(ModelError, match="finished model"):
        train_and_rank(SMALL_STUDY, Variant("m", "m", towers="model"), tiny_config, 0, without)
    bare = tmp_path / "bare"
    bare.mkdir()
    for table in ("freelancers", "projects", "qrels"):
        (bare / table).symlink_to(tiny_places.dataset / table)
    with pytest.raises(DatasetError, match="training needs 2 or more"):
        train_and_rank(SMALL_STUDY, Variant("t", "t"), tiny_config, 0, replace(tiny_places, dataset=bare))


def test_a_result_file_is_json_that_names_its_key(places, tiny_config):
    (job, *_) = plan(SMALL_STUDY, tiny_config, places, seeds=1)
    job.execute()
    content = read_json(job.path)
    assert content["key"] == job.key
    assert json.loads(json.dumps(content, allow_nan=False)) == content
