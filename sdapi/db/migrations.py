"""Bringing a database's schema up to date."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from .session import async_url, create_sqlite_folder, prepare_sqlite, sqlite_path

_ADVISORY_LOCK = 0x5DA9_0001
"""Arbitrary, but the same in every process that migrates."""


def scripts_folder() -> Path:
    """Where the migration scripts are: in the installed package, else in the checkout."""
    package = Path(__file__).parent.parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "alembic"


@asynccontextmanager
async def migrating(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that no other process migrates beside; committed on exit.

    SQLite's foreign keys are off in it: to change a table, alembic copies it and drops the old one, which would take along every row
    that refers to it.
    """
    target = async_url(url)
    file = sqlite_path(target)
    engine = create_async_engine(target, poolclass=NullPool)
    if file is not None:
        create_sqlite_folder(file)
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
    try:
        async with engine.begin() as connection:
            if file is not None:
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            yield connection
    finally:
        await engine.dispose()


async def upgrade(url: str) -> None:
    """Create or upgrade the schema, all of it or nothing. Any number of processes may do so at once.

    Raises alembic.util.CommandError where the database was made by a later version of this program.
    """
    async with migrating(url) as connection:
        await connection.run_sync(migrate, "up", "head")


def migrate(connection: Connection, direction: Literal["up", "down"], revision: str) -> None:
    """Run the scripts from where the database is to `revision` ("head" and "base" are the two ends)."""
    config = _config()
    config.attributes["connection"] = connection
    if direction == "up":
        command.upgrade(config, revision)
    else:
        command.downgrade(config, revision)


async def current_and_head(url: str) -> tuple[str | None, str | None]:
    """The revision the database is at (None: no schema yet) and the one this program needs. Changes nothing."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    target = async_url(url)
    file = sqlite_path(target)
    if file is not None and not file.exists():
        return None, head  # connecting would create the file
    engine = create_async_engine(target, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision()), head
    finally:
        await engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    return config
