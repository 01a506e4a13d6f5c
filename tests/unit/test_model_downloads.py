"""Models are fetched whole or not at all, from where they may be, and go on where they broke off."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.catalog import Assets, Catalog
from sdapi.db.migrations import upgrade
from sdapi.db.session import open_database
from sdapi.db.tables import ModelDownloadRow
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.model_downloads import Download, DownloadSources, DownloadTimes, ModelDownloads, NewDownload
from sdapi.model_downloads.transfer import disk_failure

from .fake_model_source import COMMIT, ModelSource, Served, model_source
from .test_catalog import SD1, Shapes, write_folder

Sessions = async_sessionmaker[AsyncSession]

LORA: Shapes = {"lora_unet_down_blocks_0_attentions_0.lora_down.weight": (4, 64), "lora_unet_x.lora_up.weight": (64, 4)}
VAE: Shapes = {"decoder.conv_in.weight": (8, 4, 3, 3), "encoder.conv_in.weight": (8, 3, 3, 3)}
MAX_BYTES = 2_000_000
ROOMY = 10**12


class Clock:
    """A moment that passes when told."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def tensors(shapes: Shapes = SD1, *, fill: bytes = b"\x07") -> bytes:
    """A safetensors file."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + fill * end


def a_download(url: str, **changes: Any) -> NewDownload:
    return NewDownload(**{"kind": "checkpoint", "model_id": "dreamy", "url": url, **changes})


@pytest.fixture
async def source() -> AsyncIterator[ModelSource]:
    async with model_source() as serving:
        yield serving


@pytest.fixture(scope="module")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite database to copy: making one takes longer than most tests here."""
    file = tmp_path_factory.mktemp("migrated") / "sdapi.sqlite3"
    asyncio.run(upgrade(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
async def on_sqlite(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Sessions]:
    """For what does not depend on the database."""
    file = shutil.copy(migrated_file, tmp_path / "sdapi.sqlite3")
    async with open_database(f"sqlite+aiosqlite:///{file}", pool_size=5) as opened:
        yield opened


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


class Workers:
    """Makes ModelDownloads as processes would have them, and closes them."""

    def __init__(self, sessions: Sessions, models: Path, source: ModelSource, clock: Clock) -> None:
        self.sessions, self.models, self.source, self.clock = sessions, models, source, clock
        self.opened: list[ModelDownloads] = []

    def open(self, *, sessions: Sessions | None = None, on_end: Any = None, free: int = ROOMY, **sources: Any) -> ModelDownloads:
        asked = {
            "hub_url": f"{self.source.base}/hub",
            "hosts": ("files.example",),
            "max_bytes": MAX_BYTES,
            "allow_private": True,
            "timeout_s": 5.0,
            "retry_delays_s": (0.0, 0.0),
        }
        worker = ModelDownloads(
            sessions=sessions or self.sessions,
            models_dir=self.models,
            sources=DownloadSources(**{**asked, **sources}),
            times=DownloadTimes(heartbeat_s=0.02, stale_after_s=15, max_attempts=3, poll_s=0.02),
            now=self.clock,
            on_end=on_end,
            free_bytes=lambda _: free,
        )
        self.opened.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self.opened:
            await worker.stop()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def workers(on_sqlite: Sessions, models: Path, source: ModelSource, clock: Clock) -> AsyncIterator[Workers]:
    opened = Workers(on_sqlite, models, source, clock)
    yield opened
    await opened.close()


@pytest.fixture
async def workers_on_both(sessions: Sessions, models: Path, source: ModelSource, clock: Clock) -> AsyncIterator[Workers]:
    opened = Workers(sessions, models, source, clock)
    yield opened
    await opened.close()


async def fetched(downloads: ModelDownloads, new: NewDownload) -> Download:
    """The download, after it has ended."""
    started = await downloads.start(new, client_id=1)
    assert await downloads.run_once()
    ended = await downloads.get(started.id)
    assert ended is not None
    return ended


async def failure_of(downloads: ModelDownloads, new: NewDownload) -> str:
    ended = await fetched(downloads, new)
    assert (ended.status, ended.sha256) == ("failed", None)
    return str(ended.error)


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await holds():
            await asyncio.sleep(0.005)


def installed(models: Path) -> list[str]:
    """Every file of the models folder that is in its place, but for the sidecars that tell where it came from."""
    files = (path.relative_to(models) for path in models.rglob("*") if path.is_file() and path.suffix != ".toml")
    return sorted(str(path) for path in files if path.parts[0] != ".downloading")


def staged(models: Path) -> list[str]:
    return sorted(path.name for path in (models / ".downloading").iterdir()) if (models / ".downloading").is_dir() else []


def catalog(models: Path, clock: Callable[[], float]) -> Catalog:
    return Catalog(models, aliases={}, embedded=None, clock=clock)


# -- one file ---------------------------------------------------------------------------------------------------------------------


async def test_a_fetched_checkpoint_is_in_the_running_catalog(workers_on_both: Workers, models: Path, source: ModelSource) -> None:
    seconds = iter(range(0, 100, 10))
    listed = catalog(models, lambda: next(seconds))
    assert listed.ids() == []
    url = source.put("/sd.safetensors", tensors())
    downloads = workers_on_both.open()

    started = await downloads.start(a_download(url), client_id=7, webhook_url="https://client.example/hook")
    assert (started.status, started.client_id, started.bytes_done, started.is_final) == ("queued", 7, 0, False)
    assert [one.id for one in await downloads.running()] == [started.id]
    assert await downloads.run_once()

    ended = await downloads.get(started.id)
    assert ended is not None
    assert (ended.status, ended.error, ended.webhook_url) == ("installed", None, "https://client.example/hook")
    assert ended.sha256 == hashlib.sha256(tensors()).hexdigest()
    assert ended.bytes_done == ended.bytes_total == len(tensors())
    assert ended.finished_at == workers_on_both.clock.time
    assert listed.get("dreamy").layout == "single_file"
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == tensors()
    assert (staged(models), await downloads.running(), await downloads.run_once()) == ([], (), False)


@pytest.mark.parametrize(("kind", "shapes", "place"), [("lora", LORA, "loras/dreamy.safetensors"), ("vae", VAE, "vaes/dreamy.safetensors")])
async def test_each_kind_has_its_folder(kind: Any, shapes: Shapes, place: str, workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/x", tensors(shapes))
    assert (await fetched(workers.open(), a_download(url, kind=kind))).status == "installed"
    assert installed(models) == [place]
    assert [asset.id for asset in Assets(models).all(kind)] == ["dreamy"]


async def test_a_lora_is_no_checkpoint(workers: Workers, models: Path, source: ModelSource) -> None:
    sentence = await failure_of(workers.open(), a_download(source.put("/l.safetensors", tensors(LORA))))
    assert "It is a LoRA, not a checkpoint" in sentence
    assert (installed(models), staged(models)) == ([], [])


async def test_an_interrupted_transfer_goes_on_where_it_broke_off(workers: Workers, models: Path, source: ModelSource) -> None:
    body = tensors()
    url = source.put("/sd.safetensors", body, cut_after=[1000, 500])
    assert (await fetched(workers.open(), a_download(url))).sha256 == hashlib.sha256(body).hexdigest()
    assert source.sent_bytes["/sd.safetensors"] == len(body)
    assert [(asked.headers.get("range"), asked.headers.get("if-range")) for asked in source.asked] == [
        (None, None),
        ("bytes=1000-", '"one"'),
        ("bytes=1500-", '"one"'),
    ]
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == body


async def test_a_source_without_ranges_is_read_again_from_the_start(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), cut_after=[1000], ranges=False)
    assert (await fetched(workers.open(), a_download(url))).status == "installed"
    assert source.sent_bytes["/sd.safetensors"] == 1000 + len(tensors())
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == tensors()


async def test_a_file_that_has_changed_meanwhile_is_read_from_the_start(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), cut_after=[1000, 0, 0])
    downloads = workers.open()
    assert "connection to the source broke" in await failure_of(downloads, a_download(url))
    source.put("/sd.safetensors", tensors(fill=b"\x09"), etag='"two"')
    assert (await fetched(downloads, a_download(url))).status == "installed"
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == tensors(fill=b"\x09")


async def test_another_request_continues_what_was_given_up(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), cut_after=[1000, 0, 0])
    downloads = workers.open()
    assert "continues where this one ended" in await failure_of(downloads, a_download(url))
    assert installed(models) == []
    assert (await fetched(downloads, a_download(url))).status == "installed"
    assert source.sent_bytes["/sd.safetensors"] == len(tensors())


