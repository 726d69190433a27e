"""From candidates that were shown and what became of them to interactions to train on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from quickstart_helpers import skillmatch_here

from skillmatch_ray.dataset import Dataset
from skillmatch_ray.errors import DatasetError
from skillmatch_ray.feedback import join_feedback
from skillmatch_ray.serving.served import ServedLog, ServedMatch
from skillmatch_ray.workspace import Workspace


def shown(request_id, project_id, *freelancers):
    candidates = [(name, 0.9 - i / 10) for i, name in enumerate(freelancers)]
    return ServedMatch(
        request_id=request_id, project_id=project_id, release="r", fingerprint="f", candidates=candidates
    )


@pytest.fixture
def workspace(tmp_path):
    log = ServedLog(tmp_path / "workspace" / "served")
    for match in (
        shown("r1", "p1", "f1", "f2", "f3"),
        shown("r2", "brief", "f2", "f9"),
        shown("r3", "p1", "f4"),
    ):
        log.record(match)
    log.close()
    return Workspace(tmp_path / "workspace")


def write_outcomes(root, *rows):
    root.mkdir(exist_ok=True)
    (root / "outcomes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


OUTCOMES = (
    {"project_id": "p1", "freelancer_id": "f2", "outcome": "selected", "happened_at": "2026-05-01"},  # rank 2
    {"request_id": "r2", "freelancer_id": "f2", "outcome": "accepted"},  # rank 1, an unnamed brief
    {"request_id": "r1", "freelancer_id": "f3", "outcome": "company_declined_skills"},
    {"project_id": "p1", "freelancer_id": "f4", "outcome": "no_answer"},  # shown by the second answer about p1
    {"request_id": "r2", "freelancer_id": "f1", "outcome": "selected"},  # never shown for r2
    {"project_id": "p7", "freelancer_id": "f1", "outcome": "selected"},  # no such project
    {"freelancer_id": "f1", "outcome": "selected"},  # names no match
    {"project_id": "p1", "freelancer_id": "f1", "outcome": "loved"},  # no outcome
)


def test_outcomes_of_shown_candidates_become_interactions(workspace, tmp_path):
    outcomes = Dataset(write_outcomes(tmp_path / "crm", *OUTCOMES))
    report = join_feedback(workspace, outcomes, tmp_path / "out")
    assert (report.matches, report.shown, report.outcomes, report.joined, report.not_shown) == (3, 6, 6, 4, 2)
    assert sum(report.bad_rows.values()) == 2
    # (1/2 + 1/1) / 2
    assert report.mean_reciprocal_rank == 0.75
    found = Dataset(tmp_path / "out").interactions()
    assert [(i.project_id, i.freelancer_id, i.outcome.value) for i in found] == [
        ("p1", "f2", "selected"),
        ("r2", "f2", "accepted"),
        ("p1", "f3", "company_declined_skills"),
        ("p1", "f4", "no_answer"),
    ]
    assert found[0].happened_at is not None


def test_a_line_that_was_cut_off_costs_only_itself(workspace, tmp_path):
    (file,) = workspace.served.glob("*.jsonl")
    with file.open("a") as lines:
        lines.write('{"request_id": "r4", "project')
    report = join_feedback(workspace, Dataset(write_outcomes(tmp_path / "crm", OUTCOMES[0])), tmp_path / "out")
    assert (report.matches, report.joined) == (3, 1)
    assert sum(report.bad_rows.values()) == 1


def test_without_a_log_there_is_nothing_to_join(tmp_path):
    (tmp_path / "workspace").mkdir()
    with pytest.raises(DatasetError, match="served"):
        join_feedback(
            Workspace(tmp_path / "workspace"), Dataset(write_outcomes(tmp_path / "crm", OUTCOMES[0])), tmp_path / "out"
        )


def test_the_verb_joins_and_reports(workspace, tmp_path):
    crm, report = write_outcomes(tmp_path / "crm", *OUTCOMES), tmp_path / "report.json"
    done = skillmatch_here(
        "feedback", "-w", workspace.root, "--outcomes", crm, "--out", tmp_path / "out", "--report", report
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["joined"] == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_costs_lines_not_answers(tmp_path, caplog):
    log = ServedLog(tmp_path)
    match = shown("r1", "p1", "f1")
    log.record(match)
    log._file.close()
    log._file = Path("/dev/full").open("w")  # noqa: SIM115
    log.record(match)
    log.record(match)
    assert caplog.text.count("not remembered") == 1


def test_the_log_has_ids_scores_and_the_release_but_no_text(workspace):
    (file,) = workspace.served.glob("*.jsonl")
    first = json.loads(file.read_text().splitlines()[0])
    assert set(first) == {"request_id", "project_id", "at", "release", "fingerprint", "candidates"}
    assert first["candidates"] == [["f1", 0.9], ["f2", 0.8], ["f3", 0.7]]


@pytest.mark.e2e
def test_two_writers_never_share_a_file(tmp_path):
    first, second = ServedLog(tmp_path), ServedLog(tmp_path)

    async def run():
        for i in range(10):
            first.record(shown(f"a{i}", "p1", "f1"))
            second.record(shown(f"b{i}", "p1", "f1"))

    asyncio.run(run())
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
