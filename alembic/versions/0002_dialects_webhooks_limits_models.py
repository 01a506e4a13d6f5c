"""webhooks, limits per key, idempotency keys, temporary files, model downloads, uploads, buckets

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("webhook_url", sa.Text(), nullable=True))
        jobs.add_column(sa.Column("is_temporary", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("idempotency_key", sa.String(length=200), nullable=True))
        jobs.add_column(sa.Column("files_url", sa.Text(), nullable=True))
    with op.batch_alter_table("jobs") as jobs:
        jobs.alter_column("is_temporary", server_default=None)
        jobs.create_unique_constraint(op.f("uq_jobs_client_id_idempotency_key"), ["client_id", "idempotency_key"])
        jobs.drop_index(op.f("ix_jobs_files_removed_finished_at"))
        jobs.create_index(op.f("ix_jobs_files_removed_is_temporary_finished_at"), ["files_removed", "is_temporary", "finished_at"])
    with op.batch_alter_table("api_keys") as keys:
        keys.add_column(sa.Column("max_queued_jobs", sa.Integer(), nullable=True))
        keys.add_column(sa.Column("requests_per_minute", sa.Integer(), nullable=True))
        keys.add_column(sa.Column("daily_pictures", sa.Integer(), nullable=True))
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_try_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_job_id"), "webhooks", ["job_id"])
    op.create_index(op.f("ix_webhooks_next_try_at"), "webhooks", ["next_try_at"])
    op.create_table(
        "rate_windows",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_rate_windows")),
    )
    op.create_index(op.f("ix_rate_windows_expires_at"), "rate_windows", ["expires_at"])
    op.create_table(
        "model_downloads",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("model_id", sa.String(length=200), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("webhook_url", sa.Text(), nullable=True),
        sa.Column("worker", sa.String(length=128), nullable=True),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_downloads")),
    )
    op.create_index(op.f("ix_model_downloads_model_id"), "model_downloads", ["model_id"])
    op.create_index(op.f("ix_model_downloads_status"), "model_downloads", ["status"])
    unfinished = sa.text("status IN ('queued', 'running')")
    op.create_index(
        "uq_model_downloads_unfinished",
        "model_downloads",
        ["kind", "model_id"],
        unique=True,
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("client_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.UniqueConstraint("name", name=op.f("uq_uploads_name")),
    )
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"])
    op.create_table(
        "storage_targets",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("bucket", sa.Text(), nullable=False),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("endpoint_url", sa.Text(), nullable=False),
        sa.Column("region_name", sa.Text(), nullable=False),
        sa.Column("public_url", sa.Text(), nullable=False),
        sa.Column("encrypted_credentials", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_storage_targets")),
    )


def downgrade() -> None:
    for table in ("storage_targets", "uploads", "model_downloads", "rate_windows", "webhooks"):
        op.drop_table(table)
    with op.batch_alter_table("api_keys") as keys:
        for column in ("daily_pictures", "requests_per_minute", "max_queued_jobs"):
            keys.drop_column(column)
    with op.batch_alter_table("jobs") as jobs:
        jobs.drop_index(op.f("ix_jobs_files_removed_is_temporary_finished_at"))
        jobs.create_index(op.f("ix_jobs_files_removed_finished_at"), ["files_removed", "finished_at"])
        jobs.drop_constraint(op.f("uq_jobs_client_id_idempotency_key"), type_="unique")
    with op.batch_alter_table("jobs") as jobs:
        for column in ("files_url", "idempotency_key", "is_temporary", "webhook_url"):
            jobs.drop_column(column)
