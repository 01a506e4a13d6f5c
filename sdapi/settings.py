"""Every setting, read from SDAPI_* variables and `.env`; the names carry their units."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from sdapi.domain.enhancing import EnhanceWith
from sdapi.domain.limits import LARGEST_LIMIT
from sdapi.domain.quantization import Quantize
from sdapi.domain.safety import SafetyMode


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

    s3_bucket: str | None = None
    """Where new pictures go; None keeps them in <data_dir>/images."""
    s3_endpoint_url: str | None = None
    """None is Amazon's for the region."""
    s3_region: str | None = None
    """None is what the endpoint tells, else us-east-1."""
    s3_access_key_id: str | None = None
    """None is the machine's own role. The same for the next one."""
    s3_secret_access_key: SecretStr | None = None
    s3_public_url: str | None = None
    """Where everybody can read the bucket; None gives signed links."""
    s3_directory: str | None = None
    s3_link_lifetime_s: int = Field(default=3600, ge=60, le=7 * 24 * 3600)
    """Of signed links; seven days is the most that the signature allows."""

    api_key: SecretStr | None = None
    """A key that is valid besides those in the database."""
    secret_key: SecretStr | None = Field(default=None, min_length=16)
    """What keys for sealing and signing are derived from; None is a random one in <data_dir>/secret.key."""
    webhook_secret: SecretStr | None = None
    """What webhooks are signed with; None derives it from the server's secret."""
    fetch_requires_key: bool = False
    public_url: str | None = None
    error_status: Literal["hosted", "standard"] = "hosted"
    """Whether errors of v3, v4, v5 and enterprise come with status 200, as the hosted service sent them, or with HTTP's own codes."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("*",)

    sync_wait_s: float = Field(default=20.0, ge=0, le=600)
    max_body_bytes: int = Field(default=16 * 2**20, ge=2**16)
    max_side_px: int = Field(default=1024, ge=64, le=4096)
    max_queued_jobs: int = Field(default=1000, ge=1)
    key_max_queued_jobs: int = Field(default=0, ge=0, le=LARGEST_LIMIT)
    """For keys without a limit of their own; 0 is no limit. The same for the next two."""
    key_requests_per_minute: int = Field(default=0, ge=0, le=LARGEST_LIMIT)
    key_daily_pictures: int = Field(default=0, ge=0, le=LARGEST_LIMIT)
    repeats_per_30_s: int = Field(default=20, ge=0, le=LARGEST_LIMIT)
    """How often one key may send the same request in that time; 0 is no limit."""
    max_image_bytes: int = Field(default=12 * 2**20, ge=2**10)
    max_image_pixels: int = Field(default=16_000_000, ge=4096)
    image_timeout_s: float = Field(default=15.0, gt=0)
    allow_private_urls: bool = False
    """Whether input images may come from loopback and private addresses, and webhooks go there."""

    default_model: str = "demo"
    model_aliases: dict[str, str] = Field(default_factory=dict)
    """Other names for checkpoints, as JSON: {"midjourney": "demo"}. The name "*" catches every unknown id."""
    hub_url: str = "https://huggingface.co"
    """Where models named org/name are fetched from."""
    model_hosts: Annotated[tuple[str, ...], NoDecode] = ("huggingface.co", "*.huggingface.co", "*.hf.co", "civitai.com", "*.civitai.com")
    """Hosts that models may be fetched from, besides the hub's; "*.example.org" for all below example.org."""
    model_download_max_bytes: int = Field(default=20 * 2**30, ge=2**10)
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    torch_threads: int = Field(default=0, ge=0)
    """CPU threads for drawing; 0 leaves it to torch."""
    max_rows: int = Field(default=16, ge=1, le=256)
    """Pictures that may share one forward; twice as many are kept in flight."""
    compile: bool | Literal["auto"] = "auto"
    """Whether forwards of sizes that come often are compiled, which takes half a minute of a core or more for each and a C++ compiler.

    `auto`: on a CPU, of sizes that were drawn for minutes.
    """
    deterministic: bool = False
    """Whether a picture is the same to the bit whatever is drawn beside it; costs speed, most for lone pictures."""
    quantize: Quantize = "off"
    """In which eight bits the networks that draw are held: less memory, slower unless the device multiplies them. Needs torchao."""
    tomesd_by_default: bool = False
    """Whether tokens are merged for requests that say nothing of `tomesd`."""
    enhance_prompt: EnhanceWith = "model"
    """Whose words are appended for requests that ask for that; `stock` gives the hosted services' to models that have none."""
    safety: SafetyMode = "optional"
    """Whether drawn pictures are checked where a request asks for it and a checker is installed, always, or never."""
    model_cache_bytes: int = Field(default=8 * 2**30, ge=0)
    """Models kept in memory; the least recently used goes first."""
    host_cache_bytes: int = Field(default=-1, ge=-1)
    """Of the host's memory for models that have left a CUDA device; -1: a quarter of the machine's. None on a CPU, whatever it says."""
    unload_after_s: float = Field(default=0.0, ge=0)
    """Models nobody has used for so long leave memory; 0: they stay while there is room."""
    preload: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Checkpoints brought into memory after the start, in this order; `/readyz` answers 503 until that has ended. None: none."""

    heartbeat_s: float = Field(default=2.0, gt=0)
    stale_after_s: float = Field(default=15.0, gt=0)
    """A running job without a heartbeat for so long goes back to the queue."""
    max_attempts: int = Field(default=3, ge=1)
    stop_grace_s: float = Field(default=20.0, ge=0)
    """How long running pictures may take to finish on SIGTERM."""
    retention_days: float = Field(default=7.0, gt=0)
    update_command: str | None = None
    """What `update_server` runs before it restarts the server, as words of a shell without the shell; None refuses the call."""
    update_timeout_s: float = Field(default=1800.0, gt=0)
    png_metadata: bool = True
    """Whether pictures say how they were made: PNG files as text, JPEG and WebP files as EXIF."""
    log_format: Literal["auto", "json", "text"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("cors_origins", "model_hosts", "preload", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("update_command")
    @classmethod
    def _check_words(cls, value: str | None) -> str | None:
        shlex.split(value or "")  # raises ValueError where a quote isn't closed
        return value

    @property
    def sqlalchemy_url(self) -> str:
        """The database's URL with its async driver."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'sdapi.sqlite3'}"
