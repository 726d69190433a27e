"""The service without Serve: the very classes that run in its replicas, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import uvicorn
from waiting import wait_for

from skillmatch_ray.config import load_config
from skillmatch_ray.serving.deployments import IndexRetriever, ProjectEncoder
from skillmatch_ray.serving.flow import MatchFlow


class Told(list):
    """Metrics as they were observed: (name, value, tags)."""

    def observe(self, name, value, tags):
        self.append((name, value, tags))


class Local:
    """Encoder, retriever and flow over one workspace."""

    def __init__(self, config) -> None:
        values = config.model_dump(mode="json")
        self.config = config
        self.told = Told()
        self.index = IndexRetriever(values, self.told.observe)
        self.encoder = ProjectEncoder(values, self.told.observe)

    def flow(self, **options) -> MatchFlow:
        return MatchFlow(self.encoder, self.index, observe=self.told.observe, **options)

    def close(self) -> None:
        self.encoder.close()
        self.index.close()


def copied_services(tiny_workspace, root, *settings) -> Local:
    """Services over a copy of the workspace, so that what is put and deleted there is seen by nobody else."""
    shutil.copytree(tiny_workspace.root, root)
    return Local(load_config(tiny_workspace.config, [f"workspace={root}", "serving.release_poll_s=3600", *settings]))


@contextlib.contextmanager
def over_http(api):
    """The address of an API, served from a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@contextlib.contextmanager
def load(address, brief, clients=2):
    """Clients that send a brief again and again; yields (status, release) of the answers so far."""
    answers, done = [], threading.Event()

    def client():
        with httpx.Client(timeout=60) as http:
            while not done.is_set():
                answer = http.post(f"{address}/v1/match", json=brief)
                answers.append((answer.status_code, answer.json().get("release")))

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        try:
            yield answers
        finally:
            done.set()
        for one in running:
            one.result()


def send(api, method, path, **options):
    """The answer of an ASGI application to one request; a crash is an answer too."""

    async def run():
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, **options)

    return asyncio.run(run())


def replicas(deployment: str) -> list[int]:
    """Processes of a deployment in the services that this test run started."""
    name, found = f"ServeReplica:skillmatch:{deployment}", []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # or a zombie
            if name in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def kill_an_encoder_under_load(address, brief):
    """One of two encoder replicas is lost; every request is answered all the same, and a new replica comes."""
    with load(address, brief, clients=3) as answers:
        wait_for(lambda: len(answers) > 20, "answers")
        before = replicas("ProjectEncoder")
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(set(replicas("ProjectEncoder")) - set(before)) == 1, "a new replica")
        seen = len(answers)
        wait_for(lambda: len(answers) > seen + 20, "answers after the kill")
    assert {status for status, _ in answers} == {200}
