"""Drives a real drawing loop with the embedded model from a test, without threads: what is drawn together is up to the test."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.catalog.safety import SafetyCheckers
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.progress import Progress
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import UnetComponents, load_checkpoint
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.safety.safety_stage import SafetyStage
from sdapi.pipelines.scheduling.decoding import DecodingStage
from sdapi.pipelines.scheduling.flights import Ending
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket
from sdapi.pipelines.upscalers.kinds import Upscaler


def models_with_a_copy(models_dir: Path) -> Path:
    """The same folder, now holding a copy of the embedded model, so that there are two."""
    folder = embedded_model_dir()
    assert folder is not None
    shutil.copytree(folder, models_dir / "checkpoints" / "copy", ignore=shutil.ignore_patterns("recipe", "assets", "*.md", "*.png"))
    return models_dir


@cache
def demo_parts() -> UnetComponents:
    """The embedded model's networks in float32 on the CPU, loaded once for all tests; nobody changes them."""
    folder = embedded_model_dir()
    assert folder is not None
    catalog = Catalog(folder.parent, aliases={}, embedded=folder)
    return load_checkpoint(catalog.get("demo"), device=torch.device("cpu"), dtype=torch.float32)


def a_request(**changes: object) -> Txt2Img:
    """A small valid request; say only what the test is about."""
    values = {"checkpoint": "demo", "prompt": "a red circle on a blue background", "width": 64, "height": 64, "seed": 7, "steps": 4}
    return Txt2Img.model_validate({**values, **changes})


def an_img2img_request(**changes: object) -> Img2Img:
    """A small valid img2img request; the picture itself goes beside it."""
    return Img2Img.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "inputs/x.png", "strength": 0.6, **changes})


def an_inpaint_request(**changes: object) -> Inpaint:
    """A small valid inpainting request; the pictures themselves go beside it."""
    pictures = {"init_image": "inputs/x.png", "mask_image": "inputs/y.png"}
    return Inpaint.model_validate({**a_request().model_dump(exclude={"kind"}), **pictures, "strength": 1.0, **changes})


@dataclass
class Asked:
    """One job handed to the loop, and what came of it."""

    ticket: Ticket
    progress: list[Progress] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    on_progress: threading.Event = field(default_factory=threading.Event)

    @property
    def image(self) -> Image.Image:
        (result,) = self.results
        assert isinstance(result, Pictures), result
        return result.images[0]


class Studio:
    """A drawing loop on its own thread, with models by id."""

    def __init__(
        self,
        models: dict[str, Model] | None = None,
        *,
        control_nets: dict[str, ControlNetwork] | None = None,
        max_batch_rows: int = 16,
        upscalers: Mapping[str, Upscaler] | None = None,
        safety: SafetyCheckers | None = None,
        pacing: Pacing | None = None,
        decoding_beside: Callable[[Callable[[], None]], DecodingStage[Ending]] | None = None,
    ) -> None:
        self.models = models or {"demo": UnetModel("demo", demo_parts())}
        memory = Memory(2**40)
        residency: Residency[Model] = Residency(self.models.__getitem__, memory)
        nets: Residency[ControlNetwork] = Residency((control_nets or {}).__getitem__, memory)
        enlargers: Residency[Upscaler] = Residency((upscalers or {}).__getitem__, memory)
        self.loop = DrawingLoop(
            residency,
            upscalers=enlargers,
            max_batch_pixels=2**22,
            max_batch_rows=max_batch_rows,
            control_nets=nets,
            safety=SafetyStage(safety, memory, device=torch.device("cpu")),
            pacing=pacing,
            decoding_beside=decoding_beside,
        )
        self.asked: list[Asked] = []
        self.order: list[str] = []

    def ask(
        self,
        request: Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video | Upscale,
        init_image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        control_image: Image.Image | None = None,
        **hooks: object,
    ) -> Asked:
        """Queue a request; it is drawn by `draw`."""
        cancelled = threading.Event()
        number = len(self.asked)

        def report(progress: Progress) -> None:
            self.order.append(f"step {number}")
            asked.progress.append(progress)
            if callable(hook := hooks.get("on_step")):
                hook(progress)

        def done(result: Result) -> None:
            self.order.append(f"done {number}")
            asked.results.append(result)
            if all(a.results for a in self.asked):
                self.loop.stop()

        asked = Asked(Ticket(number, request, init_image, cancelled, report, done, mask_image, control_image))
        self.asked.append(asked)
        self.loop.submit(asked.ticket)
        return asked

    def draw(self) -> None:
        """Run the loop on this thread until everything asked has ended."""
        self.loop.run()


def draw_alone(
    request: Txt2Img | Img2Img | Inpaint, init_image: Image.Image | None = None, mask_image: Image.Image | None = None
) -> Image.Image:
    """The picture of a request that has the loop to itself."""
    studio = Studio()
    asked = studio.ask(request, init_image, mask_image)
    studio.draw()
    return asked.image


def greatest_difference(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of any channel of any pixel, 0..255."""
    import numpy as np

    assert one.size == other.size
    return int(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max())