async def test_the_parts_of_another_url_are_not_continued(workers: Workers, models: Path, source: ModelSource) -> None:
    downloads = workers.open()
    await failure_of(downloads, a_download(source.put("/one.safetensors", tensors(), cut_after=[1000, 0, 0])))
    other = source.put("/two.safetensors", tensors(fill=b"\x09"))
    assert (await fetched(downloads, a_download(other))).status == "installed"
    assert source.sent_bytes["/two.safetensors"] == len(tensors())


async def test_a_file_without_etag_and_hash_is_never_pieced_together(workers: Workers, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), cut_after=[1000], etag="")
    assert (await fetched(workers.open(), a_download(url))).status == "installed"
    assert source.sent_bytes["/sd.safetensors"] == 1000 + len(tensors())


async def test_a_source_that_is_overloaded_is_asked_again(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", b"", status="503 Service Unavailable")
    assert "status 503" in await failure_of(workers.open(), a_download(url))
    assert len(source.asked) == 3


@pytest.mark.parametrize(("status", "words"), [("404 Not Found", "no such model"), ("401 Unauthorized", "wants a login")])
async def test_an_answer_that_will_not_change_is_not_asked_for_again(
    status: str, words: str, workers: Workers, models: Path, source: ModelSource
) -> None:
    url = source.put("/sd.safetensors", b"", status=status)
    assert words in await failure_of(workers.open(), a_download(url))
    assert (len(source.asked), staged(models)) == (1, [])


async def test_a_source_that_falls_silent_is_given_up(workers: Workers, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), hold_after=100)
    sentence = await failure_of(workers.open(timeout_s=0.05), a_download(url))
    assert "did not answer in time" in sentence


