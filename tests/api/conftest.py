from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .running import Running, running, settings_for


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Running]:
    """A server on SQLite, as a new user has it."""
    async with running(settings_for(tmp_path)) as opened:
        yield opened
