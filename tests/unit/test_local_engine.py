"""The engine's seam: what happens when the device can't be used, and that stopping ends its thread."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import Img2Img, Txt2Img
from sdapi.domain.progress import Progress
from sdapi.engine.base import Cancelled, Drawn, Failed, Work
from sdapi.engine.local import LocalEngine


def an_engine(tmp_path: Path, device: str = "cpu") -> LocalEngine:
    catalog = Catalog(tmp_path, aliases={}, embedded=embedded_model_dir())
    assets = Assets(tmp_path)
    return LocalEngine(catalog, assets, DeviceOptions(device, "auto", 1, 4, 2**30), max_rows=4)


def work(job_id: int = 1, **changes: object) -> Work:
    values = {"checkpoint": "demo", "prompt": "a red circle", "width": 64, "height": 64, "seed": 1, "steps": 2}
    return Work(job_id, Txt2Img.model_validate({**values, **changes}))


def ignore(_: Progress) -> None: ...


async def test_a_device_that_is_not_there_fails_the_job_and_tells_the_health_check_why(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, device="abacus")
    assert engine.problem() is None
    for _ in range(2):
        outcome = await engine.draw(work(), ignore, threading.Event())
        assert isinstance(outcome, Failed)
        assert "abacus" not in outcome.reason
    assert "abacus" in (engine.problem() or "")
    await engine.stop()


async def test_room_counts_pictures_and_comes_back(tmp_path: Path) -> None:
    engine = an_engine(tmp_path)
    drawing = asyncio.create_task(engine.draw(work(samples=3), ignore, threading.Event()))
    await asyncio.sleep(0)
    assert engine.room() == 1
    outcome = await drawing
    assert isinstance(outcome, Drawn)
    assert len(outcome.images) == 3
    assert engine.room() == 4
    await engine.stop()


async def test_a_kind_that_can_not_be_drawn_fails_without_starting_the_device(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, device="abacus")
    over = {**work(highres_fix=True).request.model_dump(exclude={"kind"}), "init_image": "inputs/x.png"}
    outcome = await engine.draw(Work(1, Img2Img.model_validate(over)), ignore, threading.Event())
    assert isinstance(outcome, Failed)
    assert "highres_fix" in outcome.reason
    assert outcome.reason.endswith("is not available on this server.")
    assert engine.problem() is None
    await engine.stop()


async def test_what_is_drawn_can_be_looked_at_and_caches_cleared_meanwhile(tmp_path: Path) -> None:
    engine = an_engine(tmp_path)
    assert (await engine.preview(1), await engine.clear_caches()) == (None, 0)
    started, cancelled = asyncio.Event(), threading.Event()
    drawing = asyncio.create_task(engine.draw(work(steps=51, samples=4, width=128, height=128), lambda _: started.set(), cancelled))
    await asyncio.wait_for(started.wait(), 60)
    preview = await engine.preview(1)
    assert preview is not None
    assert preview.size == (128, 128)
    assert await engine.preview(2) is None
    assert await engine.clear_caches() > 0, "the encoded prompts"
    cancelled.set()
    assert isinstance(await drawing, Cancelled)
    assert await engine.clear_caches() > 1_000_000, "the model nobody uses any more"
    await engine.stop()
    assert (await engine.preview(1), await engine.clear_caches()) == (None, 0)


async def test_stopping_gives_up_what_is_running_and_takes_nothing_more(tmp_path: Path) -> None:
    engine = an_engine(tmp_path)
    started = asyncio.Event()
    drawing = asyncio.create_task(engine.draw(work(steps=51, samples=4), lambda _: started.set(), threading.Event()))
    await asyncio.wait_for(started.wait(), 60)
    await engine.stop()
    assert isinstance(await drawing, Cancelled)
    assert engine.room() == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "sdapi-device"]