# -- what is refused --------------------------------------------------------------------------------------------------------------


async def test_a_wrong_hash_installs_nothing(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors())
    assert "was expected" in await failure_of(workers.open(), a_download(url, sha256="0" * 64))
    assert (installed(models), staged(models)) == ([], [])


async def test_the_right_hash_may_be_in_capitals(workers: Workers, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors())
    assert (await fetched(workers.open(), a_download(url, sha256=hashlib.sha256(tensors()).hexdigest().upper()))).status == "installed"


async def test_a_model_that_says_it_is_too_large_is_not_fetched(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), declared_bytes=MAX_BYTES + 1)
    assert f"{MAX_BYTES + 1:,} bytes, which is more than the {MAX_BYTES:,}" in await failure_of(workers.open(), a_download(url))
    assert (installed(models), staged(models)) == ([], [])


async def test_a_model_that_does_not_say_how_large_it_is_is_cut_off(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors({**SD1, "x": (MAX_BYTES,)}), is_chunked=True)
    assert "more than the" in await failure_of(workers.open(), a_download(url))
    assert (installed(models), staged(models)) == ([], [])


async def test_an_undeclared_size_is_fine_within_the_limit(workers: Workers, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), is_chunked=True)
    assert (await fetched(workers.open(), a_download(url))).status == "installed"


async def test_a_pickle_in_disguise_is_refused_at_its_first_bytes(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", pickle.dumps({"w": bytes(1_000_000)}))
    assert "is not safetensors whatever its name says" in await failure_of(workers.open(), a_download(url))
    assert (installed(models), staged(models), len(source.asked)) == ([], [], 1)


async def test_a_web_page_is_not_a_model(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", b"<!doctype html><html>Log in</html>")
    assert "is not a safetensors file" in await failure_of(workers.open(), a_download(url))
    assert installed(models) == []


async def test_a_file_shorter_than_its_header_says_is_refused(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors()[:-10])
    assert "cut short: 10 bytes are missing" in await failure_of(workers.open(), a_download(url))
    assert (installed(models), staged(models)) == ([], [])


async def test_a_full_disk_is_noticed_before(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors())
    assert "disk of the models folder has 1,000 bytes free" in await failure_of(workers.open(free=1000), a_download(url))
    assert (installed(models), staged(models)) == ([], [])


async def test_a_models_folder_that_can_not_be_written_to_fails_the_download(workers: Workers, models: Path, source: ModelSource) -> None:
    (models / ".downloading").write_text("in the way")
    url = source.put("/sd.safetensors", tensors())
    assert "models folder can't be written to" in await failure_of(workers.open(), a_download(url))
    assert installed(models) == []


def test_a_disk_that_fills_up_meanwhile_is_called_so() -> None:
    failure = disk_failure(OSError(errno.ENOSPC, "No space left on device"))
    assert (str(failure), failure.resumable) == ("The disk of the models folder is full.", False)


@pytest.mark.parametrize(
    "model_id",
    [
        "../evil",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "",
        "a" * 101,
        "a..b",
        "ä",
        "a b",
        "x.toml",
        "x.safetensors",
        "x.ckpt",
        "demo",
        "a\n",
        "-x",
    ],
)
async def test_ids_that_are_no_names_are_refused(model_id: str, workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors())
    with pytest.raises(InvalidRequest) as refusal:
        await workers.open().start(a_download(url, model_id=model_id), client_id=1)
    assert list(refusal.value.problems) == ["model_id"]
    assert (await workers.open().list(10), source.asked) == ((), [])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://evil.example/sd.safetensors", "is on the host evil.example, from which models may not be fetched; allowed are 127.0.0.1"),
        ("https://files.example.evil.example/sd.safetensors", "may not be fetched"),
        ("https://me:secret@files.example/sd.safetensors", "is not a plain URL"),
        ("ftp://files.example/sd.safetensors", "is not an https URL"),
        ("file:///etc/passwd", "is not an https URL"),
        ("https://files.example/sd.ckpt", "is a pickle"),
        ("https://files.example/sd.pt?download=true", "is a pickle"),
        ("org/name/model.bin", "is a pickle"),
        ("org/name/model.gguf", "must name a .safetensors file"),
        ("org/name/../../secret.safetensors", "names no model on the hub"),
        ("org/..", "org/name"),
        ("nonsense", "must be an https URL"),
        ("https://[::1/", "is not a URL"),
        ("", "must be the URL of a model"),
    ],
)
async def test_urls_that_lead_nowhere_good_are_refused_at_once(url: str, words: str, workers: Workers, source: ModelSource) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        await workers.open().start(a_download(url), client_id=1)
    assert words in " ".join(refusal.value.problems["url"])


