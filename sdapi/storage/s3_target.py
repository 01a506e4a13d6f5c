"""Which bucket, where and how to get in; and how to find that out from what clients and operators write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from sdapi.domain.errors import InvalidRequest

from .base import StorageError

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9-]{1,64}")
_DIRECTORY_SEGMENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")
_MAX_DIRECTORY = 255
_MAX_CREDENTIAL = 1024
_DEFAULT_REGION = "us-east-1"

# Hosts of known services: what comes before them names a bucket, where it can't be told from the host's own name otherwise.
_HOSTS = tuple(
    re.compile(rf"(?:(?P<bucket>[a-z0-9][a-z0-9._-]*)\.)?(?P<host>{host})")
    for host in (
        r"s3(?:-fips)?(?:\.dualstack)?(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?",
        r"s3\.(?P<region>[a-z0-9-]+)\.(?:wasabisys|backblazeb2|idrivee2)\.com",
        r"s3\.(?P<region>[a-z0-9-]+)\.scw\.cloud",
        r"[0-9a-f]{32}(?:\.[a-z]+)?\.r2\.cloudflarestorage\.com",
        r"(?P<region>[a-z]{3}[0-9])\.digitaloceanspaces\.com",
        r"(?P<region>[a-z]+(?:-[a-z]+)*-?[0-9]*)\.(?:linodeobjects|vultrobjects)\.com",
        r"storage\.googleapis\.com",
        r"oss-(?P<region>[a-z0-9-]+)\.aliyuncs\.com",
        r"cos\.(?P<region>[a-z0-9-]+)\.myqcloud\.com",
        r"s3[.-][a-z0-9.-]+",  # nobody known, named as they all are: s3.example.com
    )
)

WIRE_FIELDS: Mapping[str, str] = {
    "endpoint_url": "endpoint_url",
    "region_name": "region_name",
    "public_url": "public_url",
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "directory": "image_directory",
    "bucket": "bucket",
}
"""What `update_s3` calls the fields of S3Target."""

_SETTINGS: Mapping[str, str] = {
    "endpoint_url": "SDAPI_S3_ENDPOINT_URL",
    "region_name": "SDAPI_S3_REGION",
    "public_url": "SDAPI_S3_PUBLIC_URL",
    "access_key_id": "SDAPI_S3_ACCESS_KEY_ID",
    "secret_access_key": "SDAPI_S3_SECRET_ACCESS_KEY",
    "directory": "SDAPI_S3_DIRECTORY",
    "bucket": "SDAPI_S3_BUCKET",
}


@dataclass(frozen=True)
class S3Target:
    """One bucket, or a folder of it, and the way in. `target_of` and `configured_target` make valid ones."""

    bucket: str
    directory: str = ""
    """Folder inside the bucket, without slashes around it; empty is the bucket itself."""
    endpoint_url: str = ""
    """Base URL without the bucket and without a slash at the end; empty is Amazon's own for the region."""
    region_name: str = _DEFAULT_REGION
    public_url: str = ""
    """Where everybody can read the bucket, without the directory and without a slash at the end; empty where nobody can."""
    access_key_id: str = ""
    """Empty: the machine's own role."""
    secret_access_key: str = field(default="", repr=False)

    @property
    def public_base(self) -> str | None:
        """`{public_base}/{name}` is a picture's public URL; None where there is none."""
        if not self.public_url:
            return None
        return f"{self.public_url}/{self.directory}" if self.directory else self.public_url


def target_of(
    *,
    endpoint_url: str | None,
    region_name: str | None,
    public_url: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
    directory: str | None,
    bucket: str | None = None,
) -> S3Target:
    """The bucket that the fields of `update_s3` mean. They have none for its name, so it is looked for in the URLs.

    `bucket` wins where it is given; else `https://bucket.s3.region.amazonaws.com` and `https://host/bucket` are understood, in
    `endpoint_url` first and in `public_url` then. A URL without a scheme is taken as https. Raises InvalidRequest, which names the
    fields as clients spell them.
    """
    fields = _Fields(
        {
            "endpoint_url": endpoint_url,
            "region_name": region_name,
            "public_url": public_url,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "directory": directory,
            "bucket": bucket,
        },
        WIRE_FIELDS,
    )
    fields.require("endpoint_url", "access_key_id", "secret_access_key")
    return fields.target()


def configured_target(
    *,
    bucket: str,
    endpoint_url: str | None,
    region_name: str | None,
    public_url: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
    directory: str | None,
) -> S3Target:
    """The bucket of the settings. Without an endpoint it is Amazon's; without keys, the machine's own role opens it.

    Raises StorageError, which names the setting that is wrong.
    """
    fields = _Fields(
        {
            "endpoint_url": endpoint_url,
            "region_name": region_name,
            "public_url": public_url,
            "access_key_id": access_key_id,
            "secret_access_key": secret_access_key,
            "directory": directory,
            "bucket": bucket,
        },
        _SETTINGS,
    )
    try:
        fields.require("bucket")
        if access_key_id or secret_access_key:
            fields.require("access_key_id", "secret_access_key")
        return fields.target()
    except InvalidRequest as wrong:
        raise StorageError(str(wrong)) from wrong


