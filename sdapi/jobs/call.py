"""A call that asks for a job, as the queue sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdapi.api_keys import ApiKey
from sdapi.domain.job import DialectName


@dataclass(frozen=True, kw_only=True)
class Call:
    """Who asks, in which words, and what came on the wire."""

    client: ApiKey
    dialect: DialectName
    public_url: str
    """Base of the links in answers, without a trailing slash."""
    path: str = ""
    body: Mapping[str, object]
    """What came, for recognising a request that is repeated again and again."""
    idempotency_key: str | None = None
    """A second call of the same client with this key joins the first one's job."""