async def test_http_is_refused_unless_private_urls_are_allowed(workers: Workers, source: ModelSource) -> None:
    with pytest.raises(InvalidRequest, match="is not an https URL"):
        await workers.open(allow_private=False).start(a_download("http://files.example/sd.safetensors"), client_id=1)


async def test_a_redirect_to_a_host_that_is_not_allowed_is_not_followed(workers: Workers, models: Path, source: ModelSource) -> None:
    source.files["/sd.safetensors"] = Served(redirect="http://localhost:1/sd.safetensors")
    sentence = await failure_of(workers.open(), a_download(source.base + "/sd.safetensors"))
    assert "The source is on the host localhost, from which models may not be fetched" in sentence


async def test_redirects_without_end_end(workers: Workers, source: ModelSource) -> None:
    source.files["/sd.safetensors"] = Served(redirect="/sd.safetensors")
    assert "redirects without end" in await failure_of(workers.open(), a_download(source.base + "/sd.safetensors"))
    assert len(source.asked) < 20


async def test_private_addresses_are_refused_under_guard(workers: Workers, source: ModelSource) -> None:
    downloads = workers.open(allow_private=False, hosts=("localhost",))
    assert "not at a public address" in await failure_of(downloads, a_download("https://localhost:1/sd.safetensors"))


# -- replacing and meeting others -------------------------------------------------------------------------------------------------


async def test_a_model_that_is_there_is_not_overwritten(workers: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors())
    downloads = workers.open()
    await fetched(downloads, a_download(url))
    with pytest.raises(InvalidRequest, match="is there already"):
        await downloads.start(a_download(url), client_id=1)


async def test_a_model_that_appears_meanwhile_is_not_overwritten(workers: Workers, models: Path, source: ModelSource) -> None:
    downloads = workers.open()
    started = await downloads.start(a_download(source.put("/sd.safetensors", tensors())), client_id=1)
    (models / "checkpoints").mkdir()
    (models / "checkpoints" / "dreamy.safetensors").write_bytes(b"mine")
    await downloads.run_once()
    ended = await downloads.get(started.id)
    assert ended is not None
    assert "Meanwhile another checkpoint" in str(ended.error)
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == b"mine"


async def test_a_model_is_replaced_when_asked(workers: Workers, models: Path, source: ModelSource) -> None:
    write_folder(models / "checkpoints" / "dreamy")
    url = source.put("/sd.safetensors", tensors())
    assert (await fetched(workers.open(), a_download(url, replace=True))).status == "installed"
    assert installed(models) == ["checkpoints/dreamy.safetensors"]


async def test_a_failed_replacement_leaves_what_was_there(workers: Workers, models: Path, source: ModelSource) -> None:
    (models / "checkpoints").mkdir()
    (models / "checkpoints" / "dreamy.safetensors").write_bytes(tensors())
    url = source.put("/sd.safetensors", tensors()[:-1])
    await failure_of(workers.open(), a_download(url, replace=True))
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == tensors()


