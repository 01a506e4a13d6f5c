"""How a receiver knows that a webhook is from this server."""

from __future__ import annotations

import hashlib
import hmac


def secret_text(configured: str | None, derived: bytes) -> str:
    """What receivers verify with: the operator's own secret, else the server's (`derived`) as hex digits.

    The HMAC key is this text in UTF-8, not what it may stand for: a receiver uses what it was given, as it was given.
    """
    return configured or derived.hex()


def sign(secret: bytes, body: bytes) -> str:
    """The value of X-SDAPI-Signature for exactly these bytes."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()
