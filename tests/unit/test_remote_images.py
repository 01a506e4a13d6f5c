# ruff: noqa: ASYNC109 - the signature is httpcore's
from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from urllib.parse import quote

import httpcore
import pytest
from PIL import Image

from sdapi.address_guard import GuardedTransport, SocketOption
from sdapi.domain.errors import ImageRefused
from sdapi.remote_images import UNFETCHABLE, RemoteImages, decode_picture
from sdapi.storage import LocalStorage

OURS = "https://pictures.example:8443"
PUBLIC = "93.184.216.34"
MAX_BYTES = 300_000
MAX_PIXELS = 1_000_000
UNREADABLE = "The init_image is not a picture we can read (PNG, JPEG, WebP, GIF, BMP)."
TOO_MANY_PIXELS = "The init_image has more than 1 million pixels."
TOO_LARGE = f"The init_image is larger than {MAX_BYTES} bytes."
RED = (255, 0, 0)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def red_picture(form: str = "PNG") -> bytes:
    return encoded(Image.new("RGB", (16, 8), RED), form)


def noise(width: int, height: int) -> Image.Image:
    return Image.effect_noise((width, height), 90).convert("RGB")


def png_that_claims(width: int, height: int) -> bytes:
    """Some hundred bytes that say they are a picture of any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


class PictureServer:
    """A real HTTP server on 127.0.0.1 with a few good pages and many bad ones; counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.base = ""
        self.stopping = asyncio.Event()

    def pages(self) -> dict[str, bytes]:
        def page(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
            return f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body

        def redirect(target: str, status: str = "302 Found") -> bytes:
            return page(b"", status, f"Location: {target}\r\n")

        png = red_picture()
        return {
            "/red.png": page(png),
            "/html": page(b"<html>not found</html>", headers="Content-Type: image/png\r\n"),
            "/404.png": page(png, "404 Not Found"),
            "/gzip.png": page(zlib.compress(png), headers="Content-Encoding: gzip\r\n"),
            "/short.png": png_short(page(png)),
            "/large.png": page(encoded(noise(400, 400), "BMP")),
            "/relative": redirect("/red.png", "308 Permanent Redirect"),
            "/absolute": redirect(f"{self.base}/relative"),
            "/hop1": redirect("/hop2"),
            "/hop2": redirect("/hop3"),
            "/hop3": redirect("/hop4"),
            "/hop4": redirect("/hop5"),
            "/hop5": redirect("/red.png"),
            "/hop0": redirect("/hop1"),
            "/circle": redirect("/circle"),
            "/nowhere": page(b"", "302 Found"),
            "/to-file": redirect("file:///etc/passwd"),
            "/to-ftp": redirect("ftp://127.0.0.1/red.png"),
            "/to-userinfo": redirect(self.base.replace("//", "//me:secret@") + "/red.png"),
            "/to-nonsense": redirect("http://[::1"),
            "/to-loopback": redirect(f"{self.base}/red.png"),
            "/to-rebound": redirect("http://rebound.example/red.png"),
            "/to-ours": redirect(f"{OURS}/images/sd/0-red.png"),
            "/garbage": b"these are not the headers you are looking for\r\n\r\n",
        }

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            target = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
            if target == "/silent":
                await self.stopping.wait()
            elif target == "/endless":
                await self._endless(writer)
            else:
                writer.write(self.pages()[target])
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not self.stopping.is_set():
            writer.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")
            await writer.drain()


def png_short(page: bytes) -> bytes:
    """A connection that breaks in the middle of the body."""
    return page[:-20]


@pytest.fixture
async def server() -> AsyncIterator[PictureServer]:
    server = PictureServer()
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        server.base = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server
        server.stopping.set()


@pytest.fixture
async def storage(tmp_path: Path) -> LocalStorage:
    storage = LocalStorage(tmp_path)
    await storage.save("sd/0-red.png", red_picture())
    return storage


def loader(storage: LocalStorage, **changes: object) -> RemoteImages:
    defaults: dict[str, object] = {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS, "timeout_s": 5.0, "allow_private": True}
    return RemoteImages(storage=storage, **(defaults | changes))  # type: ignore[arg-type]


@pytest.fixture
async def images(storage: LocalStorage) -> AsyncIterator[RemoteImages]:
    """Fetches from anywhere, this machine included."""
    images = loader(storage)
    yield images
    await images.aclose()


@pytest.fixture
async def guarded(storage: LocalStorage) -> AsyncIterator[RemoteImages]:
    """Fetches from the public internet only."""
    images = loader(storage, allow_private=False)
    yield images
    await images.aclose()


async def refusal(images: RemoteImages, source: str, *, base64_allowed: bool = True) -> str:
    with pytest.raises(ImageRefused) as caught:
        await images.load("init_image", source, public_url=OURS, base64_allowed=base64_allowed)
    [sentence] = caught.value.problems["init_image"]
    return sentence


def refused_bytes(data: bytes) -> str:
    with pytest.raises(ImageRefused) as caught:
        decode_picture("init_image", data, max_pixels=MAX_PIXELS)
    return caught.value.problems["init_image"][0]


def decoded(data: bytes) -> Image.Image:
    return decode_picture("init_image", data, max_pixels=MAX_PIXELS)


def assert_red(image: Image.Image) -> None:
    assert (image.mode, image.size, image.getpixel((3, 3))) == ("RGB", (16, 8), RED)


@pytest.mark.parametrize("path", ["/red.png", "/relative", "/absolute", "/hop1", "/to-ours"])
async def test_a_picture_is_fetched_through_up_to_five_redirects(images: RemoteImages, server: PictureServer, path: str) -> None:
    assert_red(await images.load("init_image", f"  {server.base}{path}\n", public_url=OURS))


@pytest.mark.parametrize(
    "path",
    [
        "/404.png",
        "/gzip.png",
        "/short.png",
        "/hop0",
        "/circle",
        "/nowhere",
        "/to-file",
        "/to-ftp",
        "/to-userinfo",
        "/to-nonsense",
        "/garbage",
    ],
)
async def test_whatever_goes_wrong_on_the_way_is_one_sentence(images: RemoteImages, server: PictureServer, path: str) -> None:
    assert await refusal(images, server.base + path) == UNFETCHABLE


async def test_a_server_that_says_nothing_is_given_up_in_time(storage: LocalStorage, server: PictureServer) -> None:
    images = loader(storage, timeout_s=0.2)
    assert await refusal(images, f"{server.base}/silent") == UNFETCHABLE
    await images.aclose()


@pytest.mark.parametrize("path", ["/endless", "/large.png"])
async def test_a_body_larger_than_allowed_is_not_read_to_its_end(images: RemoteImages, server: PictureServer, path: str) -> None:
    assert await refusal(images, server.base + path) == TOO_LARGE


async def test_a_page_that_is_no_picture_is_said_to_be_none(images: RemoteImages, server: PictureServer) -> None:
    assert await refusal(images, f"{server.base}/html") == UNREADABLE


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///red.png",
        "http://:80/",
        "http://[::1",
        "http://[zz]/",
        "http://host:99999/",
        "http://127.0.0.1:99999/",
        "http://host:port/",
        "http://a b/",
        "http://\x00/",
        "http://ex\ud800ample/",
        "http://xn--/",
        "http://./",
        "http://..example/",
        f"http://{'a' * 70}.example/",
        "http://%31%32%37.0.0.1/",
        "http://127.0.0.1:1/",
        "HTTP://127.0.0.1:1/",
        "http://127.0.0.1:0/",
        "https://127.0.0.1:1/",
    ],
)
async def test_a_url_that_leads_nowhere_is_refused_and_breaks_nothing(images: RemoteImages, url: str) -> None:
    assert await refusal(images, url) == UNFETCHABLE


