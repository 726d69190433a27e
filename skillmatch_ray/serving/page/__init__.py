"""The page for people at `/`: static files of this package, nothing from elsewhere."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
}


def add_page(api: FastAPI) -> None:
    """Serve the page's files, each under its own fixed path."""
    for path, (name, media_type) in _FILES.items():
        content = resources.files(__package__).joinpath(name).read_bytes()
        _add_file(api, path, Response(content, media_type=media_type, headers={"Content-Security-Policy": POLICY}))


def _add_file(api: FastAPI, path: str, response: Response) -> None:
    @api.get(path, include_in_schema=False)
    async def file() -> Response:
        return response
