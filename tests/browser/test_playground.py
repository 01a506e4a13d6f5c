"""The playground in Chromium, against a real server process."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import Scene
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from tests.faults.serving import Served

from .pages import PATIENCE_S, Playground

SMALL = {"width": 128, "height": 128, "num_inference_steps": 12}


@pytest.fixture
def playground(browser: Chrome, site: Served) -> Playground:
    browser.get(f"{site.url}/playground")
    opened = Playground(browser)
    opened.fill(key=site.key)
    return opened


def test_it_draws_what_the_prompt_says(playground: Playground) -> None:
    playground.draw(prompt="a red circle on a blue background", seed=3, **{**SMALL, "num_inference_steps": 21})

    assert (playground.text("error"), playground.text("status")) == ("", "The picture is drawn.")
    picture = playground.picture()
    assert picture.size == (128, 128)
    finding = detect(picture)
    assert (finding.background, finding.colour, finding.shape) == ("blue", "red", "circle")


def test_a_wrong_key_is_told_in_a_sentence(playground: Playground) -> None:
    playground.draw(key="sd_wrong", **SMALL)
    assert playground.text("error").startswith("Invalid Api Key.")
    assert playground.control("error").get_attribute("role") == "alert"


def test_what_the_server_refuses_is_told_beside_its_field(playground: Playground) -> None:
    playground.draw(prompt="x", width=7)

    assert "width" in playground.text("error")
    assert playground.control("width").get_attribute("aria-invalid") == "true"
    playground.draw(**{**SMALL, "num_inference_steps": 2})
    assert playground.text("error") == ""


def test_it_keeps_the_key_and_the_pictures_over_a_reload_but_not_in_another_tab(playground: Playground, site: Served) -> None:
    playground.draw(seed=41, samples=2, **{**SMALL, "num_inference_steps": 2})
    assert playground.seeds() == ["seed 41", "seed 42"]

    playground.browser.refresh()
    assert (playground.control("key").get_attribute("value"), playground.seeds()) == (site.key, ["seed 41", "seed 42"])
    kept = playground.browser.execute_script("return [localStorage.length, document.cookie, location.href]")
    assert kept == [0, "", f"{site.url}/playground"]


def test_the_seed_that_was_drawn_can_be_used_again(playground: Playground) -> None:
    playground.draw(**{**SMALL, "num_inference_steps": 2})
    first, seed = playground.picture(), playground.seeds()[0]

    playground.browser.execute_script("document.querySelector('#pictures button').click()")
    playground.draw()

    assert playground.seeds() == [seed, seed]
    assert playground.picture().tobytes() == first.tobytes()


def test_it_starts_from_a_picture_file(playground: Playground, tmp_path: Path) -> None:
    file = tmp_path / "star.png"
    draw(Scene(shape="star", colour="yellow", background="purple"), 128, 128).save(file)
    playground.control("start").click()
    playground.control("init_file").send_keys(str(file))
    playground.until("curl", "data:image/png")
    playground.browser.execute_script("document.getElementById('strength').value = 0.1")

    playground.draw(prompt="a yellow star on a purple background", **SMALL)

    assert playground.text("error") == ""
    assert detect(playground.picture()).shape == "star"


def test_a_drawing_shows_how_far_it_is_and_can_be_cancelled(playground: Playground, site: Served) -> None:
    # Many steps of a large picture: it can't be done before anybody looks.
    playground.fill(dialect="v3", width=1024, height=1024, num_inference_steps=51)
    playground.press("draw")
    playground.until("detail", "of 51")
    WebDriverWait(playground.browser, PATIENCE_S, 0.05).until(lambda _: playground.shows_a_preview())
    playground.press("cancel")
    playground.until_done()

    assert (playground.text("error"), playground.text("status")) == ("", "Cancelled.")
    newest = httpx.get(f"{site.url}/jobs", headers={"X-API-KEY": site.key}).json()["jobs"][0]
    assert (newest["state"], newest["output"]) == ("cancelled", [])


def test_the_command_it_shows_is_the_same_request(playground: Playground, site: Served) -> None:
    hostile = 'it\'s "quoted" $HOME `id` \\ and\nJSON\n'
    playground.browser.execute_script("arguments[0].value = arguments[1]", playground.control("prompt"), hostile)
    playground.fill(seed=5, **{**SMALL, "num_inference_steps": 2})

    command = playground.text("curl")
    assert site.key not in command, "it is shown to whoever looks over the shoulder"
    # What a shell makes of it, without calling curl: its arguments and what it would send.
    script = f'curl() {{ printf "%s\\n" "$@"; cat; }}\n{command}\n'
    shown = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.startswith(
        f"-X\nPOST\n{site.url}/sd/txt2img\n-H\nContent-Type: application/json\n-H\nX-API-KEY: YOUR_API_KEY\n--data-binary\n@-\n{{"
    )
    parsed = playground.browser.execute_script("return JSON.parse(arguments[0])", shown[shown.index("{") :])
    assert (parsed["prompt"], parsed["seed"], parsed["width"]) == (hostile.strip(), 5, 128)


@pytest.mark.parametrize("dialect", ["goapi", "v3", "v6", "enterprise"])
def test_every_dialect_draws(playground: Playground, enterprise_key: str, dialect: str) -> None:
    playground.fill(model_id="demo", **({"key": enterprise_key} if dialect == "enterprise" else {}))
    playground.draw(dialect=dialect, seed=7, **{**SMALL, "num_inference_steps": 2})
    assert (playground.text("error"), playground.text("status"), playground.seeds()) == ("", "The picture is drawn.", ["seed 7"])


def test_it_draws_in_the_file_format_that_was_chosen(playground: Playground) -> None:
    playground.draw(output_format="webp", **{**SMALL, "num_inference_steps": 2})

    assert playground.text("error") == ""
    assert playground.picture().size == (128, 128)
    assert str(playground.browser.execute_script("return document.querySelector('#pictures img').src")).endswith(".webp")


def test_it_offers_the_models_of_the_server(playground: Playground) -> None:
    playground.control("model_id").click()
    offered = "return [...document.querySelectorAll('#models option')].map((option) => option.value)"
    WebDriverWait(playground.browser, PATIENCE_S, 0.05).until(lambda browser: "demo" in browser.execute_script(offered))


@pytest.mark.parametrize("address", ["playground", "playground/"])
def test_the_page_loads_everything_from_its_own_server_and_breaks_no_rule(browser: Chrome, site: Served, address: str) -> None:
    browser.get(f"{site.url}/{address}")
    assert Playground(browser).text("curl").startswith("curl"), "the script has run"
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert {url.removeprefix(site.url) for url in loaded} >= {"/playground/app.js", "/playground/style.css"}
    assert all(url.startswith(site.url) for url in loaded)
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_it_fits_a_phone_and_follows_the_colour_scheme(playground: Playground) -> None:
    browser = playground.browser
    grounds = []
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 340, "height": 700, "deviceScaleFactor": 1, "mobile": True})
        for scheme in ("light", "dark"):
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            grounds.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 340
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert grounds[0] != grounds[1]


def test_every_control_has_a_label(playground: Playground) -> None:
    unnamed = playground.browser.execute_script(
        """
        return [...document.querySelectorAll("input, select, textarea, button")]
          .filter((control) => !control.labels?.length && !control.textContent.trim() && !control.ariaLabel)
          .map((control) => control.outerHTML);
        """
    )
    assert unnamed == []
