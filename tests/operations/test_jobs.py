"""The jobs through `ray job submit` and the API, against a head of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal

import pyarrow.parquet as pq
import pytest
from ray_head import ON_CPUS, ROOT, SMALL_BLOCKS, ray_head
from waiting import wait_for

from skillmatch_ray.files import read_json
from skillmatch_ray.index.releases import directory_bytes, list_releases
from skillmatch_ray.workspace import Workspace

pytestmark = pytest.mark.e2e

MOST_MEGABYTES = 5.0


@pytest.fixture(scope="module")
def head():
    with ray_head() as started:
        yield started


@pytest.fixture
def workspace(tiny_workspace, tmp_path):
    """A copy that a job may change, without vectors and token states: there is something to do."""
    root = tmp_path / "workspace"
    shutil.copytree(tiny_workspace.root, root, ignore=shutil.ignore_patterns("vectors", "token_states", "runs"))
    return Workspace(root)


def model_of(workspace):
    return next(workspace.models.glob("head-*"))


def submit(head, verb, *arguments, wait=True):
    """`ray job submit` as the YAML of the job tells it, with more options."""
    options = [] if wait else ["--no-wait"]
    job = ["python", f"jobs/{verb}.py", "--config", f"jobs/{verb}.yaml", *arguments]
    return head.cli("ray", "job", "submit", "--working-dir", ".", *options, "--", *job)


def uploads(head):
    """Where the head unpacked what was uploaded."""
    return list(head.temporary.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"))


def job_id(output):
    found = re.search(r"raysubmit_\w+", output)
    assert found, output
    return found[0]


def test_encode_is_uploaded_small_runs_and_tells_the_truth(head, workspace, tmp_path):
    out, report = tmp_path / "vectors", tmp_path / "report.json"
    arguments = ["--dataset", workspace.dataset, "--model", model_of(workspace), "--out", out, "--report", report]
    done = submit(head, "encode", *arguments, *ON_CPUS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (upload,) = uploads(head)
    assert {path.name for path in upload.iterdir()} >= {"jobs", "skillmatch_ray"}
    assert not upload.joinpath("tests").exists()
    # Ray packs without compression: this is what went over the wire.
    assert directory_bytes(upload) < MOST_MEGABYTES * 2**20
    assert "succeeded" in done.stdout
    assert read_json(report)["rows_out"] == 300
    assert pq.read_metadata(out / "manifest.parquet").num_rows == 300


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "/nowhere", "--model", "/nowhere", "--out", "/tmp/never"], "/nowhere"),
        (["--dataset", "/nowhere", "--model", "/nowhere", "--out", "vectors"], "the job's own upload"),
    ],
)
def test_a_failed_job_fails_and_its_last_line_says_why(head, arguments, words):
    done = submit(head, "encode", *arguments)
    assert done.returncode == 1
    assert "failed" in done.stdout
    assert re.search(rf"error: .*{words}", " ".join(done.stdout.split())), done.stdout[-2000:]
    assert "Traceback" not in done.stdout


@pytest.mark.slow
def test_a_stopped_job_leaves_nothing_half_written_and_goes_on_where_it_stood(head, workspace, tmp_path):
    out = tmp_path / "vectors"
    arguments = ["--dataset", workspace.dataset, "--model", model_of(workspace), "--out", out, *ON_CPUS, *SMALL_BLOCKS]
    begun = job_id(submit(head, "encode", *arguments, wait=False).stdout)
    wait_for(lambda: len(list(out.glob("part-*.parquet"))) >= 3, "a part")
    stopped = head.cli("ray", "job", "stop", begun)
    assert stopped.returncode == 0, stopped.stderr
    assert "STOPPED" in head.cli("ray", "job", "status", begun).stdout.upper()
    assert not (out / "manifest.parquet").exists()
    kept = sum(pq.read_table(part).num_rows for part in out.glob("part-*.parquet"))
    assert 0 < kept < 300
    report = tmp_path / "report.json"
    done = submit(head, "encode", *arguments, "--report", report)
    assert done.returncode == 0, done.stdout[-3000:]
    found = read_json(report)
    assert found["reused"] >= kept
    assert (found["rows_in"], found["rows_out"]) == (300, 300)
    assert not list(out.glob(".*.tmp"))


@pytest.mark.slow
def test_two_submissions_of_one_reindex_refuse_each_other(head, workspace):
    """The first is held still while it has the lock, so that the second surely meets it."""
    arguments = ["--dataset", workspace.dataset, "--model", model_of(workspace), "--workspace", workspace.root]
    arguments += [*ON_CPUS, *SMALL_BLOCKS]
    before = len(list_releases(workspace))
    first = job_id(submit(head, "reindex", *arguments, wait=False).stdout)
    wait_for(lambda: list(workspace.root.glob("vectors/*/part-*.parquet")), "a part")
    lock = next(workspace.root.glob("vectors/*/.lock")).read_text()
    owner = int(re.search(r"process (\d+)", lock)[1])
    os.kill(owner, signal.SIGSTOP)
    try:
        second = submit(head, "reindex", *arguments)
    finally:
        os.kill(owner, signal.SIGCONT)
    assert second.returncode == 1
    said = " ".join(second.stdout.split())
    assert re.search(rf"error: .* is in use: skillmatch encode by .*process {owner}", said), said[-2000:]
    wait_for(lambda: "RUNNING" not in head.cli("ray", "job", "status", first).stdout.upper(), "the end of the first")
    assert "SUCCEEDED" in head.cli("ray", "job", "status", first).stdout.upper(), head.cli("ray", "job", "logs", first)
    assert len(list_releases(workspace)) == before + 1


@pytest.mark.slow
def test_train_and_evaluate_through_the_api(head, workspace, tiny_workspace, tmp_path):
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(head.dashboard)
    model, report = tmp_path / "model", tmp_path / "report.json"

    def run(verb, *arguments):
        words = ["python", f"jobs/{verb}.py", "--config", f"jobs/{verb}.yaml", *map(str, arguments)]
        name = client.submit_job(entrypoint=" ".join(words), runtime_env={"working_dir": str(ROOT)})
        wait_for(lambda: client.get_job_status(name).is_terminal(), "the end of the job")
        assert client.get_job_status(name) == JobStatus.SUCCEEDED, client.get_job_logs(name)[-3000:]
        return client.get_job_logs(name)

    backbone = read_json(model_of(workspace) / "config.json")["backbone"]["name"]
    small = ["training.steps=4", "training.workers=1", "training.use_gpu=false", "training.projects_per_step=16"]
    small += ["training.groups_per_step=3", "model.layers=1", "model.heads=4", f"backbone.name={backbone}"]
    small += ["backbone.max_section_tokens=64", "backbone.dtype=float32"]
    options = [word for setting in small for word in ("-s", setting)]
    logs = run("train", "--dataset", workspace.dataset, "--model", model, "--workspace", workspace.root, *options)
    assert f"wrote {model} (4 steps" in " ".join(logs.split())
    run("evaluate", "--dataset", workspace.dataset, "--model", model, "--report", report)
    assert json.loads(report.read_text())["evaluation"]["model"]["map"] > 0
