"""The whole service on Ray Serve, through the command line and HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml

from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.stages import index_vectors
from skillmatch_ray.workspace import Workspace

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
BRIEF = {"project": {"title": "React developer", "skills": ["React"]}, "top_k": 3}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(tiny_workspace, tmp_path_factory):
    """Configuration of a copy of the workspace, which these tests may change."""
    root = tmp_path_factory.mktemp("serve") / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return load_config(tiny_workspace.config, [f"workspace={root}"])


@pytest.fixture(scope="module")
def service(served, tiny_workspace):
    """`skillmatch serve` in a process of its own; its address and process."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "skillmatch"), "serve", "-w", str(served.workspace)]
    command += ["-c", str(tiny_workspace.config), "-s", f"serving.port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(address, process)
            yield address, process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(90)


def wait_until_ready(address, process, limit_s=240):
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        assert process.poll() is None, process.stderr.read()[-3000:]
        try:
            if httpx.get(f"{address}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"not ready after {limit_s} s")


def test_concurrent_briefs_get_the_answers_of_single_ones(service):
    address, _ = service
    briefs = [
        {"project": {"title": f"Expert {i}", "skills": ["SQL", "welding"][i % 2 :]}, "top_k": 5} for i in range(12)
    ]

    def ask(brief):
        answer = httpx.post(f"{address}/v1/match", json=brief, timeout=60)
        assert answer.status_code == 200, answer.text
        return [(c["freelancer_id"], round(c["score"], 4)) for c in answer.json()["candidates"]]

    alone = [ask(brief) for brief in briefs]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, briefs))
    assert together == alone


def test_it_listens_on_loopback_and_names_requests(service):
    address, _ = service
    answer = httpx.post(f"{address}/v1/match", json=BRIEF, timeout=60)
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_request_leaves_one_json_line_without_its_text(service):
    address, _ = service
    name, text = uuid.uuid4().hex, f"secret{uuid.uuid4().hex}"
    brief = {"project": {"title": text}}
    assert httpx.post(f"{address}/v1/match", json=brief, headers={"x-request-id": name}, timeout=60).status_code == 200
    deadline = time.monotonic() + 20
    while not (lines := _logged(name)) and time.monotonic() < deadline:
        time.sleep(0.5)
    (line,) = lines
    record = json.loads(line)
    assert (record["route"], record["status"]) == ("/v1/match", 200)
    assert not _logged(text)


def _logged(text: str) -> list[str]:
    """Lines of the newest Ray sessions' logs with a text."""
    sessions = sorted(Path("/tmp/ray").glob("session_2*"), key=lambda p: p.stat().st_mtime)[-4:]
    files = [file for session in sessions for file in (session / "logs").rglob("*") if file.is_file()]
    lines = (line for file in files for line in file.read_text(errors="replace").splitlines())
    return [line for line in lines if text in line]


def test_the_page_and_a_profile_through_serve(service):
    address, _ = service
    assert "default-src 'none'" in httpx.get(address).headers["content-security-policy"]
    profile = {"headline": "Glass blower", "country": "IS"}
    assert httpx.put(f"{address}/v1/freelancers/newcomer", json=profile, timeout=60).status_code == 200
    wanted = {"project": {"title": "Vases"}, "filters": {"countries": ["IS"]}}
    found = httpx.post(f"{address}/v1/match", json=wanted, timeout=60).json()["candidates"]
    assert [c["freelancer_id"] for c in found] == ["newcomer"]
    assert httpx.delete(f"{address}/v1/freelancers/newcomer", timeout=60).status_code == 204
    assert httpx.get(f"{address}/v1/freelancers/newcomer/similar", timeout=60).status_code == 404


def test_a_new_release_is_taken_over_without_a_failed_request(service, served):
    address, _ = service
    before = active_release(Workspace(served.workspace))
    statuses, releases, done = [], [], threading.Event()

    def client():
        with httpx.Client(timeout=60) as http:
            while not done.is_set():
                answer = http.post(f"{address}/v1/match", json=BRIEF)
                statuses.append(answer.status_code)
                releases.append(answer.json().get("release"))

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(client) for _ in range(2)]
        try:
            index_vectors(served, Dataset(served.workspace / "dataset"), before.model_dir)
            deadline = time.monotonic() + 60
            while releases[-1:] == [before.name] and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(1)
        finally:
            done.set()
        for one in running:
            one.result()
    assert set(statuses) == {200}
    after = active_release(Workspace(served.workspace))
    assert releases[-1] == after.name != before.name


def test_a_killed_encoder_comes_back(service):
    address, _ = service
    victims = _processes("ProjectEncoder")
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        answer = httpx.post(f"{address}/v1/match", json=BRIEF, timeout=60)
        assert answer.status_code in (200, 503, 504), answer.text
        if answer.status_code == 200 and _processes("ProjectEncoder") not in ([], victims):
            return
        time.sleep(1)
    pytest.fail("no 200 within two minutes of the kill")


def _processes(deployment: str) -> list[int]:
    import psutil

    return [
        p.pid
        for p in psutil.process_iter(["cmdline"])
        if f"ServeReplica:skillmatch:{deployment}" in " ".join(p.info["cmdline"] or ())
    ]


def test_serve_config_is_known_to_serve_and_names_the_application():
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    schema = ServeDeploySchema(**content)
    assert set(content) <= set(ServeDeploySchema.model_fields)
    (application,) = schema.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert content["http_options"]["host"] == "127.0.0.1"
