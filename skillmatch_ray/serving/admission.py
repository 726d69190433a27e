"""Back-pressure in front of the service: bounded admission, body size, deadline."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
REFUSAL_PAUSE_S = 0.25
"""Before a refusal: clients that ask again at once, whatever Retry-After says, would take the processor's time from
those who were let in, and the service, slower for it, would refuse even more."""
_PROMISED = 0.7
"""Share of the deadline that a new request may be expected to take."""
_WEIGHT = 0.1
"""Of the latest request in the running mean."""
request_id: ContextVar[str] = ContextVar("request_id", default="-")

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)

_UNLIMITED = ("/healthz", "/readyz")


class TooLargeError(Exception):
    """The body is larger than the limit."""


class Admission:
    """ASGI middleware: bounds on the requests at once, on their bodies, and on the time of each.

    A request that would likely miss its deadline is turned away when it comes, not after it has waited: what
    those before it took, times their number, tells.

    Args:
        app: the application behind it.
        limit: requests at once; more are answered 503 with Retry-After, half as many of them after a short pause.
        max_body: bytes; more are answered 413.
        deadline_s: seconds; later is answered 504 and the work cancelled.
        always: requests at once that are let in, however long the ones before took.
        log: called with one record for each request: ids and timings, never texts.
    """

    def __init__(
        self,
        app: App,
        *,
        limit: int,
        max_body: int,
        deadline_s: float,
        always: int = 1,
        log: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self.app = app
        self.limit = limit
        self.max_body = max_body
        self.deadline_s = deadline_s
        self.always = always
        self.log = log
        self.active = 0
        self._refused = 0
        self._share_s = 0.0  # what one of the requests under way adds to the time of a new one

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        token = request_id.set(_request_id(scope))
        started = time.perf_counter()
        answer = _Answer(send, echo=not _has_header(scope, b"x-request-id"))
        try:
            await self._admit(scope, receive, answer)
        finally:
            self.log(
                {
                    "request_id": request_id.get(),
                    "method": scope["method"],
                    "path": scope["path"],
                    "route": getattr(scope.get("route"), "path", "none"),
                    "status": answer.status,
                    "ms": round(1000 * (time.perf_counter() - started), 2),
                    "active": self.active,
                    **({"problem": answer.title or scope.get("problem", "none")} if answer.status >= 400 else {}),
                }
            )
            request_id.reset(token)

    async def _admit(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        if scope["path"] in _UNLIMITED:
            await self.app(scope, receive, answer)
            return
        expected_s = self._share_s * (self.active + 1)
        late = self.active >= self.always and expected_s > _PROMISED * self.deadline_s
        if self.active >= self.limit or late:
            await self._refuse(answer, max(RETRY_AFTER_S, math.ceil(expected_s / 2)))
            return
        self.active += 1
        # So many end together, at least: the first of a batch waits for all of it.
        among, started = max(self.active, self.always), time.perf_counter()
        try:
            await self._within_limits(scope, receive, answer)
        finally:
            self.active -= 1
            share_s = (time.perf_counter() - started) / among
            self._share_s += _WEIGHT * (share_s - self._share_s)

    async def _refuse(self, answer: _Answer, retry_after_s: int) -> None:
        told = f"{self.active} requests are under way: try again"
        if 2 * self._refused < self.limit:
            self._refused += 1
            try:
                await asyncio.sleep(REFUSAL_PAUSE_S)
            finally:
                self._refused -= 1
        await answer.problem(503, "Busy", told, retry_after_s=retry_after_s)

    async def _within_limits(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await asyncio.wait_for(self.app(scope, self._counted(receive, answer), answer), self.deadline_s)
        except TimeoutError:
            await answer.problem(504, "Too slow", f"no answer within {self.deadline_s:g} s")
        except TooLargeError:
            return  # answered already
        except Exception as e:  # noqa: BLE001
            # The application has answered 500. Where it broke is logged, not the message: it may quote a profile.
            frames = "".join(traceback.format_tb(e.__traceback__))
            logger.error("request %s: %s\n%s", request_id.get(), type(e).__name__, frames)  # noqa: TRY400
            await answer.problem(500, "Internal error", f"{type(e).__name__}: see the log for this request id")

    def _counted(self, receive: Receive, answer: _Answer) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_body:
                # At once: the application behind would make an answer of its own from the error.
                await answer.problem(413, "Too large", f"a body may have {self.max_body} bytes")
                raise TooLargeError
            return message

        return counted


class _Answer:
    """Passes the response on, adds headers, remembers the status."""

    def __init__(self, send: Send, *, echo: bool) -> None:
        self.send = send
        self.echo = echo
        self.started = time.perf_counter()
        self.status = 0
        self.title = ""
        self.closed = False

    async def __call__(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # A proxy that names requests (Serve's does) also puts the name on the response.
            own = [(b"x-request-id", request_id.get().encode())] if self.echo else []
            own.append((b"server-timing", f"app;dur={1000 * (time.perf_counter() - self.started):.2f}".encode()))
            message = {**message, "headers": [*message.get("headers", ()), *own, *SECURITY_HEADERS]}
        await self.send(message)

    async def problem(self, status: int, title: str, detail: str, *, retry_after_s: int | None = None) -> None:
        """Answer with a problem, unless an answer has begun already."""
        if self.status:
            return
        self.title = title
        body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        content = json.dumps({**body, "request_id": request_id.get()}).encode()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(content)).encode())]
        if retry_after_s is not None:
            headers.append((b"retry-after", str(retry_after_s).encode()))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": content})
        self.closed = True


def _has_header(scope: Scope, name: bytes) -> bool:
    return any(key == name for key, _ in scope["headers"])


def _request_id(scope: Scope) -> str:
    """The client's own id where it is a plain one, else a fresh one."""
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    plain = 0 < len(given) <= 64 and given.replace("-", "").replace("_", "").isalnum() and given.isascii()
    return given if plain else uuid.uuid4().hex
