"""`sdapi doctor`: each thing a working server needs, tried for real."""

from __future__ import annotations

import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from sdapi.db.migrations import current_and_head
from sdapi.db.session import open_database
from sdapi.domain.generation import Txt2Img
from sdapi.engine.base import Drawn, Failed, Work
from sdapi.jobs.safety_finding import safety_finding
from sdapi.services import open_api_keys, open_assets, open_catalog, open_engine
from sdapi.settings import Settings

_LOW_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    what: str
    ok: bool
    detail: str


async def examine(settings: Settings) -> list[Finding]:
    """Look at everything; a check that breaks is a finding, not an exception."""
    checks: list[tuple[str, Callable[[Settings], Awaitable[tuple[bool, str]]]]] = [
        ("versions", _versions),
        ("data folder", _data_folder),
        ("database", _database),
        ("api keys", _api_keys),
        ("models", _models),
        ("safety", _safety),
        ("drawing", _drawing),
    ]
    findings = []
    for what, check in checks:
        try:
            ok, detail = await check(settings)
        except Exception as error:  # noqa: BLE001 - the doctor's job is to report whatever is wrong
            ok, detail = False, f"{type(error).__name__}: {error}"
        findings.append(Finding(what, ok, detail))
    return findings


async def _versions(_: Settings) -> tuple[bool, str]:
    names = ("sdapi", "torch", "diffusers", "transformers", "sqlalchemy", "fastapi")
    return True, f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in names)


async def _data_folder(settings: Settings) -> tuple[bool, str]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=settings.data_dir):
        free = shutil.disk_usage(settings.data_dir).free
    return free > _LOW_DISK_BYTES, f"{settings.data_dir.absolute()} is writable, {free / 2**30:.1f} GB free"


async def _database(settings: Settings) -> tuple[bool, str]:
    current, head = await current_and_head(settings.sqlalchemy_url)
    kind = settings.sqlalchemy_url.split(":", 1)[0]
    if current == head:
        return True, f"{kind}, schema {current}"
    return False, f"{kind}, schema {current or 'none'}, needs {head}: run `sdapi db upgrade` or `sdapi serve`"


async def _api_keys(settings: Settings) -> tuple[bool, str]:
    current, head = await current_and_head(settings.sqlalchemy_url)
    if current != head and settings.api_key is None:
        return False, "can't be looked up in a database without this version's schema"
    async with open_database(settings.sqlalchemy_url, pool_size=1) as sessions:
        if await open_api_keys(settings, sessions).any_exist():
            return True, "there is at least one"
    return False, "there is none: run `sdapi keys create`, or set SDAPI_API_KEY"


async def _models(settings: Settings) -> tuple[bool, str]:
    catalog = open_catalog(settings)
    default = catalog.get(settings.default_model)
    assets = open_assets(settings)
    annotators, translators = assets.annotators, assets.translators
    found = [*catalog.problems(), *annotators.problems(), *translators.problems(), *assets.films.problems()]
    problems = "".join(f"; {Path(problem.path).name}: {problem.sentence}" for problem in found)
    installed = "".join(f", annotator {name}" for name in annotators.installed())
    installed += "".join(f", translator {name}" for name in translators.installed())
    installed += "".join(f", model for films {name}" for name in assets.films.ids())
    return not problems, f"{len(catalog.all())} checkpoints, default {default.id}{installed}{problems}"


async def _safety(settings: Settings) -> tuple[bool, str]:
    finding = safety_finding(settings.safety, open_assets(settings).safety)
    return finding.ok, finding.sentence


async def _drawing(settings: Settings) -> tuple[bool, str]:
    catalog = open_catalog(settings)
    engine = open_engine(settings, catalog, open_assets(settings))
    request = Txt2Img(checkpoint=catalog.get(settings.default_model).id, prompt="a red circle", width=64, height=64, seed=1, steps=2)
    started = time.monotonic()
    try:
        outcome = await engine.draw(Work(0, request), lambda _: None, threading.Event())
        is_quantized = request.checkpoint in engine.models().quantized
    finally:
        await engine.stop()
    match outcome:
        case Drawn():
            ok, format_told = _told_quantization(settings, is_quantized=is_quantized)
            return ok, f"a test picture took {time.monotonic() - started:.1f} s, libraries and model included{format_told}"
        case Failed(reason):
            return False, reason
        case _:
            return False, "the drawing was cancelled"


def _told_quantization(settings: Settings, *, is_quantized: bool) -> tuple[bool, str]:
    if settings.quantize == "off":
        return True, ""
    if is_quantized:
        return True, f"; weights in {settings.quantize}"
    reason = "the log says why" if find_spec("torchao") else "torchao is not installed: pip install '.[quantized]' in the checkout"
    return False, f"; SDAPI_QUANTIZE is {settings.quantize}, but the model is drawn with as it is: {reason}"