class _Fields:
    """The fields as they came. `spelt` is what whoever wrote them calls each."""

    def __init__(self, values: Mapping[str, str | None], spelt: Mapping[str, str]) -> None:
        self._values = {name: (value or "").strip() for name, value in values.items()}
        self._spelt = spelt

    def require(self, *names: str) -> None:
        missing = [name for name in names if not self._values[name]]
        if missing:
            raise InvalidRequest({self._spelt[name]: [f"The {name.replace('_', ' ')} field is required."] for name in missing})

    def target(self) -> S3Target:
        endpoint = self._url("endpoint_url")
        public = self._url("public_url")
        named = self._values["bucket"]
        place = _place(endpoint, named) if endpoint else _Place(None, "", None)
        bucket = named or place.bucket or (_public_bucket(public, endpoint) if public and endpoint else None)
        if not bucket or (not named and urlsplit(place.endpoint_url).path):
            wanted = f"write it as https://bucket.host or https://host/bucket, or add {self._spelt['bucket']}"
            raise self._wrong("endpoint_url", f"The bucket can't be told from the endpoint url: {wanted}.")
        if not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise self._wrong("bucket" if named else "endpoint_url", f"{bucket[:80]!r} is not the name of a bucket.")
        region = self._region(place)
        return S3Target(
            bucket=bucket,
            directory=self._directory(),
            # Amazon's host without a region sends requests for other regions' buckets elsewhere.
            endpoint_url=f"https://s3.{region}.amazonaws.com" if place.endpoint_url == "https://s3.amazonaws.com" else place.endpoint_url,
            region_name=region,
            public_url=public.geturl() if public else "",
            access_key_id=self._credential("access_key_id"),
            secret_access_key=self._credential("secret_access_key"),
        )

    def _url(self, name: str) -> SplitResult | None:
        value = self._values[name]
        if not value:
            return None
        if not re.fullmatch(r"[\x21-\x7e]{1,2048}", value):  # urlsplit would overlook line breaks
            raise self._wrong(name, "This is not a URL.")
        try:
            url = urlsplit(value if "://" in value else f"https://{value}")
            if url.port == 0 or not url.hostname:
                raise ValueError("no host")
        except ValueError as malformed:
            raise self._wrong(name, "This is not a URL.") from malformed
        if url.scheme not in ("http", "https"):
            raise self._wrong(name, "The URL must begin with https:// or http://.")
        if url.username is not None or url.password is not None:
            raise self._wrong(name, "The URL must not contain a user or a password.")
        if re.search(r"[?#\"<>\\^`{|}]|/\.\.?(/|$)", value):
            raise self._wrong(name, "The URL must be plain: a host, and a path at most.")
        # The host in lower case, no slash at the end.
        return url._replace(netloc=url.netloc.lower(), path=url.path.rstrip("/"))

    def _region(self, place: _Place) -> str:
        region = self._values["region_name"] or place.region or _DEFAULT_REGION
        if not _REGION.fullmatch(region):
            raise self._wrong("region_name", "This is not the name of a region.")
        return region

    def _directory(self) -> str:
        directory = self._values["directory"].strip("/")
        if directory and (len(directory) > _MAX_DIRECTORY or not all(map(_DIRECTORY_SEGMENT.fullmatch, directory.split("/")))):
            raise self._wrong("directory", "A directory is made of letters, digits, `-`, `_` and `.`, with `/` between its parts.")
        return directory

    def _credential(self, name: str) -> str:
        value = self._values[name]
        # They become parts of HTTP headers.
        if len(value) > _MAX_CREDENTIAL or not re.fullmatch(r"[\x21-\x7e]*", value):
            raise self._wrong(name, "This is not a key.")
        return value

    def _wrong(self, name: str, sentence: str) -> InvalidRequest:
        return InvalidRequest.of(self._spelt[name], sentence)


@dataclass(frozen=True)
class _Place:
    """What an endpoint's URL tells."""

    bucket: str | None
    endpoint_url: str
    region: str | None


def _place(url: SplitResult, bucket: str) -> _Place:
    """`bucket` is the one that was named, or empty."""
    host = url.hostname or ""
    if bucket and host.startswith(f"{bucket.lower()}."):
        url = _with_host(url, host[len(bucket) + 1 :])
    found, bare, region = _known(url.hostname or "")
    if bucket:
        return _Place(bucket, f"{url.scheme}://{url.netloc}{url.path.removesuffix(f'/{bucket}')}", region)
    if found is not None:
        return _Place(found, f"{url.scheme}://{_with_host(url, bare).netloc}{url.path}", region)
    if url.path.count("/") == 1:
        return _Place(url.path[1:], f"{url.scheme}://{url.netloc}", region)
    return _Place(None, url.geturl(), region)


def _known(host: str) -> tuple[str | None, str, str | None]:
    """(bucket, host without it, region) of a host; all that can't be told is None."""
    for pattern in _HOSTS:
        if known := pattern.fullmatch(host):
            told = known.groupdict()
            region = told.get("region")
            if region is None and ("cloudflarestorage" in host or "googleapis" in host):
                region = "auto"
            return told["bucket"], told["host"], region
    return None, host, None


def _public_bucket(public: SplitResult, endpoint: SplitResult) -> str | None:
    """The bucket by its public URL, where that leads to the service itself and not to a proxy of whatever name."""
    host, first = public.hostname or "", public.path[1:].partition("/")[0]
    if host == endpoint.hostname:
        return first or None
    if endpoint.hostname and host.endswith(f".{endpoint.hostname}"):
        return host.removesuffix(f".{endpoint.hostname}")
    bucket, bare, _ = _known(host)
    return bucket or (first if bare != host or any(pattern.fullmatch(host) for pattern in _HOSTS) else None) or None


def _with_host(url: SplitResult, host: str) -> SplitResult:
    return url._replace(netloc=host if url.port is None else f"{host}:{url.port}")
