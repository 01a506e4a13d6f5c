"""The update command: run without a shell, one at a time, bounded in time; a restart follows only when it has succeeded."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from sdapi.domain.errors import NotAvailable
from sdapi.restart import Restarts
from sdapi.settings import Settings
from sdapi.updates import Updates


class Server:
    """Counts how often it was asked to begin anew."""

    def __init__(self) -> None:
        self.restarts = Restarts()
        self.restarts.offer(self.begin)
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1


def python(code: str) -> str:
    """A command that runs this."""
    return shlex.join([sys.executable, "-S", "-c", code])


@asynccontextmanager
async def updates(server: Server, command: str | None, *, timeout_s: float = 60) -> AsyncIterator[Updates]:
    opened = Updates(command=command, timeout_s=timeout_s, restarts=server.restarts)
    yield opened
    await opened.stop()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_the_server_restarts_when_the_command_has_succeeded_and_its_output_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    with caplog.at_level(logging.INFO):
        async with updates(server, python("print('done, $HOME'); import sys; print('careful', file=sys.stderr)")) as opened:
            opened.start()
            assert server.begun == 0
            await until(lambda: not opened.under_way)
    assert server.begun == 1
    assert opened.problem() is None
    (ended,) = [record for record in caplog.records if hasattr(record, "output")]
    assert sorted(vars(ended)["output"].splitlines()) == ["careful", "done, $HOME"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (python("raise SystemExit(7)"), "exit code 7"),
        ("/no/such/program --at all", "No such file"),
        (python("import os; os.abort()"), "-6"),
    ],
)
async def test_after_a_command_that_failed_the_server_goes_on_and_the_reason_is_kept(command: str, words: str) -> None:
    server = Server()
    async with updates(server, command) as opened:
        opened.start()
        await until(lambda: not opened.under_way)
        assert words in (opened.problem() or "")
    assert server.begun == 0


async def test_a_command_that_takes_too_long_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    server, child = Server(), tmp_path / "child"
    code = (
        "import os, pathlib, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        f"q = pathlib.Path({str(child)!r} + '.new'); q.write_text(str(p.pid)); q.rename({str(child)!r}); time.sleep(60)"
    )
    async with updates(server, python(code), timeout_s=2) as opened:
        opened.start()
        await until(child.exists)
        await until(lambda: not opened.under_way)
        assert opened.problem() == "it took too long"
        await until(lambda: not is_running(int(child.read_text())))
    assert server.begun == 0


async def test_a_service_that_the_command_leaves_running_holds_nobody_up(tmp_path: Path) -> None:
    server, child = Server(), tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid))"
    )
    async with updates(server, python(code)) as opened:
        opened.start()
        await until(lambda: server.begun == 1)
        await until(lambda: not opened.under_way)
    pid = int(child.read_text())
    assert is_running(pid)
    os.kill(pid, 9)


async def test_a_second_update_is_refused_while_one_is_under_way(tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    code = f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)"
    server = Server()
    async with updates(server, python(code)) as opened:
        opened.start()
        with pytest.raises(NotAvailable, match="under way"):
            opened.start()
        go_on.touch()
        await until(lambda: not opened.under_way)
    assert server.begun == 1


async def test_a_server_that_stops_ends_the_command_and_does_not_begin_anew(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    server = Server()
    async with updates(server, python(f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(60)")) as opened:
        opened.start()
        await until(begun.exists)
        async with asyncio.timeout(20):
            await opened.stop()
        assert not opened.under_way
    assert server.begun == 0


async def test_a_command_that_succeeds_after_all_while_the_server_stops_begins_nothing(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0));"
        f"pathlib.Path({str(begun)!r}).touch(); time.sleep(60)"
    )
    server = Server()
    async with updates(server, python(code)) as opened:
        opened.start()
        await until(begun.exists)
    assert server.begun == 0


@pytest.mark.parametrize("command", [None, "", "   "])
async def test_without_a_command_nothing_is_run(command: str | None) -> None:
    async with updates(Server(), command) as opened:
        with pytest.raises(NotAvailable, match="SDAPI_UPDATE_COMMAND"):
            opened.start()


def test_a_command_whose_quotes_do_not_match_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="update_command"):
        Settings(_env_file=None, update_command="git commit -m 'oops")


async def test_nothing_is_run_where_the_server_could_not_begin_anew(tmp_path: Path) -> None:
    opened = Updates(command=python(f"open({str(tmp_path / 'run')!r}, 'w')"), timeout_s=10, restarts=Restarts())
    with pytest.raises(NotAvailable, match="sdapi serve"):
        opened.start()
    await opened.stop()
    assert not (tmp_path / "run").exists()
