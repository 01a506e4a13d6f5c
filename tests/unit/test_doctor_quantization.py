"""What the doctor says of weights in eight bits."""

from __future__ import annotations

import pytest

from sdapi import doctor
from sdapi.doctor import _told_quantization
from sdapi.settings import Settings


def told(quantize: str, *, is_quantized: bool) -> tuple[bool, str]:
    return _told_quantization(Settings.model_validate({"quantize": quantize}), is_quantized=is_quantized)


def test_nobody_who_did_not_ask_hears_of_it() -> None:
    assert told("off", is_quantized=False) == (True, "")


def test_a_model_in_eight_bits_is_told() -> None:
    assert told("fp8", is_quantized=True) == (True, "; weights in fp8")


@pytest.mark.parametrize(("found", "reason"), [(object(), "the log says why"), (None, "pip install '.[quantized]'")])
def test_a_model_that_is_not_is_a_finding_with_its_reason(monkeypatch: pytest.MonkeyPatch, found: object, reason: str) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: found)
    ok, sentence = told("int8", is_quantized=False)
    assert not ok
    assert "drawn with as it is" in sentence
    assert reason in sentence
