"""`sdapi keys`, as an operator types it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sdapi.cli import app


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no .env of the developer's
    monkeypatch.delenv("SDAPI_DATABASE_URL", raising=False)
    monkeypatch.setenv("SDAPI_DATA_DIR", str(tmp_path / "data"))


def keys(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def test_a_keys_limits_are_given_shown_and_changed() -> None:
    created = keys("create", "alice", "--max-queued", "5", "--per-minute", "0").stdout.strip()
    assert "max-queued 5  per-minute unlimited\n" in keys("list").stdout

    changed = keys("limit", created[:8], "--max-queued", "-1", "--daily-pictures", "100")

    assert changed.exit_code == 0
    assert keys("list").stdout.endswith("  per-minute unlimited  daily-pictures 100\n")
    assert "no limits of its own" in keys("limit", "1", "--per-minute", "-1", "--daily-pictures", "-1").stdout


@pytest.mark.parametrize(
    "arguments",
    [("create", "bob", "--max-queued", "-1"), ("limit", "1", "--per-minute", "-2"), ("limit", "1", "--daily-pictures", "9" * 30)],
)
def test_a_limit_out_of_range_is_refused(arguments: tuple[str, ...]) -> None:
    assert keys(*arguments).exit_code == 2


def test_limiting_an_unknown_key_says_so() -> None:
    refused = keys("limit", "7", "--max-queued", "1")

    assert refused.exit_code == 2
    assert "there is no key '7'" in refused.output
