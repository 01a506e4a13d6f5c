"""Where a model comes from: what a client wrote, read into one of three kinds of source, and the hosts that may be asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from urllib.parse import quote

import httpx

from sdapi.catalog.weights import PICKLED_SUFFIXES, how_to_convert
from sdapi.domain.errors import InvalidRequest

from .download import FP16, FULL_PRECISION, NewDownload

FIELD = "url"
MAIN = "main"

_MAX_URL_CHARS = 2000
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}))?(?:/(?P<file>.+))?")
_PATH = re.compile(rf"(?:{_PART}/)*{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
_PAGES = frozenset({"resolve", "blob", "raw", "tree"})
_OTHER_SECTIONS = frozenset({"datasets", "spaces", "api", "docs", "collections", "models", "papers", "blog"})


@dataclass(frozen=True)
class DirectFile:
    """One file, by its URL."""

    url: str


@dataclass(frozen=True)
class HubFile:
    """One file of a hub repository."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class HubRepository:
    """A hub repository, of which what is needed is fetched."""

    repository: str
    revision: str


Source = DirectFile | HubFile | HubRepository


class AllowedHosts:
    """Which URLs models may be fetched from. `patterns` are hosts, with `*.example.org` for everything below example.org."""

    def __init__(self, patterns: tuple[str, ...], *, hub_url: str, allow_http: bool) -> None:
        hub_host = httpx.URL(hub_url).host
        self._patterns = tuple(dict.fromkeys((hub_host.lower(), *(pattern.strip().lower() for pattern in patterns))))
        self._allow_http = allow_http

    def problem(self, url: httpx.URL) -> str | None:
        """Why this URL may not be asked, as the end of a sentence; None when it may."""
        if url.scheme != "https" and not (self._allow_http and url.scheme == "http"):
            return "is not an https URL"
        if not url.host or url.userinfo:
            return "is not a plain URL"
        host = url.host.lower().rstrip(".")
        if not any(fnmatchcase(host, pattern) for pattern in self._patterns):
            return f"is on the host {host[:100]}, from which models may not be fetched; allowed are {', '.join(self._patterns)}"
        return None


def parse_source(new: NewDownload, *, hub_url: str, hosts: AllowedHosts) -> Source:
    """What `new.url` names. Raises InvalidRequest with a sentence for the client."""
    text = new.url.strip()
    if not text or len(text) > _MAX_URL_CHARS or not text.isprintable():
        raise InvalidRequest.of(FIELD, f"The {FIELD} must be the URL of a model, or org/name of one on the hub.")
    if "://" in text:
        return _from_url(text, new, hub_url, hosts)
    if (found := _REPOSITORY.fullmatch(text)) is None:
        raise InvalidRequest.of(FIELD, f"The {FIELD} must be an https URL, or org/name of a model on the hub.")
    return _hub(found["repository"], found["revision"] or _branch(new), found["file"])


def _from_url(text: str, new: NewDownload, hub_url: str, hosts: AllowedHosts) -> Source:
    try:
        url = httpx.URL(text)
        problem = hosts.problem(url)
    except (httpx.InvalidURL, UnicodeError, ValueError) as malformed:
        raise InvalidRequest.of(FIELD, f"The {FIELD} is not a URL.") from malformed
    if problem is not None:
        raise InvalidRequest.of(FIELD, f"The {FIELD} {problem}.")
    hub = httpx.URL(hub_url)
    base = hub.path.rstrip("/") + "/"
    if (url.scheme, url.host, url.port) == (hub.scheme, hub.host, hub.port) and url.path.startswith(base):
        return _from_page(url.path.removeprefix(base), new)
    _refuse_pickle(PurePosixPath(url.path).name)
    return DirectFile(str(url.copy_with(fragment=None)))


def _from_page(path: str, new: NewDownload) -> Source:
    """`org/name`, `org/name/tree/revision` or `org/name/resolve/revision/file`, as the hub's pages are called."""
    parts = [part for part in path.split("/") if part]
    if len(parts) < 2 or parts[0] in _OTHER_SECTIONS:
        raise InvalidRequest.of(FIELD, f"The {FIELD} is not the page of a model on the hub.")
    repository, page, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
    if not page:
        return _hub(repository, _branch(new), None)
    if page[0] not in _PAGES or not rest:
        raise InvalidRequest.of(FIELD, f"The {FIELD} is not the page of a model on the hub.")
    return _hub(repository, rest[0], "/".join(rest[1:]) or None)


def _hub(repository: str, revision: str, file: str | None) -> Source:
    names = [*repository.split("/"), *(file or "x").split("/")]
    fits = _PATH.fullmatch(repository) and _PATH.fullmatch(file or "x") and _REVISION.fullmatch(revision)
    if not fits or any(".." in name for name in (*names, revision)):
        raise InvalidRequest.of(FIELD, f"The {FIELD} names no model on the hub.")
    if file is None:
        return HubRepository(repository, revision)
    _refuse_pickle(PurePosixPath(file).name)
    if not file.lower().endswith(".safetensors"):
        raise InvalidRequest.of(FIELD, f"The {FIELD} must name a .safetensors file, or a whole repository.")
    return HubFile(repository, revision, file)


def _branch(new: NewDownload) -> str:
    return MAIN if new.revision in (FP16, *FULL_PRECISION) else new.revision


def _refuse_pickle(name: str) -> None:
    if PurePosixPath(name).suffix.lower() in PICKLED_SUFFIXES:
        raise InvalidRequest.of(FIELD, how_to_convert(name))


def hub_file_url(hub_url: str, repository: str, revision: str, file: str) -> str:
    """Where the hub serves a file."""
    return f"{hub_url.rstrip('/')}/{repository}/resolve/{quote(revision, safe='')}/{quote(file)}"
