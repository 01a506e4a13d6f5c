"""The tables, typed and without behaviour."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum as PythonEnum
from typing import Any, ClassVar, Literal

from pydantic import JsonValue
from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sdapi.domain.job import JobStatus

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
    # Enums are plain strings in the database: a new member needs no migration.
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
        Index(None, "files_removed", "is_temporary", "finished_at"),  # retention
        UniqueConstraint("client_id", "idempotency_key"),
    )

    # Random, not counted: clients must not be able to guess each other's jobs.
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client_id: Mapped[int]
    """Not a foreign key: the key from the settings has no row (it is 0)."""
    dialect: Mapped[str] = mapped_column(String(16))
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
    webhook_url: Mapped[str | None] = mapped_column(Text)
    is_temporary: Mapped[bool]
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    files_url: Mapped[str | None] = mapped_column(Text)
    is_unsafe: Mapped[bool | None]


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
    max_queued_jobs: Mapped[int | None]
    """Requests that may wait at once; None is the setting's default, 0 no limit. The same for the next two."""
    requests_per_minute: Mapped[int | None]
    daily_pictures: Mapped[int | None]


class WebhookRow(Base):
    """One call to make, written in the transaction that gave the reason for it: the outbox."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    """A UUID; the same at every try."""
    job_id: Mapped[int | None] = mapped_column(index=True)
    url: Mapped[str] = mapped_column(Text)
    host: Mapped[str] = mapped_column(String(255))
    """The URL's, in lower case: deliveries take turns by it."""
    body: Mapped[str] = mapped_column(Text)
    """JSON, exactly as it is sent and signed."""
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    next_try_at: Mapped[datetime | None] = mapped_column(index=True)
    """Also the end of the lease of whoever is trying now; None: delivered or given up."""
    delivered_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)


class RateWindowRow(Base):
    """How often something happened in one window of time; see `sdapi.quotas`."""

    __tablename__ = "rate_windows"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    count: Mapped[int]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class ModelDownloadRow(Base):
    """One model being fetched into the models folder, or fetched."""

    __tablename__ = "model_downloads"
    __table_args__ = (
        # Two downloads of one model at once would write the same files.
        Index(
            "uq_model_downloads_unfinished",
            "kind",
            "model_id",
            unique=True,
            sqlite_where=text("status IN ('queued', 'running')"),
            postgresql_where=text("status IN ('queued', 'running')"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    model_id: Mapped[str] = mapped_column(String(200), index=True)
    url: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, JsonValue]]
    status: Mapped[str] = mapped_column(String(16), index=True)
    """queued, running, installed or failed."""
    attempts: Mapped[int]
    bytes_done: Mapped[int] = mapped_column(BigInteger)
    bytes_total: Mapped[int | None] = mapped_column(BigInteger)
    sha256: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    webhook_url: Mapped[str | None] = mapped_column(Text)
    worker: Mapped[str | None] = mapped_column(String(128))
    heartbeat_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class UploadRow(Base):
    """A picture a client has put here."""

    __tablename__ = "uploads"

    # Random, not counted, and never a job's: clients delete uploads and jobs by the same field.
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client_id: Mapped[int]
    name: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class StorageTargetRow(Base):
    """The bucket that `update_s3` has set (id 1), and those it has replaced, whose pictures may still be wanted."""

    __tablename__ = "storage_targets"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bucket: Mapped[str] = mapped_column(Text)
    directory: Mapped[str] = mapped_column(Text)
    endpoint_url: Mapped[str] = mapped_column(Text)
    region_name: Mapped[str] = mapped_column(Text)
    public_url: Mapped[str] = mapped_column(Text)
    encrypted_credentials: Mapped[str] = mapped_column(Text)
    updated_at: Mapped[datetime]
