"""Every setting, read from SDAPI_* variables and `.env`; the names carry their units."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator can choose. `.env.example` lists the same, with comments."""

    model_config = SettingsConfigDict(
        env_prefix="SDAPI_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    host: str = Field(default="127.0.0.1", validation_alias=AliasChoices("HOST", "SDAPI_HOST"))
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535, validation_alias=AliasChoices("PORT", "SDAPI_PORT"))
    forwarded_allow_ips: str = Field(default="127.0.0.1", validation_alias=AliasChoices("FORWARDED_ALLOW_IPS", "SDAPI_FORWARDED_ALLOW_IPS"))
    """Reverse proxies whose X-Forwarded-* headers count, separated by commas; * for all."""

    data_dir: Path = Path("data")
    """Database and pictures live here."""
    models_dir: Path = Path("models")
    database_url: str | None = None
    """SQLAlchemy async URL; None is SQLite at <data_dir>/sdapi.sqlite3."""
    database_pool_size: int = Field(default=10, ge=1, le=200)

    api_key: SecretStr | None = None
    """A key that is valid besides those in the database."""
    fetch_requires_key: bool = False
    public_url: str | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("*",)

    sync_wait_s: float = Field(default=20.0, ge=0, le=600)
    max_body_bytes: int = Field(default=16 * 2**20, ge=2**16)
    max_side_px: int = Field(default=1024, ge=64, le=4096)
    max_queued_jobs: int = Field(default=1000, ge=1)
    max_image_bytes: int = Field(default=12 * 2**20, ge=2**10)
    max_image_pixels: int = Field(default=16_000_000, ge=4096)
    image_timeout_s: float = Field(default=15.0, gt=0)
    allow_private_urls: bool = False
    """Whether input images may come from loopback and private addresses."""

    default_model: str = "demo"
    model_aliases: dict[str, str] = Field(default_factory=dict)
    """Other names for checkpoints, as JSON: {"midjourney": "demo"}. The name "*" catches every unknown id."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    torch_threads: int = Field(default=0, ge=0)
    """CPU threads for drawing; 0 leaves it to torch."""
    max_rows: int = Field(default=16, ge=1, le=256)
    """Pictures that may share one forward; twice as many are kept in flight."""
    model_cache_bytes: int = Field(default=8 * 2**30, ge=0)
    """Models kept in memory; the least recently used goes first."""

    heartbeat_s: float = Field(default=2.0, gt=0)
    stale_after_s: float = Field(default=15.0, gt=0)
    """A running job without a heartbeat for so long goes back to the queue."""
    max_attempts: int = Field(default=3, ge=1)
    stop_grace_s: float = Field(default=20.0, ge=0)
    """How long running pictures may take to finish on SIGTERM."""
    retention_days: float = Field(default=7.0, gt=0)
    png_metadata: bool = True
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @property
    def sqlalchemy_url(self) -> str:
        """The database's URL with its async driver."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'sdapi.sqlite3'}"
