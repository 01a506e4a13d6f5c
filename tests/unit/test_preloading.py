"""Models that are brought into memory before anybody asks for them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.engine.local import LocalEngine
from sdapi.engine.preloading import Preloading


def a_catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path, aliases={"also": "demo"}, embedded=embedded_model_dir())


def an_engine(tmp_path: Path, *, model_cache_bytes: int = 2**30, device: str = "cpu", unload_after_s: float = 0.0) -> LocalEngine:
    options = DeviceOptions(device, "auto", 1, 4, model_cache_bytes, unload_after_s=unload_after_s)
    return LocalEngine(a_catalog(tmp_path), Assets(tmp_path), options, max_rows=4)


async def ended(engine: LocalEngine) -> None:
    async with asyncio.timeout(60):
        while engine.preloading():
            await asyncio.sleep(0.01)


async def test_a_preloaded_model_is_in_memory_under_its_id_and_needs_no_load_any_more(tmp_path: Path) -> None:
    engine = an_engine(tmp_path)
    engine.preload(("also",))
    assert engine.preloading() == ("also",)
    assert await engine.load_s("demo") > 0
    await ended(engine)
    assert await engine.load_s("demo") == 0
    await engine.stop()


async def test_an_unknown_model_is_told_in_the_log_and_holds_nothing_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = an_engine(tmp_path, device="abacus")
    with caplog.at_level(logging.ERROR):
        engine.preload(("gone",))
        await ended(engine)
    assert [(record.getMessage(), record.__dict__["model"]) for record in caplog.records] == [
        ("SDAPI_PRELOAD names a model that is not there", "gone")
    ]
    assert engine.problem() is None, "the device was opened for nothing"
    await engine.stop()


async def test_a_model_that_can_not_be_loaded_is_told_in_the_log_and_the_next_one_is_brought(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    brought: list[str] = []

    async def bring(model_id: str) -> str | None:
        brought.append(model_id)
        return "its file is damaged" if len(brought) == 1 else None

    preloading = Preloading(Catalog(tmp_path, aliases={"one": "demo", "two": "demo"}, embedded=embedded_model_dir()), bring, lambda _: True)
    with caplog.at_level(logging.ERROR):
        preloading.start(("one", "two"))
        while preloading.coming:
            await asyncio.sleep(0)
    assert brought == ["demo", "demo"]
    assert [record.__dict__["reason"] for record in caplog.records] == ["its file is damaged"]
    await preloading.stop()


async def test_models_that_do_not_fit_into_memory_together_are_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = an_engine(tmp_path, model_cache_bytes=1)
    with caplog.at_level(logging.WARNING):
        engine.preload(("demo",))
        await ended(engine)
    assert [record.__dict__["models"] for record in caplog.records if "SDAPI_MODEL_CACHE_BYTES" in record.getMessage()] == [["demo"]]
    await engine.stop()


async def test_stopping_meanwhile_ends_it(tmp_path: Path) -> None:
    engine = an_engine(tmp_path)
    engine.preload(("demo", "also"))
    async with asyncio.timeout(60):
        await engine.stop()
    assert engine.preloading() == ()


async def test_a_model_nobody_uses_leaves_memory_by_itself(tmp_path: Path) -> None:
    engine = an_engine(tmp_path, unload_after_s=0.2)
    engine.preload(("demo",))
    await ended(engine)
    async with asyncio.timeout(60):
        while await engine.load_s("demo") == 0:
            await asyncio.sleep(0.01)
    await engine.stop()
