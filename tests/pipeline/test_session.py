"""Which Ray a process uses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from skillmatch_ray.config import RaySettings
from skillmatch_ray.pipeline.session import ensure_ray

OWN = """
import os
import ray
from skillmatch_ray.config import RaySettings
from skillmatch_ray.pipeline.session import ensure_ray
os.environ.pop("RAY_ADDRESS", None)
theirs = {theirs!r}
ensure_ray(RaySettings(num_cpus=1, object_store_mb=100))
assert len(ray.data.range(2).map(lambda row: row).take_all()) == 2
print("own" if ray.get_runtime_context().gcs_address != theirs else "theirs")
"""


@pytest.mark.ray_local
def test_without_an_address_a_ray_of_ones_own_is_started_and_does_not_chat(ray_session):
    """The session's Ray is noted as this machine's current one, as `ray start` of another user would do."""
    import ray

    theirs = ray.get_runtime_context().gcs_address
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="r") as folder:  # Ray's sockets want a short path
        current = Path(folder) / "ray" / "ray_current_cluster"
        current.parent.mkdir()
        current.write_text(theirs)
        done = subprocess.run(
            [sys.executable, "-c", OWN.format(theirs=theirs)],
            capture_output=True, text=True, timeout=240, check=False,
            env={**os.environ, "RAY_TMPDIR": folder},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "own"
    assert "finished in" not in done.stderr  # Ray Data's news, nor that its progress bars are off
    assert "Progress bars" not in done.stderr


def test_an_address_is_joined_and_not_started(monkeypatch):
    joined = {}
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **arguments: joined.update(arguments))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 7.0})
    assert ensure_ray(RaySettings(address="10.0.0.1:6379")) == 7.0
    assert joined["address"] == "10.0.0.1:6379"
    assert "num_cpus" not in joined