async def test_asking_twice_joins_the_first(workers_on_both: Workers, source: ModelSource) -> None:
    downloads, url = workers_on_both.open(), source.put("/sd.safetensors", tensors())
    first = await downloads.start(a_download(url), client_id=1)
    again = await downloads.start(a_download(url), client_id=2)
    assert again.id == first.id
    with pytest.raises(InvalidRequest, match="is just being fetched from another url"):
        await downloads.start(a_download(url + "?other"), client_id=1)
    other_kind = await downloads.start(a_download(url, kind="lora"), client_id=1)
    assert [one.id for one in await downloads.list(10)] == [other_kind.id, first.id]


async def test_many_who_ask_at_once_share_one_download(workers_on_both: Workers, source: ModelSource) -> None:
    downloads, url = workers_on_both.open(), source.put("/sd.safetensors", tensors())
    started = await asyncio.gather(*(downloads.start(a_download(url), client_id=1) for _ in range(8)))
    assert len({one.id for one in started}) == 1


async def test_a_model_may_be_asked_for_again_after_it_failed(workers_on_both: Workers, source: ModelSource) -> None:
    downloads = workers_on_both.open()
    url = source.put("/sd.safetensors", tensors(LORA))
    first = await fetched(downloads, a_download(url))
    source.put("/sd.safetensors", tensors())
    second = await fetched(downloads, a_download(url))
    assert (first.status, second.status, first.id != second.id) == ("failed", "installed", True)


async def test_two_processes_never_fetch_the_same(workers_on_both: Workers, models: Path, source: ModelSource) -> None:
    urls = [source.put(f"/{number}.safetensors", tensors()) for number in range(6)]
    processes = [workers_on_both.open() for _ in range(3)]
    for number, url in enumerate(urls):
        await processes[0].start(a_download(url, model_id=f"m{number}"), client_id=1)
    for process in processes:
        process.start_loop()

    async def all_ended() -> bool:
        return not await processes[0].running()

    await eventually(all_ended)
    assert {one.status for one in await processes[0].list(10)} == {"installed"}
    assert sorted(source.paths_asked()) == [f"/{number}.safetensors" for number in range(6)]
    assert installed(models) == [f"checkpoints/m{number}.safetensors" for number in range(6)]
    assert [process.problem() for process in processes] == [None] * 3


async def test_the_end_is_told_within_its_transaction(workers_on_both: Workers, source: ModelSource) -> None:
    told: list[tuple[str, bool]] = []
    downloads = workers_on_both.open(on_end=lambda session, download: told.append((download.status, session.in_transaction())))
    await fetched(downloads, a_download(source.put("/sd.safetensors", tensors())))
    await fetched(downloads, a_download(source.put("/l.safetensors", tensors(LORA)), model_id="other"))
    assert told == [("installed", True), ("failed", True)]


# -- stopping and dying -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_stops_pauses_and_the_next_one_goes_on(workers_on_both: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), hold_after=1000)
    first = workers_on_both.open()
    started = await first.start(a_download(url), client_id=1)
    first.start_loop()
    await source.held.wait()

    async def has_come() -> bool:
        found = await first.get(started.id)
        return found is not None and found.bytes_done == 1000 and found.bytes_total == len(tensors())

    await eventually(has_come)
    await first.stop()
    paused = await first.get(started.id)
    assert paused is not None
    assert (paused.status, paused.attempts, installed(models)) == ("queued", 0, [])

    source.files["/sd.safetensors"].hold_after = None
    second = workers_on_both.open()
    assert await second.run_once()
    ended = await second.get(started.id)
    assert ended is not None
    assert (ended.status, source.asked[-1].headers.get("range")) == ("installed", "bytes=1000-")
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == tensors()


async def row_left_running(sessions: Sessions, clock: Clock, download_id: int, *, attempts: int = 1) -> None:
    """As a process that was killed leaves it."""
    async with sessions.begin() as session:
        row = (await session.scalars(select(ModelDownloadRow).where(ModelDownloadRow.id == download_id))).one()
        row.status, row.worker, row.heartbeat_at, row.attempts = "running", "dead", clock.time, attempts


async def test_a_download_whose_process_died_is_taken_over(workers_on_both: Workers, source: ModelSource) -> None:
    downloads = workers_on_both.open()
    started = await downloads.start(a_download(source.put("/sd.safetensors", tensors())), client_id=1)
    await row_left_running(workers_on_both.sessions, workers_on_both.clock, started.id)
    workers_on_both.clock.time += timedelta(seconds=14)
    assert not await downloads.run_once()
    workers_on_both.clock.time += timedelta(seconds=2)
    assert await downloads.run_once()
    ended = await downloads.get(started.id)
    assert ended is not None
    assert (ended.status, ended.attempts) == ("installed", 2)


