"""Input images from wherever a client keeps them: fetched under guard, decoded, and handed on as plain RGB pictures."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import logging
from collections.abc import Sequence
from typing import BinaryIO, Protocol
from urllib.parse import unquote_to_bytes

import httpx
from PIL import ExifTags, Image, ImageChops

from sdapi.address_guard import GuardedTransport, guarded_client
from sdapi.domain.errors import ImageRefused, PictureUnavailable
from sdapi.domain.sent_file import SentFile

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {
    "User-Agent": "sdapi (fetches input images)",
    "Accept": "image/png,image/jpeg,image/webp,image/gif,image/bmp,*/*;q=0.1",
    # A compressed body could unfold to a thousand times its size between two counts of its bytes.
    "Accept-Encoding": "identity",
}
# 16 million pixels take up to 200 MB while they are decoded; more than these at once would not be faster, only larger.
_DECODING_AT_ONCE = 2
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_OPAQUE = 255
_WHITE_FROM = 250
"""Brightness of strokes that are called white: lossy formats leave little less."""

# One sentence for every way a fetch can fail: which one it was would tell a stranger what lives in our network.
UNFETCHABLE = "Unable to fetch image from provided URL"

logger = logging.getLogger(__name__)


class StoredPictures(Protocol):
    """As much of Storage as is needed here."""

    async def load(self, name: str) -> bytes:
        """See Storage."""


class RemoteImages:
    """Fetches and decodes input images.

    `max_bytes` bounds the encoded picture, `max_pixels` its width times height, `timeout_s` a whole fetch with its redirects.
    `own_url_prefixes` are further base URLs whose `/images/...` are our own pictures, besides the `public_url` of each call.
    A `transport` that is handed in decides itself about private addresses, and is closed with this.
    """

    def __init__(
        self,
        *,
        storage: StoredPictures,
        max_bytes: int,
        max_pixels: int,
        timeout_s: float,
        allow_private: bool = False,
        own_url_prefixes: Sequence[str] = (),
        transport: GuardedTransport | None = None,
    ) -> None:
        self._storage = storage
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._timeout_s = timeout_s
        self._own_url_prefixes = tuple(own_url_prefixes)
        transport = transport or GuardedTransport(allow_private=allow_private)
        self._client = guarded_client(transport, timeout_s=timeout_s, headers=_HEADERS)
        self._decoding = asyncio.Semaphore(_DECODING_AT_ONCE)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def load(
        self, field: str, source: str | SentFile, *, public_url: str, base64_allowed: bool = True, as_mask: bool = False
    ) -> Image.Image:
        """The picture at `source`: RGB, upright, transparency on white, first frame only, at its own size.

        `as_mask` makes it L instead, white where something is to be drawn anew: see `mask_of`.

        `source` is an http(s) URL, one of our own image URLs (read from storage), a `data:` URL, base64 where `base64_allowed`, or a file.
        Raises ImageRefused with `field` and a sentence for the client.
        """
        data: bytes | str | SentFile = source.strip() if isinstance(source, str) else source
        if isinstance(data, str) and data[:8].lower().startswith(("http://", "https://")):
            data = await self._fetch(field, data, public_url)
        elif isinstance(data, str) and data[:5].lower() != "data:" and (":" in data[:32] or not base64_allowed):
            raise ImageRefused(
                field, f"The {field} must be an http or https URL{', a data: URL or base64' if base64_allowed else ' or a data: URL'}."
            )
        async with self._decoding:
            return await asyncio.to_thread(self._read, field, data, as_mask=as_mask)

    def _read(self, field: str, data: bytes | str | SentFile, *, as_mask: bool) -> Image.Image:
        """The picture in what was fetched, in base64 or a `data:` URL, or in a file. Raises ImageRefused."""
        if isinstance(data, str):
            data = self._inline(field, data)
        size_bytes = data.size_bytes if isinstance(data, SentFile) else len(data)
        if size_bytes > self._max_bytes:
            raise self._too_large(field)
        content = data.content if isinstance(data, SentFile) else data
        return decode_picture(field, content, max_pixels=self._max_pixels, as_mask=as_mask)

    def _inline(self, field: str, source: str) -> bytes:
        # Before anything is copied: 4 characters of base64 are 3 bytes, and a percent-encoded byte is 3 characters.
        if len(source) > 3 * self._max_bytes + 1024:
            raise self._too_large(field)
        try:
            return _decode_inline(source)
        except ValueError as malformed:
            raise ImageRefused(field, f"The {field} is neither an http or https URL nor base64.") from malformed

    async def _fetch(self, field: str, source: str, public_url: str) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(field, httpx.URL(source), (public_url, *self._own_url_prefixes))
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, PictureUnavailable, TimeoutError, UnicodeError) as failure:
            # UnicodeError: httpx takes "http://xn--/" for a URL until it is asked for the host.
            logger.info("input image not fetched", extra={"field": field, "reason": type(failure).__name__})
            raise ImageRefused(field, UNFETCHABLE) from failure

    async def _follow(self, field: str, url: httpx.URL, own_bases: Sequence[str]) -> bytes:
        """The body at `url`, or where it redirects to; every hop is looked at as the first one was."""
        for _ in range(_MAX_REDIRECTS + 1):
            if url.scheme not in ("http", "https") or not url.host or url.userinfo:
                raise httpx.UnsupportedProtocol("not a plain http(s) URL")
            name = _own_name(url, own_bases)
            if name is not None:
                return await self._storage.load(name)
            async with self._client.stream("GET", url) as response:
                if response.status_code not in _REDIRECTS:
                    return await self._body(field, response)
                if "location" not in response.headers:
                    raise httpx.RemoteProtocolError("a redirect to nowhere")
                url = url.join(response.headers["location"])
        raise httpx.TooManyRedirects("too many redirects")

    async def _body(self, field: str, response: httpx.Response) -> bytes:
        if response.status_code != httpx.codes.OK or response.headers.get("content-encoding", "identity").lower() != "identity":
            raise httpx.RemoteProtocolError(f"status {response.status_code}, or a compressed body")
        declared = response.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            raise self._too_large(field)
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large(field)
        return bytes(body)

    def _too_large(self, field: str) -> ImageRefused:
        size = f"{self._max_bytes / 2**20:.3g} MB" if self._max_bytes >= 2**20 else f"{self._max_bytes} bytes"
        return ImageRefused(field, f"The {field} is larger than {size}.")


def _own_name(url: httpx.URL, own_bases: Sequence[str]) -> str | None:
    """The name in storage that `url` leads to when it is one of our own image URLs. http and https count as one: proxies change it."""
    for base in map(httpx.URL, own_bases):
        prefix = f"{base.path.rstrip('/')}/images/"
        if url.host == base.host and url.port == base.port and url.path.startswith(prefix):
            return url.path.removeprefix(prefix)
    return None


def _decode_inline(source: str) -> bytes:
    """The bytes in a data: URL or in plain base64. Raises ValueError."""
    if not source[:5].lower().startswith("data:"):
        return _from_base64(source)
    header, comma, payload = source.partition(",")
    if not comma:
        raise ValueError("a data: URL without data")
    if not header.lower().endswith(";base64"):
        return unquote_to_bytes(payload)
    return _from_base64(unquote_to_bytes(payload).decode("ascii") if "%" in payload else payload)


def _from_base64(text: str) -> bytes:
    # Clients that forget to escape "+" in a form body send a space; the URL-safe alphabet and missing padding are common too.
    # By replacements, ten times as fast as by a regular expression: pictures are megabytes.
    plain = text
    for character, meant in (("\r", ""), ("\n", ""), ("\t", ""), (" ", "+"), ("-", "+"), ("_", "/")):
        plain = plain.replace(character, meant)
    plain = plain.rstrip("=")
    if not plain:
        raise ValueError("no base64 at all")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as malformed:
        raise ValueError("not base64") from malformed


def decode_picture(field: str, data: bytes | BinaryIO, *, max_pixels: int, as_mask: bool = False) -> Image.Image:
    """`data` as RemoteImages.load promises it; for threads, because it takes long.

    A file is read from its beginning, piece by piece, and left open. Looks at the header before any pixel is decoded. Raises ImageRefused.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                raise _too_many_pixels(field, max_pixels)
            picture.load()
            turn = _TURNS.get(_orientation(picture))
            flat = mask_of(picture) if as_mask else _on_white(picture)
            return flat if turn is None else flat.transpose(turn)
    except ImageRefused:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise _too_many_pixels(field, max_pixels) from bomb
    except Exception as unreadable:  # decoders raise anything at all over a hostile file
        raise ImageRefused(field, f"The {field} is not a picture we can read (PNG, JPEG, WebP, GIF, BMP).") from unreadable


