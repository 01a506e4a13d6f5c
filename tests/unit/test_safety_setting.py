"""What the setting makes of requests, and what an operator is told of it and of what is installed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdapi.catalog import Assets, Catalog
from sdapi.catalog.inventory import Inventory, damage
from sdapi.catalog.safety import SafetyCheckers
from sdapi.domain.generation import Txt2Img, Upscale
from sdapi.domain.safety import NO_CHECKER, SafetyMode
from sdapi.engine.base import Failed
from sdapi.engine.safety import SafetyRules
from sdapi.jobs.safety_finding import safety_finding, warn_of_safety

TENSORS = ("concept_embeds", "concept_embeds_weights", "special_care_embeds", "special_care_embeds_weights", "visual_projection.weight")


def install(models_dir: Path, name: str = "checker") -> Path:
    """What looks like a checker from outside."""
    folder = models_dir / "safety" / name
    folder.mkdir(parents=True)
    save_file({name: np.zeros((2, 2), dtype=np.float32) for name in TENSORS}, folder / "model.safetensors")
    for file in ("config.json", "preprocessor_config.json"):
        (folder / file).write_text("{}")
    return folder


def a_request(**changes: object) -> Txt2Img:
    return Txt2Img.model_validate({"checkpoint": "demo", "prompt": "", "seed": 1, **changes})


async def test_required_checks_also_what_was_queued_before_anybody_required_it(tmp_path: Path) -> None:
    install(tmp_path)
    rules = SafetyRules(Assets(tmp_path), "required")
    assert await rules.covering(a_request()) == "sensitive_content_text"
    assert await rules.covering(Upscale(init_image="x", width=8, height=8, upscaler="y")) == "sensitive_content_text"
    assert await rules.covering(a_request(safety="blur")) == "blur"
    assert await SafetyRules(Assets(tmp_path / "empty"), "required").covering(a_request()) == Failed(NO_CHECKER)


async def test_optional_checks_what_asks_for_it_and_off_nothing(tmp_path: Path) -> None:
    install(tmp_path)
    optional, off = (SafetyRules(Assets(tmp_path), mode) for mode in ("optional", "off"))
    assert await optional.covering(a_request()) is None
    assert await optional.covering(a_request(safety="black")) == "black"
    assert await SafetyRules(Assets(tmp_path / "empty"), "optional").covering(a_request(safety="black")) is None
    assert await off.covering(a_request(safety="black")) is None


async def test_one_that_is_there_and_can_not_be_used_lets_nothing_pass_that_asks(tmp_path: Path) -> None:
    (install(tmp_path) / "config.json").unlink()
    for mode in ("optional", "required"):
        outcome = await SafetyRules(Assets(tmp_path), mode).covering(a_request(safety="black"))
        assert isinstance(outcome, Failed)
        assert "models/safety/checker/ can't be used: config.json is missing" in outcome.reason


@pytest.mark.parametrize(
    ("mode", "is_installed", "ok", "words", "warns"),
    [
        ("optional", False, True, "given out unchecked", True),
        ("optional", True, True, "checker checks pictures of requests with safety_checker", False),
        ("required", False, False, "every request is refused", True),
        ("required", True, True, "checker checks every picture", False),
        ("off", False, True, "no picture is checked", False),
    ],
)
def test_the_operator_is_told_what_is_checked_and_warned_where_it_is_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: SafetyMode, *, is_installed: bool, ok: bool, words: str, warns: bool
) -> None:
    if is_installed:
        install(tmp_path)
    finding = safety_finding(mode, SafetyCheckers(tmp_path))
    assert finding.ok is ok
    assert words in finding.sentence
    with caplog.at_level(logging.WARNING):
        warn_of_safety(mode, SafetyCheckers(tmp_path))
    assert bool(caplog.records) is warns


def test_the_operator_is_warned_of_one_that_can_not_be_used(tmp_path: Path) -> None:
    (install(tmp_path) / "model.safetensors").write_bytes(b"nothing of the kind")
    finding = safety_finding("optional", SafetyCheckers(tmp_path))
    assert not finding.ok
    assert "models/safety/checker/ can't be used" in finding.sentence


def test_checkers_are_listed_among_the_models_and_broken_ones_among_the_problems(tmp_path: Path) -> None:
    install(tmp_path, "good")
    (install(tmp_path, "bad") / "preprocessor_config.json").unlink()
    inventory = Inventory(Catalog(tmp_path, aliases={}, embedded=None), Assets(tmp_path), tmp_path)
    (model,) = inventory.models("safety")
    assert (model.id, model.kind, damage(model)) == ("good", "safety", [])
    ((kind, problem),) = inventory.problems("safety")
    assert (kind, problem.path.name) == ("safety", "bad")
    assert "preprocessor_config.json is missing" in problem.sentence
