"""What the browser tests look at: the playground's controls, pictures as the browser has them, and a page of another origin."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

PATIENCE_S = 60


@dataclass(frozen=True)
class Playground:
    """The open playground, used as a person would."""

    browser: Chrome

    def control(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def fill(self, **values: object) -> None:
        """Type into the fields of these names."""
        for name, value in values.items():
            field = self.control(name)
            if field.tag_name == "select":
                Select(field).select_by_value(str(value))
                continue
            field.clear()
            field.send_keys(str(value))

    def press(self, name: str) -> None:
        self.control(name).click()

    def text(self, name: str) -> str:
        return self.control(name).text

    def draw(self, **values: object) -> None:
        """Fill in, press Draw, and wait for the end, whatever it is."""
        self.fill(**values)
        self.press("draw")
        self.until_done()

    def until_done(self) -> None:
        WebDriverWait(self.browser, PATIENCE_S, 0.05).until(lambda _: self.control("draw").is_enabled())

    def until(self, name: str, text: str) -> None:
        """Until this element says so."""
        WebDriverWait(self.browser, PATIENCE_S, 0.02).until(lambda _: text in self.text(name))

    def picture(self) -> Image.Image:
        """The picture that is shown, as the browser decoded it."""
        return picture_of(self.browser, "return document.querySelector('#pictures img').src")

    def shows_a_preview(self) -> bool:
        """Whether an unfinished picture is there, and really is one."""
        return bool(self.browser.execute_script("return (document.querySelector('img.preview')?.naturalWidth ?? 0) > 8"))

    def seeds(self) -> list[str]:
        """Of the pictures in the history, newest first."""
        return [seed.text for seed in self.browser.find_elements(By.CSS_SELECTOR, "#history .seed")]


def picture_of(browser: Chrome, address: str) -> Image.Image:
    """The picture at the address this script returns, read back from a canvas.

    A canvas with a picture of another origin can be read only where that origin allows it: then this raises.
    """
    url = browser.execute_script(address)
    drawn = browser.execute_async_script(
        """
        const [url, done] = arguments;
        const image = new Image();
        image.crossOrigin = "anonymous";
        image.onerror = () => done("not loaded");
        image.onload = () => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          try { done(canvas.toDataURL("image/png")); } catch (error) { done(String(error)); }
        };
        image.src = url;
        """,
        url,
    )
    assert drawn.startswith("data:image/png;base64,"), f"{url}: {drawn}"
    return Image.open(BytesIO(base64.b64decode(drawn.partition(",")[2])))


@dataclass(frozen=True)
class Answer:
    """What a page got from fetch()."""

    status: int
    json: Any
    headers: dict[str, str]
    """Those the page may read, their names in lower case."""


def fetch(browser: Chrome, url: str, *, method: str = "POST", headers: dict[str, str] | None = None, body: object = None) -> Answer:
    """What the page now open gets by calling fetch(). Fails where the browser keeps the answer from it."""
    answer = browser.execute_async_script(
        """
        const [url, method, headers, body, done] = arguments;
        fetch(url, { method, headers, body: body === null ? undefined : JSON.stringify(body) })
          .then(async (answer) => done({ status: answer.status, text: await answer.text(), headers: Object.fromEntries(answer.headers) }))
          .catch((error) => done({ error: String(error) }));
        """,
        url,
        method,
        {"Content-Type": "application/json", **(headers or {})},
        body,
    )
    assert "error" not in answer, f"{url}: {answer}"
    return Answer(answer["status"], browser.execute_script("return JSON.parse(arguments[0])", answer["text"]), answer["headers"])


@dataclass(frozen=True)
class Other:
    """A site that is not ours."""

    url: str


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = b"<!doctype html><title>elsewhere</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def other_origin() -> Iterator[Other]:
    """An empty page on a port of its own, which makes it another origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield Other(f"http://127.0.0.1:{server.server_address[1]}/")
        finally:
            server.shutdown()
            thread.join()
