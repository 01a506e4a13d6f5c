"""What counts as the URL of a webhook. Where its host leads is looked at when something is sent, not before."""

from __future__ import annotations

import httpx

from sdapi.domain.errors import InvalidRequest

_MAX_LENGTH = 2048
_MAX_HOST_LENGTH = 253
_PORTS = range(1, 2**16)


def checked_url(field: str, url: str) -> str:
    """`url` without the blanks around it, when a webhook can be sent to it. Raises InvalidRequest about `field`."""
    url = url.strip()
    if len(url) > _MAX_LENGTH:
        raise InvalidRequest.of(field, f"The {field} is longer than {_MAX_LENGTH} characters.")
    # Spaces, control characters and lone surrogates: some would end in a header or break the database's text.
    if not url.isprintable() or " " in url:
        raise InvalidRequest.of(field, f"The {field} has characters that no URL has.")
    try:
        parsed, host = httpx.URL(url), host_of(url)
    except (httpx.InvalidURL, UnicodeError) as malformed:
        raise InvalidRequest.of(field, f"The {field} is not a URL.") from malformed
    if (
        parsed.scheme not in ("http", "https")
        or not 0 < len(host) <= _MAX_HOST_LENGTH
        or (parsed.port is not None and parsed.port not in _PORTS)
    ):
        raise InvalidRequest.of(field, f"The {field} is not an http or https URL.")
    if parsed.userinfo:
        raise InvalidRequest.of(field, f"The {field} must not carry a user name or password.")
    return url


def host_of(url: str) -> str:
    """The host in lower case and in its ASCII form, however it was spelt. Raises httpx.InvalidURL or UnicodeError."""
    parsed = httpx.URL(url)
    # Asked for in both forms, as sending does: httpx takes "http://xn--/" for a URL until it is.
    return parsed.raw_host.decode("ascii").lower().rstrip(".") if parsed.host else ""
