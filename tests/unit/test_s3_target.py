"""Which bucket the fields of update_s3 and the settings mean."""

from __future__ import annotations

import pytest

from sdapi.domain.errors import InvalidRequest
from sdapi.storage import S3Target, StorageError, configured_target, target_of

R2 = "0123456789abcdef0123456789abcdef.r2.cloudflarestorage.com"


def target(endpoint_url: str | None, **others: str | None) -> S3Target:
    fields: dict[str, str | None] = {
        "region_name": None,
        "public_url": None,
        "access_key_id": "key",
        "secret_access_key": "secret",
        "directory": None,
    }
    return target_of(endpoint_url=endpoint_url, **{**fields, **others})


@pytest.mark.parametrize(
    ("url", "bucket", "endpoint", "region"),
    [
        ("https://pics.s3.eu-west-1.amazonaws.com", "pics", "https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://my.pics.s3-us-west-2.amazonaws.com/", "my.pics", "https://s3-us-west-2.amazonaws.com", "us-west-2"),
        ("https://S3.eu-west-1.amazonaws.com/pics/", "pics", "https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://pics.s3.cn-north-1.amazonaws.com.cn", "pics", "https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        (f"https://{R2}/pics", "pics", f"https://{R2}", "auto"),
        (f"https://pics.{R2}", "pics", f"https://{R2}", "auto"),
        ("https://s3.eu-central-1.wasabisys.com/pics", "pics", "https://s3.eu-central-1.wasabisys.com", "eu-central-1"),
        ("https://pics.s3.us-west-004.backblazeb2.com", "pics", "https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://pics.fra1.digitaloceanspaces.com", "pics", "https://fra1.digitaloceanspaces.com", "fra1"),
        ("https://storage.googleapis.com/pics", "pics", "https://storage.googleapis.com", "auto"),
        ("https://pics.oss-cn-hangzhou.aliyuncs.com", "pics", "https://oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou"),
        ("https://pics.s3.example.com", "pics", "https://s3.example.com", "us-east-1"),
        ("minio.example.com/pics", "pics", "https://minio.example.com", "us-east-1"),
        ("http://127.0.0.1:9000/pics", "pics", "http://127.0.0.1:9000", "us-east-1"),
        ("http://[::1]:9000/pics", "pics", "http://[::1]:9000", "us-east-1"),
    ],
)
def test_the_bucket_is_found_in_the_endpoint(url: str, bucket: str, endpoint: str, region: str) -> None:
    found = target(url)
    assert (found.bucket, found.endpoint_url, found.region_name) == (bucket, endpoint, region)


@pytest.mark.parametrize(
    ("url", "public_url"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "https://pics.s3.eu-west-1.amazonaws.com"),
        ("https://s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com/pics"),
        ("https://s3.eu-west-1.amazonaws.com", "https://pics.s3.amazonaws.com"),
        ("http://minio:9000", "http://minio:9000/pics/"),
        ("https://objects.example.com", "https://pics.objects.example.com"),
    ],
)
def test_for_a_bare_endpoint_the_public_url_tells(url: str, public_url: str) -> None:
    found = target(url, public_url=public_url)
    assert (found.bucket, found.endpoint_url, found.public_url) == ("pics", url, public_url.rstrip("/"))


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://pics.s3.eu-west-1.amazonaws.com", "https://s3.eu-west-1.amazonaws.com"),
        ("https://host/pics", "https://host"),
        ("https://host", "https://host"),
        ("https://other.s3.example.com", "https://other.s3.example.com"),
        ("https://host/storage/v1/s3", "https://host/storage/v1/s3"),
    ],
)
def test_a_named_bucket_wins(url: str, endpoint: str) -> None:
    found = target(url, bucket="pics")
    assert (found.bucket, found.endpoint_url) == ("pics", endpoint)


def test_amazons_host_without_a_region_gets_the_buckets() -> None:
    assert target("https://s3.amazonaws.com/pics", region_name="eu-west-3").endpoint_url == "https://s3.eu-west-3.amazonaws.com"


@pytest.mark.parametrize(
    ("url", "public_url"),
    [
        ("https://s3.amazonaws.com", None),
        ("https://s3.amazonaws.com", "https://cdn.example.com"),
        (f"https://{R2}", "https://pub-1.r2.dev/pics"),
        ("https://host", None),
        ("https://host/a/b", None),
        ("https://pics.s3.example.com/folder", None),
    ],
)
def test_a_bucket_that_cannot_be_told_is_asked_for(url: str, public_url: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        target(url, public_url=public_url)
    assert list(caught.value.problems) == ["endpoint_url"]
    assert "add bucket" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/pics",
        "file:///etc/passwd",
        "https://user:password@host/pics",
        "https://user@host/pics",
        "https://host/pics?x=1",
        "https://host/pics#x",
        "https://host/../pics",
        "https://host/%2e%2e",
        "https://[::1/pics",
        "https://host:99999/pics",
        "https:///pics",
        "https://ho st/pics",
        "https://host/pi\r\ncs",
        "https://höst/pics",
        "https://host/a",
        "\x00",
        "x" * 10_000,
    ],
)
def test_a_hostile_endpoint_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        target(url)
    assert list(caught.value.problems) == ["endpoint_url"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_directory", "../up"),
        ("image_directory", "a//b"),
        ("image_directory", "a\nb"),
        ("image_directory", "x" * 300),
        ("region_name", "eu west\r\n"[:7]),
        ("aws_access_key_id", "a\r\nX-Evil: 1"),
        ("aws_secret_access_key", "s" * 2000),
        ("public_url", "javascript://host"),
        ("bucket", "../other"),
    ],
)
def test_the_field_at_fault_is_named_as_clients_spell_it(field: str, value: str) -> None:
    ours = {"aws_access_key_id": "access_key_id", "aws_secret_access_key": "secret_access_key", "image_directory": "directory"}
    with pytest.raises(InvalidRequest) as caught:
        target("https://host/pics", **{ours.get(field, field): value})
    assert list(caught.value.problems) == [field]


def test_all_fields_that_are_missing_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        target(None, access_key_id="", secret_access_key=None)
    assert list(caught.value.problems) == ["endpoint_url", "aws_access_key_id", "aws_secret_access_key"]


def test_slashes_around_a_directory_do_not_count() -> None:
    found = target("https://host/pics", directory="/generations/2024/", public_url="https://cdn.example.com/x/")
    assert (found.directory, found.public_base) == ("generations/2024", "https://cdn.example.com/x/generations/2024")


def configured(**changes: str | None) -> S3Target:
    fields: dict[str, str | None] = {
        "bucket": "pics",
        "endpoint_url": None,
        "region_name": None,
        "public_url": None,
        "access_key_id": None,
        "secret_access_key": None,
        "directory": None,
    }
    return configured_target(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_operator_needs_to_name_the_bucket_only() -> None:
    assert configured() == S3Target(bucket="pics", region_name="us-east-1")


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(StorageError, match="SDAPI_S3_ENDPOINT_URL: The URL must begin with https"):
        configured(endpoint_url="ftp://host")
    with pytest.raises(StorageError, match="SDAPI_S3_SECRET_ACCESS_KEY"):
        configured(access_key_id="key")
