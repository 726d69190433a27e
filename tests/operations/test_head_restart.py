"""The head killed and started again, without GCS fault tolerance: jobs are submitted again, results are kept."""

from __future__ import annotations

import re
import shutil

import pytest
from ray_head import ray_head
from waiting import free_ports, wait_for

from skillmatch_ray.files import read_json
from skillmatch_ray.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def workspace(tiny_workspace, tmp_path):
    root = tmp_path / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return Workspace(root)


def test_without_fault_tolerance_a_job_is_lost_and_its_results_are_not(tiny_workspace, workspace, tmp_path):
    out, report = tmp_path / "vectors", tmp_path / "report.json"
    model = next(workspace.models.glob("head-*"))
    job = ["python", "jobs/encode.py", "--config", "jobs/encode.yaml", "--dataset", workspace.dataset, "--model", model]
    job += ["--out", out, "--report", report, "-s", "encode.workers=1", "-s", "encode.gpus_per_worker=0"]
    job += ["-s", "encode.cpus_per_worker=1", "-s", "encode.rows_per_block=2", "-s", "encode.threads_per_worker=1"]
    ports = free_ports(4)
    with ray_head(ports=ports) as head:
        submitted = head.cli("ray", "job", "submit", "--working-dir", ".", "--no-wait", "--", *job)
        name = re.search(r"raysubmit_\w+", submitted.stdout)[0]
        wait_for(lambda: len(list(out.glob("part-*.parquet"))) >= 3, "a part")
    kept = len(list(out.glob("part-*.parquet")))
    assert not (out / "manifest.parquet").exists()
    with ray_head(ports=ports) as head:
        status = head.cli("ray", "job", "status", name)
        assert status.returncode != 0, "a head without fault tolerance knows no earlier job"
        done = head.cli("ray", "job", "submit", "--working-dir", ".", "--", *job)
        assert done.returncode == 0, done.stdout[-3000:]
    found = read_json(report)
    assert found["rows_out"] == 300
    assert found["reused"] >= 2 * (kept - 1)
    assert found["encoded"] == 300 - found["reused"]
