"""PNG files made quickly: one filter for all rows and Intel's ISA-L to deflate them, a tenth of the time that Pillow takes.

Measured with one thread at 1024 x 1024: 7 ms against 53 (a drawing) and 85 ms (a photo) of Pillow's level 1; files as large or a little
smaller. (fpng: 4 ms and files a tenth larger, but its packages are early ones, without types; OpenCV 40 ms, zlib-ng 10 to 25 ms.)
Where ISA-L is missing, and what is no plain picture of eight bits, Pillow writes: the same pixels, the same text.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Final

from PIL import Image, PngImagePlugin

try:
    from isal import isal_zlib
except ImportError:  # not built for every kind of machine
    isal_zlib = None  # type: ignore[assignment]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES: Final = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}
_BITS: Final = 8
_AVERAGE: Final = 3
"""The filter for drawings and photos alike: smaller files than with Sub or Up; with Paeth they would be 6 % smaller for drawings only, and
take four times as long."""
_LEVEL: Final = 1
_BAND_BYTES: Final = 2**17
"""Filtered at once: what stays in the processor's cache. It also bounds the memory for very large pictures."""
_PILLOW_LEVEL: Final = 1
"""A fifth of level 6's time; files come out between a seventh smaller and a fifth larger."""

logger = logging.getLogger(__name__)


def encode_png(image: Image.Image, parameters: str | None = None) -> bytes:
    """PNG of `image`, carrying `parameters` as the text chunk "parameters" (tEXt, or iTXt beyond Latin-1); None writes no text.

    The pixels come back exactly; of what else Pillow knows about the picture, colour profiles for instance, nothing is written.
    """
    texts = PngImagePlugin.PngInfo()
    if parameters is not None:
        texts.add_text("parameters", storable(parameters))
    if isal_zlib is not None and image.mode in _COLOUR_TYPES and "transparency" not in image.info:
        try:
            return _encoded(image, texts)
        except isal_zlib.error:  # type: ignore[misc]  # declared as an instance
            logger.exception("a picture is written by Pillow, which takes longer")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_PILLOW_LEVEL, pnginfo=texts, icc_profile=None)
    return buffer.getvalue()


def storable(text: str) -> str:
    """Without what a PNG text chunk can't hold: NUL ends it, and a lone surrogate (JSON allows "\\ud800") has no encoding."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def _encoded(image: Image.Image, texts: PngImagePlugin.PngInfo) -> bytes:
    header = struct.pack(">IIBBBBB", image.width, image.height, _BITS, _COLOUR_TYPES[image.mode], 0, 0, 0)
    deflate = isal_zlib.compressobj(_LEVEL)
    deflated = [deflate.compress(band) for band in _filtered(image)]
    return b"".join(
        (
            _SIGNATURE,
            *_chunk(b"IHDR", header),
            *(part for kind, data, *_ in texts.chunks for part in _chunk(kind, data)),
            *_chunk(b"IDAT", *deflated, deflate.flush()),
            *_chunk(b"IEND"),
        )
    )


def _chunk(kind: bytes, *data: bytes) -> Iterator[bytes]:
    """Length, kind, data and checksum."""
    yield struct.pack(">I", sum(map(len, data)))
    yield kind
    yield from data
    checksum = zlib.crc32(kind)
    for part in data:
        checksum = zlib.crc32(part, checksum)
    yield struct.pack(">I", checksum)


def _filtered(image: Image.Image) -> Iterator[memoryview]:
    """The bytes to deflate, some rows at a time: each row led by its filter, and less the mean of what is left of it and above it."""
    import numpy as np  # a server starts without it

    channels = len(image.getbands())
    width_bytes = image.width * channels
    rows = np.asarray(image, dtype=np.uint8).reshape(image.height, width_bytes)
    above = np.zeros((1, width_bytes), np.uint8)
    step = max(1, _BAND_BYTES // width_bytes)
    for top in range(0, image.height, step):
        band = rows[top : top + step]
        upper = np.concatenate((above, band[:-1]))
        left = np.zeros_like(band)
        left[:, channels:] = band[:, :-channels]
        filtered = np.empty((len(band), 1 + width_bytes), np.uint8)
        filtered[:, 0] = _AVERAGE
        # Half the sum, rounded down, of bytes whose sum has nine bits.
        np.subtract(band, (left & upper) + ((left ^ upper) >> 1), out=filtered[:, 1:])
        yield filtered.data.cast("B")
        above = band[-1:]
