from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.serving import served
from tests.outside_programs import OutsideProgram
from tests.pipelines.control_nets import install

from .programs import Programs
from .site import Site

NODE_PACKAGES = ("axios@1.21.1", "request@2.88.2")
"""What the documented samples for Node ask for."""
ENTERPRISE_KEY = "enterprise-key-of-the-clients"
FIRST = {"prompt": "a red circle on a blue background", "width": 256, "height": 256, "num_inference_steps": 20, "seed": 3}
"""What the site draws before anybody calls."""

_INSTALL_TIMEOUT_S = 180
_NODE = OutsideProgram(
    tests="NODE CLIENTS",
    missing="there is no Node with the packages of the samples here (Debian: apt-get install nodejs npm)",
    required="SDAPI_REQUIRE_CLIENTS",
    untried="No documented JavaScript was run.",
)
_CURL = OutsideProgram(
    tests="CURL CLIENTS",
    missing="there is no curl here (Debian: apt-get install curl)",
    required="SDAPI_REQUIRE_CLIENTS",
    untried="No documented command line was run.",
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One server process for all clients, with every model id of the samples as a name of the embedded model, and an untrained net."""
    folder = tmp_path_factory.mktemp("clients")
    install(folder / "models", "canny")
    settings = {
        "SDAPI_MODEL_ALIASES": json.dumps({"*": "demo"}),
        "SDAPI_ALLOW_PRIVATE_URLS": "true",
        "SDAPI_REPEATS_PER_30_S": "0",
        "SDAPI_API_KEY": ENTERPRISE_KEY,
        "SDAPI_TORCH_THREADS": "0",
        "SDAPI_HEARTBEAT_S": "2",
        "SDAPI_STALE_AFTER_S": "30",
    }
    with served(folder, **settings) as server:
        key = subprocess.check_output([sys.executable, "-m", "sdapi.cli", "keys", "create"], cwd=folder, text=True).strip()
        answer = httpx.post(f"{server.url}/sd/txt2img", json=FIRST, headers={"X-API-KEY": key}, timeout=120).json()
        assert answer["status"] == "success", answer
        yield Site(server.url, key, ENTERPRISE_KEY, drawn_id=answer["id"], drawn_url=answer["output"][0])


@pytest.fixture
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Programs:
    """Runs samples in a folder of their own."""
    return Programs(tmp_path, node_folder=lambda: request.getfixturevalue("node_folder"), curl=lambda: request.getfixturevalue("curl"))


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Node finds the packages of the samples."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        _NODE.give_up()
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", *NODE_PACKAGES]
    try:
        installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _NODE.give_up("npm took too long")
    if installed.returncode != 0:
        _NODE.give_up(f"npm ended with {installed.returncode}")
    return folder


@pytest.fixture(scope="session")
def curl() -> str:
    path = shutil.which("curl")
    if path is None:
        _CURL.give_up()
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _NODE.report(terminalreporter)
    _CURL.report(terminalreporter)
