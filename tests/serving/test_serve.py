"""The whole service on Ray Serve, through the command line and HTTP: everything in one replica, fast modes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from quickstart_helpers import skillmatch
from serving_helpers import kill_an_encoder_under_load, load, replicas
from waiting import free_port, wait_for

from skillmatch_ray.client import Service
from skillmatch_ray.config import load_config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.index.releases import active_release
from skillmatch_ray.stages import index_vectors
from skillmatch_ray.workspace import Workspace

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
BRIEF = {"project": {"title": "React developer", "skills": ["React"]}, "top_k": 3}


@pytest.fixture(scope="module")
def served(tiny_workspace, tmp_path_factory):
    """Configuration of a copy of the workspace, which these tests may change."""
    root = tmp_path_factory.mktemp("serve") / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return load_config(tiny_workspace.config, [f"workspace={root}"])


LAYOUTS = {
    "one": [],
    "several": ["serving.deployments=several", "serving.encoder_replicas=2", "serving.encoder_cpus=0.1"],
}


@pytest.fixture(scope="module", params=["one", pytest.param("several", marks=pytest.mark.slow)])
def service(request, served, tiny_workspace, tmp_path_factory):
    """`skillmatch serve` in a process of its own, in each layout; its address and what it printed."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "skillmatch"), "serve", "-w", str(served.workspace)]
    command += ["-c", str(tiny_workspace.config)]
    for setting in (f"serving.port={port}", "serving.request_timeout_s=5", *LAYOUTS[request.param]):
        command += ["-s", setting]
    output = tmp_path_factory.mktemp("output") / "serve.log"
    with output.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, text=True) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(address, process, output)
            yield address, output.read_text().replace("\n", " ")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(90)


def wait_until_ready(address, process, output, limit_s=240):
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        assert process.poll() is None, output.read_text()[-3000:]
        if "Ctrl-C stops" in output.read_text() and httpx.get(f"{address}/readyz", timeout=60).status_code == 200:
            return
        time.sleep(0.5)
    pytest.fail(f"not ready after {limit_s} s: {output.read_text()[-3000:]}")


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
    with load(address, BRIEF) as answers:
        index_vectors(served, Dataset(served.workspace / "dataset"), before.model_dir)
        after = active_release(Workspace(served.workspace))
        wait_for(lambda: answers[-1:] == [(200, after.name)], "an answer of the new release", 60)
        time.sleep(1)
    assert {status for status, _ in answers} == {200}
    assert answers[-1][1] == after.name != before.name


def test_an_older_release_is_activated_through_the_service(service):
    address, _ = service
    client = Service(address)
    older, active = (release["name"] for release in client.releases()[-2:])
    for name in (older, active):
        assert client.activate(name) == name
        assert httpx.post(f"{address}/v1/match", json=BRIEF, timeout=60).json()["release"] == name


def test_the_command_line_matches_through_the_service(service, served, tmp_path):
    """Though the service holds the index."""
    address, _ = service
    found = skillmatch("match", "--text", "React developer", "--url", address, "--report", tmp_path / "found.json")
    assert found.returncode == 0, found.stderr
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["release"] == active_release(Workspace(served.workspace)).name
    assert len(report["candidates"]) == 10
    assert all(candidate["explanation"] for candidate in report["candidates"])


def test_metrics_reach_prometheus(service):
    _, output = service
    metrics = re.search(r"http://[^ ]+/metrics", output).group()
    wanted = {"requests", "request_ms", "hop_ms", "batch_fill", "queue_ms", "candidates", "matches", "release_rows"}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        text = httpx.get(metrics, timeout=20).text
        missing = {name for name in wanted if f"ray_skillmatch_{name}" not in text}
        if not missing:
            return
        time.sleep(1)
    pytest.fail(f"not among the metrics: {missing}")


def test_only_the_named_ports_are_open_beyond_loopback(service):
    """The service's own port, and HTTP ports of its replicas, answer on this machine only."""
    address, _ = service
    port = int(address.rpartition(":")[2])
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in replicas("Ingress")
        for connection in psutil.Process(process).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    own = {(c.laddr.ip, c.laddr.port) for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert ("127.0.0.1", port) in own
    assert ("0.0.0.0", port) not in own
    http = {ip for ip, number in listening if 30_000 <= number < 31_000}
    assert http == {"127.0.0.1"}


def test_a_client_that_never_sends_its_body_gets_504_and_its_slot_is_free_again(service):
    address, _ = service
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.sendall(
            b"POST /v1/match HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        assert b" 504 " in slow.recv(4096).partition(b"\r\n")[0]
    assert httpx.post(f"{address}/v1/match", json=BRIEF, timeout=60).status_code == 200


@pytest.mark.parametrize("service", [pytest.param("several", marks=pytest.mark.slow)], indirect=True)
def test_no_request_fails_when_one_of_two_encoders_is_killed(service):
    address, _ = service
    kill_an_encoder_under_load(address, BRIEF)


@pytest.mark.slow
def test_the_killed_replica_comes_back(service):
    address, _ = service
    victims = replicas("Ingress")
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if _status(address) == 200 and replicas("Ingress") not in ([], victims):
            return
        time.sleep(0.5)
    pytest.fail("no 200 within two minutes of the kill")


def _status(address):
    try:
        return httpx.post(f"{address}/v1/match", json=BRIEF, timeout=60).status_code
    except httpx.TransportError:
        return 0


def test_serve_config_is_known_to_serve_and_names_the_application():
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    schema = ServeDeploySchema(**content)
    assert set(content) <= set(ServeDeploySchema.model_fields)
    (application,) = schema.applications
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert content["http_options"]["host"] == "127.0.0.1"
