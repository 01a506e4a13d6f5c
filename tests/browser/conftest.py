from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.faults.serving import Served, served
from tests.outside_programs import OutsideProgram

from .pages import Other, other_origin

_CHROMIUM = OutsideProgram(
    tests="BROWSER TESTS",
    missing="there is no Chromium here (Debian: apt-get install chromium chromium-driver)",
    required="SDAPI_REQUIRE_BROWSER",
    untried="Nothing about the playground or CORS was tried.",
)
_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=1200,900")


@pytest.fixture(scope="session")
def chromium() -> tuple[str, str]:
    """Paths of the browser and of its driver: naming both keeps Selenium from looking for downloads."""
    browser, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if browser is None or driver is None:
        _CHROMIUM.give_up()
    return browser, driver


@pytest.fixture(scope="session")
def started_browser(chromium: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = chromium[0]
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromium[1]))
    driver.set_script_timeout(60)
    driver.set_page_load_timeout(30)
    yield driver
    driver.quit()


@pytest.fixture
def browser(started_browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """Chromium with a fresh tab, so that nothing is left in its session storage."""
    first = started_browser.current_window_handle
    started_browser.switch_to.new_window("tab")
    started_browser.get_log("browser")  # type: ignore[no-untyped-call] # forgets what earlier tests wrote
    yield started_browser
    started_browser.close()
    started_browser.switch_to.window(first)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its data."""
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="session")
def site(chromium: tuple[str, str], folder: Path) -> Iterator[Served]:
    """A server as a new user has it."""
    with served(folder, SDAPI_ALLOW_PRIVATE_URLS="true") as site:
        yield site


@pytest.fixture(scope="session")
def enterprise_key(site: Served, folder: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SDAPI_")}
    command = [sys.executable, "-m", "sdapi.cli", "keys", "create", "--enterprise", "administrator"]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Other]:
    """An empty page of another origin."""
    with other_origin() as other:
        yield other


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _CHROMIUM.report(terminalreporter)
