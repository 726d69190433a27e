"""The head killed and started again: what a service and a job notice, with and without GCS fault tolerance."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess

import httpx
import pytest
import yaml
from ray_head import ON_CPUS, ROOT, SMALL_BLOCKS, ray_head, ray_worker, short_directory
from serving_helpers import replicas
from waiting import free_port, free_ports, wait_for

from skillmatch_ray.files import read_json
from skillmatch_ray.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


PATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "300"}
"""Nodes wait so long for a head that is gone. Ray waits a minute, in which a loaded machine may not start one."""


@pytest.fixture
def workspace(tiny_workspace, tmp_path):
    root = tmp_path / "workspace"
    shutil.copytree(tiny_workspace.root, root)
    return Workspace(root)


@contextlib.contextmanager
def redis_server(directory):
    """Address of a Redis of its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: accepts(port), "Redis")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
        return True
    return False


def serve_file(tiny_workspace, workspace, port, path):
    """serve_config.yaml for the tiny workspace, on another port."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    tiny = yaml.safe_load(tiny_workspace.config.read_text())
    config["applications"][0]["args"] = {**tiny, "workspace": str(workspace.root), "serving": {"port": port}}
    path.write_text(yaml.safe_dump(config))
    return path


def ask(port):
    """Ids of the best five, or None where nobody answers well."""
    brief = {"project": {"title": "React developer", "skills": ["React"]}, "top_k": 5}
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/match", json=brief, timeout=60)
    except httpx.TransportError:
        return None
    return [found["freelancer_id"] for found in answer.json()["candidates"]] if answer.status_code == 200 else None


def encode_job(workspace, out, report):
    places = ["--dataset", workspace.dataset, "--model", next(workspace.models.glob("head-*")), "--out", out]
    job = ["python", "jobs/encode.py", "--config", "jobs/encode.yaml", *places, "--report", report]
    return [*job, *ON_CPUS, *SMALL_BLOCKS]


def submit(head, job, *options):
    """The name of a job that goes on by itself."""
    done = head.cli("ray", "job", "submit", "--working-dir", ".", "--no-wait", *options, "--", *job)
    return re.search(r"raysubmit_\w+", done.stdout)[0]


def submit_again(head, job, *options):
    """The same command, to its good end."""
    done = head.cli("ray", "job", "submit", "--working-dir", ".", *options, "--", *job)
    assert done.returncode == 0, done.stdout[-3000:]


def check_resumed(report, kept):
    """What stood in the parts was not encoded again; the last of them may not have been whole."""
    found = read_json(report)
    assert found["rows_out"] == 300
    assert found["reused"] >= 2 * (kept - 1)
    assert found["encoded"] == 300 - found["reused"]


def parts(out):
    return len(list(out.glob("part-*.parquet")))


def test_with_fault_tolerance_the_service_answers_while_the_head_is_gone(tiny_workspace, workspace, tmp_path):
    """Head and worker are nodes of one machine; the head has no CPUs, so what runs runs on the worker."""
    ports, serve_port = free_ports(4), free_port()
    file = serve_file(tiny_workspace, workspace, serve_port, tmp_path / "serve.yaml")
    out, report = tmp_path / "vectors", tmp_path / "report.json"
    job = encode_job(workspace, out, report)
    with redis_server(tmp_path) as redis, short_directory() as directory, contextlib.ExitStack() as worker:
        tolerant = {**PATIENT, "RAY_REDIS_ADDRESS": redis}
        with ray_head(0, ports=ports, directory=directory, **tolerant) as head:
            worker.enter_context(ray_worker(head.gcs, 6, tmp_path / "worker.log", **tolerant))
            deployed = head.cli("serve", "deploy", "--address", head.dashboard, file)
            assert deployed.returncode == 0, deployed.stderr[-1500:]
            wait_for(lambda: ask(serve_port), "the first answer")
            before, running = ask(serve_port), replicas("Ingress")
            assert len(before) == 5
            assert len(running) == 1
            name = submit(head, job, "--entrypoint-num-cpus", "0.5")
            wait_for(lambda: parts(out) >= 3, "a part")
        assert not (out / "manifest.parquet").exists()
        assert not accepts(ports[0]), "the head is still there"
        assert [ask(serve_port) for _ in range(5)] == [before] * 5, "replicas and their proxy go on answering"
        # The worker runs on this machine too, so Ray takes the old head for alive unless it forgets where it was.
        (directory / "ray_current_cluster").unlink()
        with ray_head(0, ports=ports, directory=directory, **tolerant) as head:
            shown = ["serve", "status", "--address", head.dashboard]
            wait_for(lambda: "status: RUNNING" in head.cli(*shown).stdout, "recovery")
            assert ask(serve_port) == before
            assert replicas("Ingress") == running, "the replica was started anew"
            # The job is known. Ray Data does not go on after this; whoever stops it and submits it again does.
            assert "RUNNING" in head.cli("ray", "job", "status", name).stdout.upper()
            stopped = head.cli("ray", "job", "stop", name)
            assert stopped.returncode == 0, stopped.stderr
            kept = parts(out)
            submit_again(head, job, "--entrypoint-num-cpus", "0.5")
    check_resumed(report, kept)


def test_without_fault_tolerance_a_job_is_lost_and_its_results_are_not(workspace, tmp_path):
    out, report = tmp_path / "vectors", tmp_path / "report.json"
    job, ports = encode_job(workspace, out, report), free_ports(4)
    with ray_head(ports=ports) as head:
        name = submit(head, job)
        wait_for(lambda: parts(out) >= 3, "a part")
    kept = parts(out)
    assert not (out / "manifest.parquet").exists()
    with ray_head(ports=ports) as head:
        status = head.cli("ray", "job", "status", name)
        assert status.returncode != 0, "a head without fault tolerance knows no earlier job"
        submit_again(head, job)
    check_resumed(report, kept)
