"""The drawing loop against diffusers' own pipeline, in this process: same weights, prompts, seeds and threads."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from sdapi.catalog import EMBEDDED_ID, Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.memory.passing_thread import PassingThread
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket

from .server import BenchmarkFailed

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """What both took for the same pictures."""

    seconds: list[tuple[float, float]]
    """Per round: the stock pipeline one by one, the loop together."""
    greatest_difference: int
    """Of any channel of any pixel, 0..255."""


def compare(*, side_px: int, steps: int, pictures: int, rounds: int) -> Comparison:
    """Draw `pictures` pictures both ways, `rounds` times, with the embedded model in float32. Raises BenchmarkFailed."""
    folder = embedded_model_dir()
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    requests = [_request(side_px, steps, seed) for seed in range(pictures)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stock = apart(lambda: stock_pipeline(folder, device))
    warm_up = requests[0].model_copy(update={"steps": 2})
    apart(lambda: draw_stock(stock, warm_up))
    seconds: list[tuple[float, float]] = []
    for _ in range(rounds):
        expected, stock_s = apart(lambda: timed(lambda: [draw_stock(stock, request) for request in requests]))
        with running_loop(folder, device, pictures) as loop:
            # Loads the model and lets torch choose its kernels.
            _draw_together(loop, [warm_up] * pictures)
            drawn, loop_s = timed(partial(_draw_together, loop, requests))
        seconds.append((stock_s, loop_s))
    return Comparison(seconds, max(_difference(one, other) for one, other in zip(expected, drawn, strict=True)))


def apart(work: Callable[[], T]) -> T:
    """What it returns, from a thread that ends with it: torch's threads of a thread that lives on would slow those of another."""
    thread = PassingThread("sdapi-apart")
    try:
        return thread.submit(work).result()
    finally:
        thread.shutdown()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it returns, and how many seconds that took."""
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def _request(side_px: int, steps: int, seed: int) -> Txt2Img:
    prompt = "a red circle on a blue background"
    return Txt2Img(checkpoint=EMBEDDED_ID, prompt=prompt, width=side_px, height=side_px, seed=seed, steps=steps)


def stock_pipeline(folder: Path, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """diffusers' own pipeline with the model in that folder, as its `model_index.json` names it."""
    # Their bars and remarks would end up between the tables.
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def draw_stock(pipeline: Any, request: Txt2Img) -> Image.Image:
    """What diffusers draws for the request."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image: Image.Image = pipeline(
            request.prompt,
            width=request.width,
            height=request.height,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator().manual_seed(request.seed),
        ).images[0]
    return image


@contextmanager
def running_loop(folder: Path, device: str, rows: int, dtype: str = "float32") -> Iterator[DrawingLoop]:
    """The server's drawing loop with the model in that folder as the embedded one."""
    options = DeviceOptions(device=device, dtype=dtype, threads=0, max_batch_rows=rows, model_cache_bytes=2**40)
    with running(Catalog(folder.parent, aliases={}, embedded=folder), folder.parent, options) as loop:
        yield loop


@contextmanager
def running(catalog: Catalog, models_dir: Path, options: DeviceOptions) -> Iterator[DrawingLoop]:
    """The drawing loop on a thread of its own, as the server runs it."""
    loop = open_loop(catalog, Assets(models_dir), options)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join()


def _draw_together(loop: DrawingLoop, requests: Sequence[Txt2Img]) -> list[Image.Image]:
    results: list[Future[Result]] = [Future() for _ in requests]
    for number, (request, result) in enumerate(zip(requests, results, strict=True)):
        loop.submit(Ticket(number, request, None, threading.Event(), lambda _: None, result.set_result))
    return [_image(result.result()) for result in results]


def _image(result: Result) -> Image.Image:
    if not isinstance(result, Pictures):
        raise BenchmarkFailed(f"the loop drew nothing: {result}")
    return result.images[0]


def _difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one, dtype=np.int16) - np.asarray(other, dtype=np.int16)).max())