async def test_a_download_that_kills_every_process_is_given_up(workers: Workers, source: ModelSource) -> None:
    downloads = workers.open()
    started = await downloads.start(a_download(source.put("/sd.safetensors", tensors())), client_id=1)
    await row_left_running(workers.sessions, workers.clock, started.id, attempts=3)
    workers.clock.time += timedelta(minutes=1)
    await downloads.run_once()
    ended = await downloads.get(started.id)
    assert ended is not None
    assert (ended.status, ended.error) == ("failed", "The server stopped unexpectedly while fetching this, 3 times.")
    assert source.asked == []


async def test_a_process_that_was_taken_for_dead_stops(workers_on_both: Workers, models: Path, source: ModelSource) -> None:
    url = source.put("/sd.safetensors", tensors(), hold_after=1000)
    downloads = workers_on_both.open()
    started = await downloads.start(a_download(url), client_id=1)
    downloads.start_loop()
    await source.held.wait()
    await row_left_running(workers_on_both.sessions, workers_on_both.clock, started.id)

    async def is_idle() -> bool:
        return downloads._current is None

    await eventually(is_idle)
    found = await downloads.get(started.id)
    assert found is not None
    assert (found.status, installed(models)) == ("running", [])


async def test_a_process_that_died_after_installing_is_finished_by_the_next(workers: Workers, models: Path, source: ModelSource) -> None:
    def crash(session: AsyncSession, download: Download) -> None:
        raise RuntimeError("power cut")

    dying, url = workers.open(on_end=crash), source.put("/sd.safetensors", tensors())
    started = await dying.start(a_download(url), client_id=1)
    with pytest.raises(RuntimeError, match="power cut"):
        await dying.run_once()
    assert installed(models) == ["checkpoints/dreamy.safetensors"]
    workers.clock.time += timedelta(minutes=1)

    following = workers.open()
    assert await following.run_once()
    ended = await following.get(started.id)
    assert ended is not None
    assert (ended.status, ended.sha256) == ("installed", hashlib.sha256(tensors()).hexdigest())
    assert (len(source.asked), staged(models)) == (1, [])


async def test_parts_nobody_needs_are_removed_after_days(workers: Workers, models: Path, source: ModelSource) -> None:
    for name, age_days in (("checkpoint-old", 4), ("checkpoint-fresh", 1), ("checkpoint-waiting", 4)):
        (models / ".downloading" / name).mkdir(parents=True)
        then = datetime.now(UTC).timestamp() - age_days * 24 * 3600
        os.utime(models / ".downloading" / name, (then, then))
    url = source.put("/sd.safetensors", tensors(), hold_after=0)
    downloads = workers.open()
    await downloads.start(a_download(url, model_id="waiting"), client_id=1)
    await downloads._clean_up()
    assert staged(models) == ["checkpoint-fresh", "checkpoint-waiting"]


# -- the hub ----------------------------------------------------------------------------------------------------------------------


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def a_repository(tmp_path: Path) -> dict[str, bytes]:
    """Files of a diffusers repository, with what real ones have besides."""
    files = folder_bytes(write_folder(tmp_path / "repository"))
    weights = files["unet/diffusion_pytorch_model.safetensors"]
    return {
        **files,
        "tokenizer/merges.txt": b"#version: 0.2\n",
        "tokenizer/vocab.json": b"{}",
        "unet/diffusion_pytorch_model.fp16.safetensors": weights,
        "vae/diffusion_pytorch_model.fp16.safetensors": weights,
        "text_encoder/model.fp16.safetensors": weights,
        "unet/diffusion_pytorch_model.bin": b"pickle",
        "safety_checker/model.safetensors": weights,
        "unet/../../evil.json": b"{}",
        "unet/model.py": b"import os",
        "v1-5-pruned.ckpt": b"pickle",
        "README.md": b"# A model",
    }


NEEDED = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


async def test_of_a_hub_repository_only_what_is_needed_is_fetched(
    workers_on_both: Workers, models: Path, source: ModelSource, a_repository: dict[str, bytes]
) -> None:
    source.publish("org/painter", a_repository)
    ended = await fetched(workers_on_both.open(), a_download("org/painter"))
    assert (ended.status, ended.error) == ("installed", None)
    assert installed(models) == [f"checkpoints/dreamy/{name}" for name in NEEDED]
    lines = "".join(f"{hashlib.sha256(a_repository[name]).hexdigest()}  {name}\n" for name in NEEDED)
    assert ended.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert ended.bytes_done == sum(len(a_repository[name]) for name in NEEDED)
    assert catalog(models, lambda: 0.0).get("dreamy").layout == "diffusers"


