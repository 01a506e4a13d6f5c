"""The tables, typed and without behaviour."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum as PythonEnum
from typing import Any, ClassVar, Literal

from pydantic import JsonValue
from sqlalchemy import JSON, DateTime, Dialect, Enum, ForeignKey, Index, MetaData, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sdapi.domain.job import DialectName, JobStatus

KeyRole = Literal["user", "enterprise"]
"""What an API key may do: draw, or also manage the server through the enterprise dialect."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware going in, aware and in UTC coming out, on SQLite too, which stores no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """See TypeDecorator. Raises ValueError for a moment without a time zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """See TypeDecorator."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _values(members: type[PythonEnum]) -> list[str]:
    return [str(member.value) for member in members]


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can change it on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Enums are plain strings in the database: a new member (a new dialect) needs no migration.
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        PythonEnum: Enum(PythonEnum, native_enum=False, length=16, values_callable=_values),
        KeyRole: String(16),
        dict[str, JsonValue]: JSON(),
        list[str]: JSON(),
    }


class JobRow(Base):
    """One job; see `sdapi.domain.job.Job`. The table is the queue, too."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "status", "client_id", "created_at"),  # the queue, per client
        Index(None, "status", "finished_at"),  # the last finished ones
        Index(None, "client_id", "started_at"),  # when a client was served last
        Index(None, "client_id", "created_at"),  # a client's own list
        Index(None, "files_removed", "finished_at"),  # retention
    )

    # Random, not counted: clients must not be able to guess each other's jobs.
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client_id: Mapped[int]
    """Not a foreign key: the key from the settings has no row (it is 0)."""
    dialect: Mapped[DialectName]
    request: Mapped[str] = mapped_column(Text)
    """JSON, by GENERATION_JSON."""
    echo: Mapped[dict[str, JsonValue]]
    status: Mapped[JobStatus]
    cost: Mapped[float]
    output_names: Mapped[list[str]]
    public_url: Mapped[str] = mapped_column(Text)
    attempts: Mapped[int]
    cancel_requested: Mapped[bool]
    worker: Mapped[str | None] = mapped_column(String(128))
    """Who runs it, or ran it last."""
    heartbeat_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    generation_time_s: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)
    files_removed: Mapped[bool]


class JobOutputRow(Base):
    """Which job promised the picture of a storage name."""

    __tablename__ = "job_outputs"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey(JobRow.id, ondelete="CASCADE"), index=True)


class ApiKeyRow(Base):
    """One API key. Only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[KeyRole]
    prefix: Mapped[str] = mapped_column(String(8))
    """The first characters of the key, to recognise it by."""
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256, in hex. A key has 256 random bits, so it needs no salt and no slow hash."""
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
