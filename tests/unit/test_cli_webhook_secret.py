from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdapi.cli import app


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    monkeypatch.chdir(folder)
    for name, value in {"SDAPI_WEBHOOK_SECRET": "", "SDAPI_DATA_DIR": str(folder / "data"), **environment}.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["webhook-secret"])
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_the_configured_secret_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(tmp_path, monkeypatch, SDAPI_WEBHOOK_SECRET="my own é") == "my own é"


def test_without_one_the_servers_own_is_printed_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = printed(tmp_path, monkeypatch)
    assert len(bytes.fromhex(secret)) == 32
    assert printed(tmp_path, monkeypatch) == secret
    assert printed(tmp_path, monkeypatch, SDAPI_DATA_DIR=str(tmp_path / "another")) != secret