async def test_fp16_takes_the_smaller_files(workers: Workers, models: Path, source: ModelSource, a_repository: dict[str, bytes]) -> None:
    source.publish("org/painter", a_repository)
    assert (await fetched(workers.open(), a_download("org/painter", revision="fp16"))).status == "installed"
    names = [Path(name).name for name in installed(models) if name.endswith(".safetensors")]
    assert names == ["model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors"]


@pytest.mark.parametrize("address", ["org/painter@v2", "{hub}/hub/org/painter/tree/v2", "org/painter|v2"])
async def test_a_revision_can_be_named(address: str, workers: Workers, source: ModelSource, a_repository: dict[str, bytes]) -> None:
    source.publish("org/painter", a_repository, revision="v2")
    url, _, revision = address.format(hub=source.base).partition("|")
    assert (await fetched(workers.open(), a_download(url, revision=revision))).status == "installed"
    assert source.paths_asked()[0] == "/hub/api/models/org/painter/revision/v2?blobs=true"
    assert all(f"/resolve/{COMMIT}/" in path for path in source.paths_asked()[1:] if not path.startswith("/cdn"))


async def test_an_interrupted_hub_folder_keeps_its_whole_files(
    workers: Workers, models: Path, source: ModelSource, a_repository: dict[str, bytes]
) -> None:
    source.publish("org/painter", a_repository)
    vae = "/cdn/org/painter/vae/diffusion_pytorch_model.safetensors"
    source.files[vae].cut_after = [30, 0, 0]
    downloads = workers.open()
    await failure_of(downloads, a_download("org/painter"))
    assert installed(models) == []
    source.files[vae].hold_after = None
    assert (await fetched(downloads, a_download("org/painter"))).status == "installed"
    sent = {path: count for path, count in source.sent_bytes.items() if path.startswith("/cdn")}
    assert sent == {f"/cdn/org/painter/{name}": len(a_repository[name]) for name in NEEDED}


@pytest.mark.parametrize("address", ["org/many/b.safetensors", "org/many@main/b.safetensors", "{hub}/hub/org/many/blob/main/b.safetensors"])
async def test_one_file_of_a_hub_repository(address: str, workers: Workers, models: Path, source: ModelSource) -> None:
    source.publish("org/many", {"a.safetensors": tensors(LORA), "b.safetensors": tensors()})
    assert (await fetched(workers.open(), a_download(address.format(hub=source.base)))).status == "installed"
    assert (models / "checkpoints" / "dreamy.safetensors").read_bytes() == tensors()


async def test_a_repository_with_several_models_is_refused_with_their_names(workers: Workers, source: ModelSource) -> None:
    source.publish("org/many", {"a.safetensors": tensors(), "b.safetensors": tensors()})
    assert "name one of them, as org/name/file: a.safetensors, b.safetensors" in await failure_of(workers.open(), a_download("org/many"))


async def test_a_repository_of_pickles_is_refused_with_the_way_out(workers: Workers, source: ModelSource) -> None:
    source.publish("org/old", {"model.ckpt": b"pickle"})
    assert "Convert it to safetensors first" in await failure_of(workers.open(), a_download("org/old"))
    assert len(source.asked) == 1


async def test_a_lora_repository_gives_its_one_file(workers: Workers, models: Path, source: ModelSource) -> None:
    source.publish("org/lora", {"pytorch_lora_weights.safetensors": tensors(LORA), "other.safetensors": b"", "README.md": b""})
    assert (await fetched(workers.open(), a_download("org/lora", kind="lora"))).status == "installed"
    assert installed(models) == ["loras/dreamy.safetensors"]


@pytest.mark.parametrize("inside", ["", "vae/"])
async def test_a_vae_comes_as_a_folder(inside: str, workers: Workers, models: Path, source: ModelSource) -> None:
    files = {"config.json": b'{"_class_name": "AutoencoderKL"}', "diffusion_pytorch_model.safetensors": tensors(VAE)}
    source.publish("org/vae", {inside + name: body for name, body in files.items()})
    assert (await fetched(workers.open(), a_download("org/vae", kind="vae"))).status == "installed"
    assert installed(models) == ["vaes/dreamy/config.json", "vaes/dreamy/diffusion_pytorch_model.safetensors"]
    assert Assets(models).get("vae", "dreamy").layout == "diffusers"


