"""Ranking systems of somebody else, and one over HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Reverse:
    """The last of the search becomes the first."""

    def __init__(self, factor=1.0) -> None:
        self.factor = factor

    def rank(self, _project, candidates):
        return [self.factor * place for place, _ in enumerate(candidates)]


class Broken:
    def rank(self, _project, _candidates):
        raise RuntimeError("a private detail")


class NotANumber:
    def rank(self, _project, candidates):
        return [float("nan")] * len(candidates)


class Late:
    def rank(self, _project, candidates):
        time.sleep(1)
        return [0.0] * len(candidates)


class NoRanker:
    """Has no rank()."""


@contextlib.contextmanager
def ranking_server(answer):
    """Address of a server whose POST gives `answer(body)`, (status, value); bodies and headers as they came."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append((body, dict(self.headers)))
            status, value = answer(body)
            content = json.dumps(value).encode()
            with contextlib.suppress(BrokenPipeError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/rank", seen
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()