@pytest.mark.parametrize("name", ["me@", "me:secret@", ":@", "127.0.0.1@"])
async def test_a_url_with_a_user_name_is_refused(images: RemoteImages, server: PictureServer, name: str) -> None:
    await refusal(images, server.base.replace("//", f"//{name}") + "/red.png")
    assert server.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.0x0.0x0.0x1",
        "0177.0.0.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "①②⑦.⓪.⓪.①",
    ],
)
async def test_no_spelling_of_this_machine_is_fetched_from(guarded: RemoteImages, server: PictureServer, host: str) -> None:
    assert await refusal(guarded, server.base.replace("127.0.0.1", host) + "/red.png") == UNFETCHABLE
    assert server.connections == 0


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]", "224.0.0.1"]
)
async def test_the_networks_around_us_are_not_asked(guarded: RemoteImages, host: str) -> None:
    async with asyncio.timeout(1):
        assert await refusal(guarded, f"http://{host}/latest/meta-data") == UNFETCHABLE


class Detour(httpcore.AnyIOBackend):
    """Plays the internet: a public address leads to the test's server. Other addresses are reached as they are."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if host == PUBLIC:
            host, port = "127.0.0.1", self._port
        return await super().connect_tcp(host, port, timeout, local_address, socket_options)


async def names(host: str, port: int) -> list[str]:
    return [{"public.example": PUBLIC, "rebound.example": "127.0.0.1"}.get(host, host)]


@pytest.mark.parametrize(("path", "connections"), [("/red.png", 1), ("/to-loopback", 1), ("/to-rebound", 1)])
async def test_a_public_page_cannot_redirect_to_this_machine(
    storage: LocalStorage, server: PictureServer, path: str, connections: int
) -> None:
    port = int(server.base.rpartition(":")[2])
    images = loader(storage, transport=GuardedTransport(allow_private=False, resolve=names, connector=Detour(port)))

    if path == "/red.png":
        assert_red(await images.load("init_image", f"http://public.example{path}", public_url=OURS))
    else:
        assert await refusal(images, f"http://public.example{path}") == UNFETCHABLE
    assert server.connections == connections
    await images.aclose()


@pytest.mark.parametrize(
    "url", [f"{OURS}/images/sd/0-red.png", f"{OURS}/images/sd/0-red.png?size=1#top", "HTTP://Pictures.Example:8443/images/sd/0-red.png"]
)
async def test_our_own_picture_is_read_from_storage_without_any_connection(guarded: RemoteImages, url: str) -> None:
    assert_red(await guarded.load("init_image", url, public_url=f"{OURS}/"))


async def test_our_own_picture_is_known_by_every_base_url_we_have(storage: LocalStorage) -> None:
    images = loader(storage, allow_private=False, own_url_prefixes=("https://cdn.example/base/",))
    assert_red(await images.load("init_image", "https://cdn.example/base/images/sd/0-red.png", public_url=OURS))
    await images.aclose()


@pytest.mark.parametrize("path", ["sd/none.png", "../secret", "%2e%2e/secret", "sd/../../secret", "", "/etc/passwd"])
async def test_our_own_url_reaches_nothing_but_pictures(guarded: RemoteImages, path: str) -> None:
    assert await refusal(guarded, f"{OURS}/images/{path}") == UNFETCHABLE


@pytest.mark.parametrize(
    "write",
    [
        lambda text: text,
        lambda text: "data:image/png;base64," + text,
        lambda text: "DATA:image/png;charset=x;BASE64," + text,
        lambda text: "data:image/png;base64," + quote(text, safe=""),
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: text.replace("+", " "),
        lambda text: "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76)),
    ],
)
async def test_base64_is_read_in_every_spelling_clients_use(images: RemoteImages, write: Callable[[str], str]) -> None:
    picture = noise(16, 8)
    text = base64.b64encode(encoded(picture)).decode()
    assert {"+", "/"} <= set(text)
    assert (await images.load("init_image", write(text), public_url=OURS)).tobytes() == picture.tobytes()


async def test_a_data_url_may_be_percent_encoded(images: RemoteImages) -> None:
    assert_red(await images.load("init_image", "data:image/png," + quote(red_picture()), public_url=OURS))


@pytest.mark.parametrize(
    "source", ["no base64!", "", "   ", "data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,%ff", "abcde", "ä" * 8]
)
async def test_text_that_is_no_base64_is_said_to_be_none(images: RemoteImages, source: str) -> None:
    assert await refusal(images, source) == "The init_image is neither an http or https URL nor base64."


async def test_base64_of_something_else_is_no_picture(images: RemoteImages) -> None:
    assert await refusal(images, base64.b64encode(b"some text, long enough").decode()) == UNREADABLE


async def test_plain_base64_is_refused_where_it_was_not_announced_but_data_urls_are_read(images: RemoteImages) -> None:
    text = base64.b64encode(red_picture()).decode()
    assert await refusal(images, text, base64_allowed=False) == "The init_image must be an http or https URL or a data: URL."
    assert_red(await images.load("init_image", f"data:image/png;base64,{text}", public_url=OURS, base64_allowed=False))


@pytest.mark.parametrize("source", ["file:///etc/passwd", "ftp://host/a.png", "gopher://host/", "javascript:alert(1)", "C:\\a.png"])
async def test_other_kinds_of_url_are_refused(images: RemoteImages, source: str) -> None:
    assert await refusal(images, source) == "The init_image must be an http or https URL, a data: URL or base64."


@pytest.mark.parametrize("size", [MAX_BYTES + 1, MAX_BYTES * 10])
async def test_inline_data_has_the_same_limit(images: RemoteImages, size: int) -> None:
    assert await refusal(images, base64.b64encode(bytes(size)).decode()) == TOO_LARGE


async def test_limits_are_told_in_megabytes(storage: LocalStorage) -> None:
    images = loader(storage, max_bytes=12 * 2**20)
    assert await refusal(images, "A" * (40 * 2**20)) == "The init_image is larger than 12 MB."
    await images.aclose()


@pytest.mark.parametrize("form", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_every_allowed_format_is_read(form: str) -> None:
    image = decoded(red_picture(form))
    assert (image.mode, image.size) == ("RGB", (16, 8))
    pixel = image.getpixel((3, 3))
    assert isinstance(pixel, tuple)
    assert max(abs(seen - wanted) for seen, wanted in zip(pixel, RED, strict=True)) <= 3


@pytest.mark.parametrize("form", ["TIFF", "PPM", "ICO", "TGA", "PCX", "EPS"])
def test_formats_outside_the_list_are_refused(form: str) -> None:
    assert refused_bytes(red_picture(form)) == UNREADABLE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>',
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"BM",
        bytes(1000),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes) -> None:
    assert refused_bytes(data) == UNREADABLE


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.9, 0.5, 0.1])
def test_a_truncated_picture_is_refused(form: str, kept: float) -> None:
    data = encoded(noise(64, 64), form)
    assert refused_bytes(data[: int(len(data) * kept)]) == UNREADABLE


@pytest.mark.parametrize("side", [1001, 12_000, 50_000, 2**31 - 1])
def test_a_picture_with_too_many_pixels_is_refused_by_its_header(side: int) -> None:
    assert refused_bytes(png_that_claims(side, side)) == TOO_MANY_PIXELS


def test_a_picture_of_just_as_many_pixels_as_allowed_is_read() -> None:
    assert decoded(encoded(Image.new("RGB", (1000, 1000)))).size == (1000, 1000)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (16, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    lossless = {"lossless": True} if form == "WEBP" else {}
    assert_red(decoded(encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **lossless)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (16, 8), (255, 0, 0, 0))
    if mode == "P":
        palette = Image.new("P", (16, 8), 0)
        palette.putpalette([255, 0, 0])
        data = encoded(palette, transparency=0)
    else:
        data = encoded(clear.convert(mode), "PNG") if mode != "PA" else encoded(clear.quantize(4))
    assert decoded(data).getpixel((3, 3)) == (255, 255, 255)


def as_mask(mask: Image.Image) -> list[int]:
    """The levels of a one-row mask."""
    read = decode_picture("mask_image", encoded(mask), max_pixels=MAX_PIXELS, as_mask=True)
    assert read.mode == "L"
    return list(read.tobytes())


def one_row(mode: str, *colours: object) -> Image.Image:
    picture = Image.new(mode, (len(colours), 1))
    for x, colour in enumerate(colours):
        picture.putpixel((x, 0), colour)  # type: ignore[arg-type]
    return picture


def test_a_mask_without_transparency_is_read_by_its_brightness() -> None:
    assert as_mask(one_row("L", 0, 100, 255)) == [0, 100, 255]
    assert as_mask(one_row("1", 0, 1)) == [0, 255]
    assert as_mask(one_row("RGB", (0, 0, 0), (255, 255, 255))) == [0, 255]
    assert as_mask(one_row("RGBA", (0, 0, 0, 255), (255, 255, 255, 255))) == [0, 255]


def test_a_hole_erased_from_a_picture_is_the_masked_part() -> None:
    assert as_mask(one_row("RGBA", (9, 9, 9, 255), (255, 255, 255, 255), (80, 90, 100, 127), (0, 0, 0, 0))) == [0, 0, 128, 255]
    assert as_mask(one_row("LA", (0, 255), (0, 0))) == [0, 255]
    assert as_mask(one_row("RGBA", (0, 0, 0, 0), (0, 0, 0, 0))) == [255, 255]


def test_white_strokes_on_nothing_are_the_masked_part() -> None:
    assert as_mask(one_row("RGBA", (0, 0, 0, 0), (255, 255, 255, 255), (255, 255, 255, 99))) == [0, 255, 99]


def test_half_transparent_red_becomes_pink() -> None:
    assert decoded(encoded(Image.new("RGBA", (16, 8), (255, 0, 0, 128)))).getpixel((3, 3)) == (255, 127, 127)


@pytest.mark.parametrize(("mode", "colour", "expected"), [("L", 100, 100), ("1", 1, 255), ("I;16", 100 * 256, 100), ("I;16", 65535, 255)])
def test_grey_pictures_keep_their_brightness(mode: str, colour: int, expected: int) -> None:
    assert decoded(encoded(Image.new(mode, (8, 8), colour))).getpixel((3, 3)) == (expected,) * 3


def test_a_print_picture_becomes_rgb() -> None:
    assert decoded(encoded(Image.new("CMYK", (16, 8), (0, 255, 255, 0)), "JPEG")).mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_photo_is_turned_upright(form: str, orientation: int) -> None:
    upright = Image.new("RGB", (24, 16), "white")
    upright.paste(RED, (0, 0, 12, 8))  # top left
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if form == "WEBP" else {}

    image = decoded(encoded(stored, form, exif=exif, **lossless))

    assert image.size == upright.size
    assert image.tobytes() == upright.tobytes()


def test_broken_exif_data_does_not_lose_the_photo() -> None:
    assert decoded(encoded(Image.new("RGB", (16, 8), RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffbroken")).size == (16, 8)


def test_nothing_but_pixels_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    assert decoded(encoded(Image.new("RGB", (16, 8), RED), "JPEG", exif=exif, comment=b"secret")).info == {}


async def test_many_pictures_can_be_loaded_at_once(images: RemoteImages, server: PictureServer) -> None:
    loads = [images.load("init_image", f"{server.base}/red.png", public_url=OURS) for _ in range(40)]
    for image in await asyncio.gather(*loads):
        assert_red(image)
