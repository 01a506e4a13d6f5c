from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import requests

from tests.faults.serving import served

from .target import Target

_KEY = "enterprise-key-of-the-fuzzer"


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that draws small pictures, keeps a short queue, and reaches nothing beyond this machine."""
    folder = tmp_path_factory.mktemp("fuzz")
    settings = {
        "SDAPI_API_KEY": _KEY,
        "SDAPI_ERROR_STATUS": "standard",  # else half of the dialects would tell even a crash with status 200
        "SDAPI_MODEL_ALIASES": json.dumps({"*": "demo"}),
        "SDAPI_MAX_SIDE_PX": "64",
        "SDAPI_SYNC_WAIT_S": "0",
        "SDAPI_MAX_QUEUED_JOBS": "30",
        "SDAPI_REPEATS_PER_30_S": "0",
        "SDAPI_MAX_BODY_BYTES": str(2**20),
        "SDAPI_IMAGE_TIMEOUT_S": "1",
        "SDAPI_HUB_URL": "http://127.0.0.1:9",
        "SDAPI_MODEL_HOSTS": "models.invalid",
        "SDAPI_HEARTBEAT_S": "2",
        "SDAPI_STALE_AFTER_S": "30",
    }
    with served(folder, **settings) as server, requests.Session() as session:
        session.trust_env = False  # no proxy stands between here and the loopback address
        target = Target(server, folder, _KEY, session)
        yield target
        assert target.problem() is None
