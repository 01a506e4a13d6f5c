"""How alembic reaches the database: by the connection it was handed, else by the settings."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection, Enum

from sdapi.db.migrations import migrating
from sdapi.db.session import async_url
from sdapi.db.tables import Base, UtcDateTime
from sdapi.settings import Settings


def render_item(kind: str, item: Any, _autogenerate: Any) -> str | Literal[False]:
    """Write plain column types into scripts: a script must not change when the package does."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Enum):
        return f"sa.String(length={item.length})"
    return False


def run(connection: Connection) -> None:
    # SQLite can't alter a column in place; batch mode copies the table instead.
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_item=render_item,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_with_own_connection() -> None:
    async with migrating(Settings().sqlalchemy_url) as connection:
        await connection.run_sync(run)


def print_sql() -> None:
    url = async_url(Settings().sqlalchemy_url)
    context.configure(url=url.render_as_string(hide_password=False), target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


handed: Connection | None = context.config.attributes.get("connection")
if handed is not None:
    run(handed)
elif context.is_offline_mode():
    print_sql()
else:
    asyncio.run(run_with_own_connection())
