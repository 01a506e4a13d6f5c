"""The file formats that pictures can be had in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

PictureFormat = Literal["png", "jpeg", "webp"]

DEFAULT_FORMAT: Final[PictureFormat] = "png"
"""What the hosted services sent."""
DEFAULT_QUALITY: Final = 90
"""Of 1 to 100; means something to JPEG and WebP."""

FORMATS: Final[Mapping[str, PictureFormat]] = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "webp": "webp"}
"""By the words a client may use, in lower case."""
SUFFIXES: Final[Mapping[PictureFormat, str]] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""What files' names end in."""
LONGEST_SIDES_PX: Final[Mapping[PictureFormat, int]] = {"jpeg": 65_500, "webp": 16_383}
"""What can be written: WebP itself has no more room, and libjpeg stops a little before JPEG does. PNG has more room than anybody needs."""
