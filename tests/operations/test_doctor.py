"""The doctor: what it finds on this machine, and what it says where something is wrong."""

from __future__ import annotations

import json
import os
import socket

import pytest
from typer.testing import CliRunner
from waiting import free_port

from skillmatch_ray.cli import app
from skillmatch_ray.config import load_config
from skillmatch_ray.operations.doctor import (
    Diagnosis,
    Finding,
    can_bind,
    diagnose,
    judge_disk,
    judge_memory,
    judge_shared_memory,
    judge_skew,
    judge_spill,
    unmet,
)


@pytest.fixture
def closed_port():
    return free_port()


@pytest.fixture
def busy_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def checks(tiny_checkpoint, tmp_path, *overrides):
    settings = [f"backbone.name={tiny_checkpoint}", f"workspace={tmp_path / 'w'}", *overrides]
    found = diagnose(load_config(None, settings))
    return {finding.check: finding for finding in found.findings}


def test_on_this_machine_the_embedded_default_can_run(tiny_checkpoint, tmp_path):
    found = checks(tiny_checkpoint, tmp_path)
    for check in ("python", "packages", "workspace", "backbone", "Milvus", "Ray cluster", "clock"):
        assert found[check].level == "ok", found[check]
    assert "milvus_lite" in found["Milvus"].found
    assert f"{len(os.sched_getaffinity(0))} CPUs" in found["cores"].found
    assert not (tmp_path / "w").exists()
    assert not list(tmp_path.glob(".skillmatch-doctor*"))


def test_what_does_not_stop_the_embedded_default_is_a_warning(tiny_checkpoint, tmp_path, closed_port, busy_port):
    uri = f"http://127.0.0.1:{closed_port}"
    found = checks(
        tiny_checkpoint / "..", tmp_path, f"milvus.uri={uri}", "milvus.timeout_s=1", f"serving.port={busy_port}",
        "training.use_gpu=true", "serving.host=0.0.0.0",
    )  # fmt: skip
    for check, word in (
        ("Milvus", uri), ("port of the service", str(busy_port)), ("backbone", "lacks"),
        ("GPUs", "none"), ("API keys", "0.0.0.0"), ("authentication", "disabled"),
    ):  # fmt: skip
        assert found[check].level == "warning", found[check]
        assert word in found[check].found
        assert found[check].remedy
    assert f"process {os.getpid()}" in found["port of the service"].found


def test_a_ray_address_that_leads_nowhere_ends_with_1(tiny_checkpoint, tmp_path, closed_port, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    arguments = ["doctor", "-w", str(tmp_path), "-s", f"backbone.name={tiny_checkpoint}"]
    shown = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "doctor.json")])
    assert shown.exit_code == 1
    report = json.loads((tmp_path / "doctor.json").read_text())
    assert not report["healthy"]
    problems = [
        finding for finding in report["findings"] if finding["level"] == "problem" and finding["check"] != "memory"
    ]
    assert [finding["check"] for finding in problems] == ["Ray cluster"]
    assert "unset RAY_ADDRESS" in problems[0]["remedy"]


def test_a_workspace_that_cannot_be_written_is_a_problem(tiny_checkpoint, tmp_path):
    (tmp_path / "w").write_text("a file")
    assert checks(tiny_checkpoint, tmp_path)["workspace"].level == "problem"


def test_a_release_of_the_future_tells_of_the_clock(tiny_checkpoint, tmp_path):
    pointer = tmp_path / "w" / "active.json"
    pointer.parent.mkdir()
    pointer.write_text('{"active": "abc", "previous": null}')
    assert checks(tiny_checkpoint, tmp_path)["release"].level == "ok"
    os.utime(pointer, (pointer.stat().st_mtime + 3600,) * 2)
    found = checks(tiny_checkpoint, tmp_path)["release"]
    assert found.level == "warning"
    assert "clock" in found.remedy


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (judge_memory(2.9), "problem"),
        (judge_memory(3.0), "warning"),
        (judge_memory(6.0), "ok"),
        (judge_disk("disk", 1.9), "problem"),
        (judge_disk("disk", 2.0), "warning"),
        (judge_disk("disk", 10.0), "ok"),
        (judge_spill(0.96), "warning"),
        (judge_spill(0.95), "ok"),
        (judge_shared_memory(64, 512), "warning"),
        (judge_shared_memory(512, 512), "ok"),
        (judge_skew(-31.0), "warning"),
        (judge_skew(31.0), "warning"),
        (judge_skew(29.0), "ok"),
    ],
)
def test_limits(finding: Finding, level: str):
    assert finding.level == level
    assert bool(finding.remedy) == (level != "ok")
    assert Diagnosis((finding,)).healthy == (level != "problem")


def test_requirements_are_compared_with_what_is_installed():
    requirements = [
        "numpy>=1",
        "numpy>=99",
        "no-such-package>=1",
        "no-such-extra; extra == 'x'",
        "old; python_version < '3'",
    ]
    found = dict(unmet(requirements))
    assert set(found) == {"numpy>=99", "no-such-package>=1"}
    assert found["no-such-package>=1"] == "missing"


def test_a_port_is_free_or_not(busy_port, closed_port):
    assert can_bind("127.0.0.1", closed_port)
    assert not can_bind("127.0.0.1", busy_port)
