"""The service without Serve: the very classes that run in its replicas, in this process."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import psutil

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
