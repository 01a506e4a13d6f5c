from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text

from sdapi.db.migrations import current_and_head, migrate, migrating, upgrade
from sdapi.db.session import async_url, open_database, sqlite_path
from sdapi.db.tables import Base


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {"alembic_version"}


def _differences(connection: Connection) -> Any:
    return compare_metadata(MigrationContext.configure(connection), Base.metadata)


async def test_migrations_go_up_and_down_and_up_again(empty_database_url: str) -> None:
    async with migrating(empty_database_url) as connection:
        await connection.run_sync(migrate, "up", "head")
        assert await connection.run_sync(_tables) == set(Base.metadata.tables)
        await connection.run_sync(migrate, "down", "base")
        assert await connection.run_sync(_tables) == set()
        await connection.run_sync(migrate, "up", "head")
        assert await connection.run_sync(_tables) == set(Base.metadata.tables)


async def test_the_migrated_schema_is_the_one_of_the_tables(empty_database_url: str) -> None:
    await upgrade(empty_database_url)

    async with migrating(empty_database_url) as connection:
        assert await connection.run_sync(_differences) == []


async def test_two_upgrades_at_once_in_one_process_both_succeed(empty_database_url: str) -> None:
    await asyncio.gather(upgrade(empty_database_url), upgrade(empty_database_url))

    current, head = await current_and_head(empty_database_url)
    assert current == head


async def test_three_processes_may_upgrade_at_once(empty_database_url: str) -> None:
    script = f"import asyncio; from sdapi.db.migrations import upgrade; asyncio.run(upgrade({empty_database_url!r}))"
    starts = [asyncio.create_subprocess_exec(sys.executable, "-c", script, stderr=subprocess.PIPE) for _ in range(3)]
    processes = await asyncio.gather(*starts)
    results = await asyncio.gather(*(process.communicate() for process in processes))

    assert [(process.returncode, stderr) for process, (_, stderr) in zip(processes, results, strict=True)] == [(0, b"")] * 3


async def test_the_doctor_sees_a_missing_schema_without_creating_anything(empty_database_url: str) -> None:
    current, head = await current_and_head(empty_database_url)

    assert current is None
    assert head is not None
    path = sqlite_path(async_url(empty_database_url))
    assert path is None or not path.parent.exists()


async def test_a_failed_upgrade_leaves_nothing_behind(empty_database_url: str) -> None:
    async def interrupted() -> None:
        async with migrating(empty_database_url) as connection:
            await connection.run_sync(migrate, "up", "head")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        await interrupted()

    assert (await current_and_head(empty_database_url))[0] is None


async def test_a_database_of_a_later_version_is_refused(empty_database_url: str) -> None:
    await upgrade(empty_database_url)
    async with migrating(empty_database_url) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(CommandError, match="9999"):
        await upgrade(empty_database_url)


async def test_the_sqlite_folder_is_for_its_user_alone(empty_sqlite_url: str, tmp_path: Path) -> None:
    await upgrade(empty_sqlite_url)

    assert stat.S_IMODE((tmp_path / "database").stat().st_mode) == 0o700


async def test_sqlite_runs_with_write_ahead_log_and_foreign_keys(empty_sqlite_url: str) -> None:
    async with open_database(empty_sqlite_url, pool_size=1) as sessions, sessions() as session:
        pragmas = [await session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "foreign_keys", "synchronous")]

    assert pragmas == ["wal", 1, 1]


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("postgres://u:p%40w@db/sd", "postgresql+asyncpg://u:p%40w@db/sd"),
        ("postgresql://u@db/sd?sslmode=require", "postgresql+asyncpg://u@db/sd?ssl=require"),
        ("postgresql+psycopg://db/sd", "postgresql+asyncpg://db/sd"),
        ("sqlite:///data/x.sqlite3", "sqlite+aiosqlite:///data/x.sqlite3"),
    ],
)
def test_urls_are_understood_as_operators_write_them(written: str, understood: str) -> None:
    assert async_url(written).render_as_string(hide_password=False) == understood


def test_a_database_of_another_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="mysql"):
        async_url("mysql://db/sd")
