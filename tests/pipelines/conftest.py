from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Pictures this small gain nothing from more, and threads that wait for one another spin while the cores are busy elsewhere."""
    torch.set_num_threads(1)
