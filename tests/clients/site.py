"""The server the clients talk to, as they see it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO

import httpx
from PIL import Image


@dataclass(frozen=True)
class Site:
    """A server process on this machine."""

    url: str
    key: str
    enterprise_key: str
    drawn_id: int
    """Of a request that has succeeded."""
    drawn_url: str
    """Its picture: what clients send where they need one."""

    def picture(self, url: str) -> Image.Image:
        """The picture at an address an answer gave."""
        response = httpx.get(url, timeout=60)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "image/png"
        return Image.open(BytesIO(response.content)).convert("RGB")


def shows_something(picture: Image.Image) -> bool:
    """Whether it is more than one flat colour: all that can be said where the embedded model doesn't know the words of the prompt."""
    return math.hypot(*(high - low for low, high in picture.getextrema())) > 100  # type: ignore[misc]  # RGB: pairs
