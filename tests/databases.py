"""Fixtures: real databases, SQLite and PostgreSQL, a fresh one for each test."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from sdapi.db.migrations import upgrade
from sdapi.db.session import open_database
from sdapi.db.tables import Base

if TYPE_CHECKING:
    from pgserver import PostgresServer


_MIGRATED = "migrated"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of our own, on a Unix socket, started when the first test needs it."""
    import fasteners
    import pgserver

    # Not in pytest's folder: pgserver makes every folder above its own passable, for the user the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="sdapi-postgresql-"))
    # Whoever starts one as root for the first time makes the user it runs as, which two processes must not do at once.
    with fasteners.InterProcessLock(Path(tempfile.gettempdir()) / "sdapi-postgresql.lock"):
        server = pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        # Its data need not survive a power cut, and without waiting for the disk, databases come and go many times faster.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            server.psql(f"ALTER SYSTEM SET {setting} = off;")
        server.psql("SELECT pg_reload_conf();")
        server.psql(f"CREATE DATABASE {_MIGRATED};")
        asyncio.run(upgrade(_url(server, _MIGRATED)))
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def empty_postgresql_url(postgresql_server: PostgresServer) -> AsyncIterator[str]:
    """URL of an empty PostgreSQL database, dropped after the test."""
    name = f"test_{uuid4().hex}"
    await _execute(postgresql_server, "postgres", f"CREATE DATABASE {name}")
    yield _url(postgresql_server, name)
    await _execute(postgresql_server, "postgres", f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def postgresql_url(postgresql_server: PostgresServer) -> str:
    """URL of a migrated PostgreSQL database without rows. It is one and the same, emptied: a new one takes 0.3 s."""
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    tables = ", ".join(Base.metadata.tables)
    await _execute(postgresql_server, _MIGRATED, others, f"TRUNCATE {tables} RESTART IDENTITY")
    return _url(postgresql_server, _MIGRATED)


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite database that does not exist yet, in a folder that does not either."""
    return f"sqlite+aiosqlite:///{tmp_path / 'database' / 'sdapi.sqlite3'}"


@pytest.fixture
async def sqlite_url(empty_sqlite_url: str) -> str:
    """URL of a migrated SQLite database without rows."""
    await upgrade(empty_sqlite_url)
    return empty_sqlite_url


@pytest.fixture(params=["empty_sqlite_url", "empty_postgresql_url"], ids=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """URL of a database without a schema; the test runs once on each kind."""
    url = request.getfixturevalue(request.param)
    assert isinstance(url, str)
    return url


@pytest.fixture(params=["sqlite_url", "postgresql_url"], ids=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated database without rows; the test runs once on each kind."""
    url = request.getfixturevalue(request.param)
    assert isinstance(url, str)
    return url


@pytest.fixture
async def sessions(database_url: str) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Sessions on a migrated database; the test runs once on each kind."""
    async with open_database(database_url, pool_size=5) as opened:
        yield opened


async def _execute(server: PostgresServer, database: str, *statements: str) -> None:
    engine = create_async_engine(_url(server, database), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)
    await engine.dispose()


def _url(server: PostgresServer, database: str) -> str:
    return make_url(server.get_uri(database=database)).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
