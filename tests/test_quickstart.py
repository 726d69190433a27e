"""From nothing to a match through the command line, with the tiny backbone: what it writes, and what a repeat does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from quickstart_helpers import TINY_QUICKSTART, skillmatch, skillmatch_here

pytestmark = pytest.mark.e2e

FLOORS = {"random", "bm25", "e5_mean", "e5_sections", "e5_title_skills"}
METRICS = {"map", "ndcg@10", "recall@10", "recall@100", "mrr"}
STAGES = {"sample", "validate", "token_states", "train", "evaluate", "encode", "index", "match"}


def test_the_report_has_the_promised_keys(tiny_workspace):
    report = tiny_workspace.report
    assert report["dataset"]["counts"]["freelancers"] == 300
    assert report["dataset"]["counts"]["projects"] == 200
    assert set(report["dataset"]["quarantined"].values()) == {0}
    assert set(report["evaluation"]["baselines"]) == FLOORS
    for values in (report["evaluation"]["model"], *report["evaluation"]["baselines"].values()):
        assert set(values) >= METRICS
        assert all(0 <= values[name] <= 1 for name in METRICS)
    assert report["evaluation"]["per_language_pair"]
    assert report["index"]["rows"] == 300
    assert len(report["index"]["fingerprint"]) == 64
    assert report["index"]["recall_at_10_vs_exact"] >= 0.95
    assert set(report["seconds"]) == STAGES
    assert {"ray", "torch", "pymilvus"} <= set(report["versions"])
    assert json.loads((tiny_workspace.root / "report.json").read_text()) == report


def test_three_briefs_are_answered_and_the_next_steps_told(tiny_workspace):
    for title in ("Help for our shop", "Renfort pour la cl\u00f4ture", "Freelancer f\u00fcr Energieprojekt"):
        assert title in tiny_workspace.output
    assert "skillmatch serve --workspace" in tiny_workspace.output


@pytest.mark.usefixtures("ray_session")
def test_a_second_run_reuses_everything_and_says_the_same(tiny_workspace, tmp_path):
    report = tmp_path / "again.json"
    done = skillmatch_here("quickstart", "-w", tiny_workspace.root, "-c", tiny_workspace.config, "--report", report)
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads(report.read_text())
    assert again["evaluation"] == tiny_workspace.report["evaluation"]
    assert again["index"]["fingerprint"] == tiny_workspace.report["index"]["fingerprint"]
    assert "0 encoded, 300 reused" in done.stderr


def test_match_answers_a_text_and_a_file(tiny_workspace, tmp_path):
    brief = tmp_path / "brief.json"
    brief.write_text(json.dumps({"title": "React developer", "skills": ["React"], "country": "FR", "remote": True}))
    for arguments in ((brief,), ("--text", "React developer\nWe rebuild our shop.")):
        report = tmp_path / "match.json"
        done = skillmatch_here("match", *arguments, "-w", tiny_workspace.root, "--top-k", 3, "--report", report)
        assert done.returncode == 0, done.stderr[-3000:]
        candidates = json.loads(report.read_text())["candidates"]
        assert len(candidates) == 3
        scores = [candidate["score"] for candidate in candidates]
        assert scores == sorted(scores, reverse=True)
        for candidate in candidates:
            shares = [part["score"] for part in candidate["explanation"]["freelancer"]]
            assert sum(shares) == pytest.approx(candidate["score"], abs=1e-3)


@pytest.mark.usefixtures("ray_session")
def test_a_users_own_dataset_of_fifty_goes_through(tiny_workspace, tmp_path):
    """Mixed missing fields, no history: the head learns from the sample, the fifty are indexed."""
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for i in range(50):
        row = {"freelancer_id": f"mine-{i}", "headline": f"Consultant {i}"}
        row |= {"skills": ["SQL", "Excel"]} if i % 2 else {"description": "I audit balance sheets."}
        row |= {"daily_rate_eur": 100 + i, "country": "de"} if i % 3 else {"spoken_languages": ["de", "en"]}
        rows.append(json.dumps(row))
    (data / "freelancers.jsonl").write_text("\n".join([*rows, "not json"]) + "\n")
    report = tmp_path / "report.json"
    done = skillmatch_here(
        "quickstart", "-w", tiny_workspace.root, "-c", tiny_workspace.config, "-d", data, "--report", report
    )  # fmt: skip
    back = skillmatch_here("release", "rollback", "-w", tiny_workspace.root)
    assert back.returncode == 0, back.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(report.read_text())
    assert found["dataset"]["counts"]["freelancers"] == 50
    assert found["dataset"]["quarantined"]["freelancers"] == 1
    assert found["index"]["rows"] == 50


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [12, 25, 40])
def test_killed_at_some_stage_and_started_again_it_ends_the_same(tiny_workspace, tiny_checkpoint, tmp_path, after_s):
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_QUICKSTART % tiny_checkpoint)
    command = [
        str(Path(sys.executable).parent / "skillmatch"),
        "quickstart",
        "-w",
        str(tmp_path / "w"),
        "-c",
        str(config),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        time.sleep(after_s)
        first.send_signal(signal.SIGKILL)
    done = skillmatch("quickstart", "-w", tmp_path / "w", "-c", config, "--report", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr[-3000:]
    report, expected = json.loads((tmp_path / "r.json").read_text()), tiny_workspace.report
    assert report["dataset"]["counts"] == expected["dataset"]["counts"]
    assert report["index"]["rows"] == expected["index"]["rows"]
    for name in METRICS:
        assert report["evaluation"]["model"][name] == pytest.approx(expected["evaluation"]["model"][name], abs=0.002)


def test_errors_name_the_value_and_the_next_action(tiny_workspace, tmp_path):
    for arguments, words in (
        (("quickstart", "-w", tmp_path, "--set", "training.stepz=3"), ["training.stepz", "training.steps"]),
        (("evaluate", "-d", tmp_path / "none", "-w", tiny_workspace.root), ["none", "not a directory"]),
        (("match", "--text", "x", "-w", tmp_path / "empty"), ["release"]),
        (("match", "-w", tiny_workspace.root), ["--text"]),
        (("train", "-d", tmp_path, "-m", tmp_path / "m", "-s", "training.loss={infonze: {}}"), ["infonce"]),
        (("quickstart", "-w", tmp_path, "-d", tmp_path / "nothing"), ["nothing"]),
    ):
        done = skillmatch_here(*arguments)
        assert done.returncode == 1, (arguments, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr[-2000:]
        for word in words:
            assert word in done.stderr.replace("\n", " "), (arguments, done.stderr)


@pytest.mark.parametrize(
    "verb", ["quickstart", "sample", "validate", "encode", "train", "evaluate", "reindex", "match", "serve"]
)
def test_every_verb_has_help_with_an_example(verb):
    from typer.testing import CliRunner

    from skillmatch_ray.cli import app

    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert f"Example: skillmatch {verb}" in " ".join(shown.output.split())
