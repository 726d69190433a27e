"""Faults on a simulated cluster: no durable result is lost, what was cut off goes on (table in jobs/README.md)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray_head import end_tree
from waiting import free_port

from skillmatch_ray.config import load_config
from skillmatch_ray.files import read_json
from skillmatch_ray.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LIMIT_S = 550
DRIVER = Path(__file__).with_name("drive_faults.py")


@pytest.fixture
def workspace(tiny_workspace, tmp_path):
    root = tmp_path / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return Workspace(root)


def drive(fault, tiny_workspace, workspace, out, *overrides):
    """What the fault's driver found; everything that it started is ended."""
    out.mkdir()
    config = load_config(tiny_workspace.config, [f"workspace={workspace.root}", *overrides])
    (out / "config.json").write_text(config.model_dump_json())
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    log = out / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), fault, str(out / "config.json"), str(out)],
            env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            process.wait(LIMIT_S)
        finally:
            end_tree(process)
    assert (out / "result.json").is_file(), log.read_text(errors="replace")[-4000:]
    return read_json(out / "result.json")


def losses(run):
    """Step -> loss; of a step that was done twice, the later. A line that the loss of the node cut off is left out."""
    found = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            values = json.loads(line)
            found |= {values["step"]: values["loss"]} if "loss" in values else {}
    return found


def test_a_node_lost_in_training_costs_the_steps_since_the_last_checkpoint(tiny_workspace, workspace, tmp_path):
    overrides = ["training.steps=300", "training.checkpoint_every=10", "training.validate_every=100"]
    overrides += ["training.cpus_per_worker=1.5", "training.dtype=float32"]
    found = drive("training_node_lost", tiny_workspace, workspace, tmp_path / "out", *overrides)
    assert found["steps"] == 300
    assert 30 <= found["steps_before"] < 300, "the node went too late to matter"
    assert 300 <= found["steps_done"] < 300 + 30
    done = losses(tmp_path / "out" / "run")
    assert sorted(done) == list(range(1, 301))
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert all(0 < loss < 100 for loss in done.values())


def test_a_node_lost_in_serving_costs_seconds_and_no_answer_changes(tiny_workspace, workspace, tmp_path):
    found = drive("serving_node_lost", tiny_workspace, workspace, tmp_path / "out", f"serving.port={free_port()}")
    assert found["before"][0] == 200
    assert len(found["before"][1]) == 5
    assert found["ended"] > 0
    assert found["after"] == found["before"]
    assert found["seconds"] < 240


def test_a_full_object_store_does_not_stop_encoding(tiny_workspace, workspace, tmp_path):
    found = drive("store_full", tiny_workspace, workspace, tmp_path / "out", "encode.cpus_per_worker=1")
    assert found == {"rows": 300, "held": 16}


def test_a_slow_node_costs_no_row(tiny_workspace, workspace, tmp_path):
    overrides = ["encode.workers=2", "encode.cpus_per_worker=1.5", "encode.rows_per_block=4"]
    found = drive("slow_node", tiny_workspace, workspace, tmp_path / "out", *overrides)
    assert found == {"rows": 300, "encoded": 300, "slowed": 1, "workers": 2}
