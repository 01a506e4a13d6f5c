"""Database URLs, engines and sessions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin
from sqlalchemy.pool import ConnectionPoolEntry

_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
_BUSY_TIMEOUT_S = 15.0


def async_url(url: str) -> URL:
    """`url` with its async driver, as operators write it: `postgres://`, `postgresql://...?sslmode=require` and `sqlite:///` will do.

    Raises ValueError where it names another database, and sqlalchemy.exc.ArgumentError where it is no URL.
    """
    parsed = make_url(url)
    backend = parsed.drivername.partition("+")[0]
    if backend not in _ASYNC_DRIVERS:
        raise ValueError(f"a database of the kind {backend!r} is not supported: use sqlite or postgresql")
    parsed = parsed.set(drivername=_ASYNC_DRIVERS[backend])
    if backend == "sqlite":
        return parsed
    # asyncpg calls "ssl" what libpq, and so every hosted database's URL, calls "sslmode".
    sslmode = parsed.query.get("sslmode")
    return parsed if sslmode is None else parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": sslmode})


def sqlite_path(url: URL) -> Path | None:
    """The file of a SQLite URL; None for PostgreSQL."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def create_sqlite_folder(path: Path) -> None:
    """Make the database's folder, for this user alone, unless it is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def prepare_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry | None = None) -> None:  # noqa: ARG001
    """Set up a new SQLite connection: WAL, patience for other writers, and no BEGIN but ours."""
    # Otherwise the driver begins before the first INSERT, too late to take the write lock before a read.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT_S * 1000)}")
    _switch_to_wal(connection)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _switch_to_wal(connection: DBAPIConnection) -> None:
    """Turn on write-ahead logging. The file remembers it, so only the first connection ever has something to do."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        cursor = connection.cursor()
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            # "database is locked": two first connections at once, and this switch does not honour busy_timeout.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
        finally:
            cursor.close()


def _enforce_foreign_keys(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:  # noqa: ARG001
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


class _SqliteSession(Session):
    """Begins SQLite transactions itself; see `open_database`."""


def _begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:  # noqa: ARG001
    if transaction.nested:
        return
    # A transaction that reads and then writes fails with "database is locked", whatever the timeout, when another wrote in between.
    # So the ones that may write take the lock at once; those that only read never wait.
    writes = transaction.origin is SessionTransactionOrigin.BEGIN
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@asynccontextmanager
async def open_database(url: str, *, pool_size: int) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Sessions on the database of `url`, at most `pool_size` at once; its connections are closed on exit.

    Write in `async with sessions.begin() as session`. A session that begins by itself (`async with sessions() as session`) is for
    reading: on SQLite it takes no lock, and must not write after it has read. In-memory SQLite is not supported.
    """
    target = async_url(url)
    file = sqlite_path(target)
    if file is None:
        # Ping before use, so that a restart of the database costs no request.
        engine = create_async_engine(target, pool_size=pool_size, max_overflow=0, pool_pre_ping=True)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
    else:
        create_sqlite_folder(file)
        engine = create_async_engine(target, pool_size=pool_size, max_overflow=0)
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
        event.listen(engine.sync_engine, "connect", _enforce_foreign_keys)
        if not event.contains(_SqliteSession, "after_begin", _begin):
            event.listen(_SqliteSession, "after_begin", _begin)
        sessions = async_sessionmaker(engine, expire_on_commit=False, sync_session_class=_SqliteSession)
    try:
        yield sessions
    finally:
        await engine.dispose()
