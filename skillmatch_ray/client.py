"""A running `skillmatch serve` as seen from outside: matches, and operations on its releases."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path
from typing import Any, Final

import httpx

from skillmatch_ray.config import Config
from skillmatch_ray.dataset import Dataset
from skillmatch_ray.documents import Project
from skillmatch_ray.errors import ServiceError
from skillmatch_ray.index.releases import Desk, Pruned

API_KEY_VARIABLE: Final = "SKILLMATCH_API_KEY"
"""Environment variable with the key that the service asks for, if it asks for one."""

_TIMEOUT_S = 60.0
_BUSY_S = 60.0
_POLL_S = 0.2


class Service:
    """One running service; has the methods of `index.releases.Desk`.

    Args:
        url: as `skillmatch serve` prints it.

    Raises:
        ServiceError: if `url` is no address.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ServiceError(f"--url {url!r} is no address: give it as http://HOST:PORT")
        key = os.environ.get(API_KEY_VARIABLE)
        headers = {"X-API-Key": key} if key else None
        # No proxy of the environment: a service on loopback is not reached through one.
        self._http = httpx.Client(base_url=self.url, timeout=_TIMEOUT_S, headers=headers, trust_env=False)

    def match(self, project: Project, *, top_k: int, explain: bool) -> dict[str, Any]:
        """The service's answer to one brief, under the wishes of the project itself."""
        body = {"project": project.model_dump(mode="json", exclude_none=True), "top_k": top_k, "explain": explain}
        answer: dict[str, Any] = self._call("POST", "/v1/match", body)
        return answer

    def releases(self) -> list[dict[str, Any]]:
        """Manifests of all releases, oldest first."""
        found: list[dict[str, Any]] = self._call("GET", "/v1/releases")
        return found

    def status(self) -> dict[str, Any]:
        """The active release, the one before, and whether what it needs is there."""
        found: dict[str, Any] = self._call("GET", "/v1/releases/status")
        return found

    def activate(self, name: str) -> str:
        """Make a release the one that answers; its name."""
        return str(self._operate({"do": "activate", "release": name}))

    def rollback(self) -> str:
        """Make the release answer again that answered before; its name."""
        return str(self._operate({"do": "rollback"}))

    def prune(self, keep: int) -> Pruned:
        """Delete old releases."""
        return Pruned(**self._operate({"do": "prune", "keep": keep}))

    def update(self, dataset: Dataset) -> dict[str, int]:
        """Bring the active index up to date in place; how many rows."""
        return dict(self._operate({"do": "update", "dataset": str(Path(dataset.root).resolve())}))

    def _operate(self, order: dict[str, Any]) -> Any:
        """Begin an operation, and wait for its end; it may take as long as an index needs.

        The order has an id of its own: repeated after a 503 it is not carried out twice.
        """
        operation = self._call("POST", "/v1/operations", {"id": uuid.uuid4().hex, **order})
        while operation["state"] == "running":
            time.sleep(_POLL_S)
            operation = self._call("GET", f"/v1/operations/{operation['id']}")
        if operation["state"] == "failed":
            raise ServiceError(f"the service at {self.url} could not {order['do']}: {operation['error']}")
        return operation["result"]

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """One request, repeated while the service is busy.

        Raises:
            ServiceError: if it does not answer, stays busy, or refuses.
        """
        deadline = time.monotonic() + _BUSY_S
        while (answer := self._send(method, path, body)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(float(answer.headers.get("retry-after", 1)))
        if answer.is_success:
            return answer.json()
        hint = f" Put the key into ${API_KEY_VARIABLE}." if answer.status_code == 401 else ""
        raise ServiceError(f"the service at {self.url} refused {method} {path}: {_reason(answer)}.{hint}")

    def _send(self, method: str, path: str, body: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, json=body)
        except httpx.TimeoutException as e:
            raise ServiceError(f"the service at {self.url} gave no answer to {path} in {_TIMEOUT_S:.0f} s") from e
        except httpx.HTTPError as e:
            raise ServiceError(
                f"no service at {self.url}: {e}. Start it with `skillmatch serve`, or correct --url"
            ) from e


def _reason(answer: httpx.Response) -> str:
    """What a problem+json response says, or its status."""
    if "json" not in answer.headers.get("content-type", ""):
        return f"status {answer.status_code}"
    problem = answer.json()
    return f"{problem.get('detail', 'no reason given')} (status {answer.status_code})"


def desk(config: Config, url: str | None) -> Desk | Service:
    """Where releases are asked for: in this process, or in the service at `url`."""
    return Desk(config) if url is None else Service(url)