async def test_the_hubs_hash_is_checked(workers: Workers, models: Path, source: ModelSource) -> None:
    source.publish("org/one", {"a.safetensors": tensors()})
    source.files["/cdn/org/one/a.safetensors"].body = tensors(fill=b"\x09")
    assert "was expected" in await failure_of(workers.open(), a_download("org/one"))
    assert (installed(models), staged(models)) == ([], [])


async def test_a_hub_that_lists_another_size_than_it_sends_is_refused(workers: Workers, source: ModelSource) -> None:
    source.publish("org/one", {"a.safetensors": tensors()})
    source.files["/cdn/org/one/a.safetensors"].body = tensors() + b"more"
    assert "but the source sends" in await failure_of(workers.open(), a_download("org/one"))


@pytest.mark.parametrize("answer", [b"[]", b"not json", b'{"siblings": 3}', b'{"siblings": [{"rfilename": "a.safetensors", "size": -1}]}'])
async def test_a_hub_that_talks_nonsense_fails_the_download(answer: bytes, workers: Workers, source: ModelSource) -> None:
    source.put("/hub/api/models/org/one/revision/main?blobs=true", answer)
    assert "The hub's" in await failure_of(workers.open(), a_download("org/one"))


async def test_a_real_model_from_the_hub_can_be_loaded(workers: Workers, models: Path, source: ModelSource, tmp_path: Path) -> None:
    import torch

    from sdapi.pipelines.loading.loader import load_checkpoint
    from tests.pipelines.tiny_checkpoint import write_diffusers_folder

    files = folder_bytes(write_diffusers_folder(tmp_path / "tiny"))
    source.publish("org/tiny", files)
    ended = await fetched(workers.open(max_bytes=10**9), a_download("org/tiny"))
    assert (ended.status, ended.error) == ("installed", None)
    loaded = load_checkpoint(catalog(models, lambda: 0.0).get("dreamy"), device=torch.device("cpu"), dtype=torch.float32)
    assert loaded.max_tokens == 77


# -- deleting ---------------------------------------------------------------------------------------------------------------------


async def test_a_deleted_model_is_gone_with_its_sidecar(workers: Workers, models: Path) -> None:
    write_folder(models / "checkpoints" / "dreamy")
    write_folder(models / "checkpoints" / "dreamy.toml")
    (models / "checkpoints" / "painter.safetensors").write_bytes(tensors())
    (models / "checkpoints" / "painter.toml").write_text('title = "P"')
    (models / "loras").mkdir()
    (models / "loras" / "painter.safetensors").write_bytes(tensors(LORA))
    downloads = workers.open()

    assert await downloads.delete_model("painter", ["checkpoint"]) == ("checkpoint",)
    assert {path.split("/")[1] for path in installed(models)} == {"dreamy", "dreamy.toml", "painter.safetensors"}
    assert await downloads.delete_model("painter") == ("lora",)
    assert await downloads.delete_model("dreamy") == ("checkpoint",)
    assert {path.split("/")[1] for path in installed(models)} == {"dreamy.toml"}
    assert staged(models) == []


async def test_a_deleted_link_leaves_what_it_leads_to(workers: Workers, models: Path, tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside")
    (models / "checkpoints").mkdir()
    (models / "checkpoints" / "linked").symlink_to(outside)
    assert await workers.open().delete_model("linked") == ("checkpoint",)
    assert list((models / "checkpoints").iterdir()) == []
    assert (outside / "model_index.json").is_file()


@pytest.mark.parametrize("model_id", ["unknown", "..", ".", "", "../outside", "/etc", "checkpoints", "a/b", "*"])
async def test_an_unknown_model_can_not_be_deleted(model_id: str, workers: Workers, models: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "outside")
    (models / "checkpoints").mkdir()
    (models / "checkpoints" / "mine.safetensors").write_bytes(tensors())
    with pytest.raises(ModelNotFound) as refusal:
        await workers.open().delete_model(model_id)
    assert refusal.value.available == ("mine",)
    assert (tmp_path / "outside").is_dir()


async def test_the_embedded_model_can_not_be_deleted(workers: Workers) -> None:
    with pytest.raises(InvalidRequest, match="embedded model"):
        await workers.open().delete_model("demo")


async def test_a_model_that_is_being_fetched_can_not_be_deleted(workers: Workers, source: ModelSource) -> None:
    downloads = workers.open()
    await downloads.start(a_download(source.put("/sd.safetensors", tensors())), client_id=1)
    with pytest.raises(InvalidRequest, match="is just being fetched"):
        await downloads.delete_model("dreamy")
