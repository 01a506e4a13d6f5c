"""GET /playground: the page to draw from in a browser; the page itself uses the API as any client does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

_FOLDER: Final = Path(__file__).resolve().parents[1] / "playground"
_MEDIA_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob: data: http: https:",  # pictures may live in a bucket
        "base-uri 'self'",
        "form-action 'none'",  # the key must not end up in an address, even where the script is blocked
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked about each time: an updated server is seen at once
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def answer(self, request: Request) -> Response:
        headers = _HEADERS | {"ETag": self.etag}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def router() -> APIRouter:
    """The page needs no key; what it asks for does. Its files are read once, here."""
    routes = APIRouter(tags=["Playground"], include_in_schema=False)
    files = {path.name: _read(path) for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}
    page = files["index.html"]
    # Links in the page are relative to its folder, so that it works behind a proxy that adds a prefix, too.
    slashless = _File(page.content.replace(b'<base href="./">', b'<base href="playground/">'), page.media_type)

    @routes.get("/playground")
    @routes.head("/playground")
    async def playground(request: Request) -> Response:
        return slashless.answer(request)

    @routes.get("/playground/")
    @routes.head("/playground/")
    async def playground_folder(request: Request) -> Response:
        return page.answer(request)

    @routes.get("/playground/{name}")
    @routes.head("/playground/{name}")
    async def playground_file(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)

    return routes


def _read(path: Path) -> _File:
    return _File(path.read_bytes(), _MEDIA_TYPES[path.suffix])
