"""The server's secret and what it seals."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdapi.server_secret import SealBroken, SecretUnusable, ServerSecret, open_server_secret


def test_a_secret_is_made_once_for_its_user_alone_and_found_again(tmp_path: Path) -> None:
    first = open_server_secret(None, tmp_path / "data")

    file = tmp_path / "data" / "secret.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["secret.key"]
    assert open_server_secret(None, tmp_path / "data").subkey("a") == first.subkey("a")


def test_many_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        opened = list(threads.map(lambda _: open_server_secret(None, tmp_path).subkey("a"), range(64)))
    assert len(set(opened)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_two_servers_have_different_secrets(tmp_path: Path) -> None:
    assert open_server_secret(None, tmp_path / "a").subkey("x") != open_server_secret(None, tmp_path / "b").subkey("x")


def test_the_one_from_the_settings_wins_and_leaves_no_file(tmp_path: Path) -> None:
    first = open_server_secret("correct horse battery", tmp_path)
    assert first.subkey("a") == open_server_secret("correct horse battery", tmp_path / "elsewhere").subkey("a")
    assert first.subkey("a") != open_server_secret("correct horse staple!", tmp_path).subkey("a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_file_is_told_instead_of_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret.key").write_bytes(content)
    with pytest.raises(SecretUnusable, match=r"secret\.key in the data folder is damaged"):
        open_server_secret(None, tmp_path)
    assert (tmp_path / "secret.key").read_bytes() == content


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SecretUnusable):
        open_server_secret(None, tmp_path / "file" / "data")


def test_every_purpose_has_a_key_of_its_own() -> None:
    secret = ServerSecret(b"m" * 32)
    assert secret.subkey("webhooks") == secret.subkey("webhooks")
    assert secret.subkey("webhooks") != secret.subkey("storage targets")
    assert len(secret.subkey("webhooks")) == 32


def test_what_is_sealed_cannot_be_read_but_unsealed() -> None:
    sealer = ServerSecret(b"m" * 32).sealer("storage targets")
    sealed = sealer.seal("schlüssel 🔑")

    assert sealer.unseal(sealed) == "schlüssel 🔑"
    assert sealed.isascii()
    assert "schl" not in sealed
    assert sealer.seal("schlüssel 🔑") != sealed


@pytest.mark.parametrize("change", ["another secret", "another purpose", "changed", "cut", "nonsense", "ä"])
def test_a_seal_that_is_broken_is_told(change: str) -> None:
    secret = ServerSecret(b"m" * 32)
    sealed = secret.sealer("a").seal("text")
    sealer = {"another secret": ServerSecret(b"n" * 32).sealer("a"), "another purpose": secret.sealer("b")}.get(change, secret.sealer("a"))
    text = {"changed": sealed[:-5] + "AAAA=", "cut": sealed[:-8], "nonsense": "nonsense", "ä": "ä"}.get(change, sealed)

    with pytest.raises(SealBroken):
        sealer.unseal(text)
