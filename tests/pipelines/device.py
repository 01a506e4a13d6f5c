"""A device as the server opens it, over a models folder of the test's: everything is found, loaded and forgotten as in earnest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from recipe.drawing import draw
from recipe.scenes import Scene

from sdapi.catalog import Assets, Catalog, embedded_assets_dir, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Txt2Img
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.memory.host_tier import HostTier
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.tickets import Result, Ticket

Drawing = Txt2Img | Img2Img | Inpaint | ControlNet


@dataclass
class Wish:
    """One request for the device, and what came of it."""

    request: Drawing
    must_fail: bool = False
    cancelled_at_step: int | None = None
    """0: before it begins."""
    result: Result | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class Device:
    """Draws on a thread of its own. Input pictures are a green square, masks its left half."""

    def __init__(self, loop: DrawingLoop, *, at_once: int) -> None:
        self.loop = loop
        self._at_once = at_once
        self._picture = draw(Scene(shape="square", colour="green", background="white"), 128, 128)
        self._jobs = 0

    def draw(self, *wishes: Wish) -> None:
        """All of them, `at_once` in flight at a time; returns when the last has ended."""
        room = threading.Semaphore(self._at_once)
        ended = threading.Semaphore(0)
        for wish in wishes:
            room.acquire()
            self._submit(wish, (room, ended))
        for _ in wishes:
            ended.acquire()

    def _submit(self, wish: Wish, on_end: tuple[threading.Semaphore, ...]) -> None:
        request, size = wish.request, (wish.request.width, wish.request.height)
        picture = self._picture.resize(size)
        mask = Image.new("L", size)
        mask.paste(255, (0, 0, size[0] // 2, size[1]))
        steps = iter(range(1, 10_000))

        def report(_: object) -> None:
            if next(steps) == wish.cancelled_at_step:
                wish.cancelled.set()

        def done(result: Result) -> None:
            wish.result = result
            for semaphore in on_end:
                semaphore.release()

        if wish.cancelled_at_step == 0:
            wish.cancelled.set()
        self._jobs += 1
        self.loop.submit(
            Ticket(
                job_id=self._jobs,
                request=request,
                init_image=picture if isinstance(request, Img2Img | Inpaint) else None,
                cancelled=wish.cancelled,
                report=report,
                done=done,
                mask_image=mask if isinstance(request, Inpaint) else None,
                control_image=picture if isinstance(request, ControlNet) else None,
            )
        )


@contextmanager
def open_device(models_dir: Path, *, cache_bytes: int, at_once: int = 1, host: HostTier | None = None) -> Iterator[Device]:
    """The device with the embedded model and what is in `models_dir`, drawing until it is left; models that leave it wait in `host`."""
    folder = embedded_model_dir()
    assert folder is not None
    options = DeviceOptions("cpu", "float32", threads=1, max_batch_rows=8, model_cache_bytes=cache_bytes)
    loop = open_loop(Catalog(models_dir, aliases={}, embedded=folder), Assets(models_dir, embedded=embedded_assets_dir()), options, host)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield Device(loop, at_once=at_once)
    finally:
        loop.stop()
        thread.join()