def _too_many_pixels(field: str, max_pixels: int) -> ImageRefused:
    amount = f"{max_pixels / 1e6:.3g} million" if max_pixels >= 1_000_000 else str(max_pixels)
    return ImageRefused(field, f"The {field} has more than {amount} pixels.")


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a picture with broken EXIF data is still a picture, and parsing it raises anything
        return 1


def mask_of(picture: Image.Image) -> Image.Image:
    """The picture read as a mask, L: 255 where something is to be drawn anew.

    Without transparency its brightness says so. Where it has some, the transparent part is to be drawn anew, as editors export a hole
    that was erased; but white strokes on nothing, as canvases export them, mean the strokes.
    """
    if not picture.has_transparency_data:
        return _on_white(picture).convert("L")
    layer = picture.convert("RGBA")
    alpha = layer.getchannel("A")
    if alpha.histogram()[_OPAQUE] == alpha.width * alpha.height:
        return _on_white(picture).convert("L")
    visible = layer.convert("L").histogram(mask=alpha)
    return alpha if 0 < sum(visible) == sum(visible[_WHITE_FROM:]) else ImageChops.invert(alpha)


def _on_white(picture: Image.Image) -> Image.Image:
    """A new RGB picture without the old one's EXIF, colour profile and comments, which are nobody else's business."""
    if picture.mode.startswith("I"):  # 16-bit grey: Pillow clips to 255 where it should scale
        picture = picture.convert("I").point([value >> 8 for value in range(2**16)], "L")
    flat = Image.new("RGB", picture.size, "white")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        flat.paste(layer, mask=layer.getchannel("A"))
    else:
        flat.paste(picture if picture.mode == "RGB" else picture.convert("RGB"))
    return flat
