from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdapi.catalog import Refused
from sdapi.pipelines.loading.pickle_conversion import convert_to_safetensors

from .upscaler_nets import compact_tensors


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"params_ema": t, "params": {"other": torch.zeros(1)}},
        lambda t: {"params": OrderedDict(t)},
        lambda t: {"state_dict": t, "epoch": 3, "best": 0.5},
    ],
    ids=["plain", "averaged", "params", "checkpoint of a training"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_the_same_afterwards(tmp_path: Path, wrap: type, zipped: bool) -> None:
    tensors = compact_tensors()
    torch.save(wrap(tensors), tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)

    assert convert_to_safetensors(tmp_path / "net.pth", tmp_path / "net.safetensors") == len(tensors)
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "net.pth").stat().st_mode
    converted = load_file(tmp_path / "net.safetensors")
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors.items())


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    shared = torch.arange(12.0)
    torch.save({"whole": shared, "turned": shared.view(3, 4).t()}, tmp_path / "net.pth")
    convert_to_safetensors(tmp_path / "net.pth", tmp_path / "net.safetensors")
    assert torch.equal(load_file(tmp_path / "net.safetensors")["turned"], shared.view(3, 4).t())


class Evil:
    """What a malicious file asks the unpickler to call."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("place", ["beside the weights", "instead of them"])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_malicious_file_is_run(tmp_path: Path, place: str, zipped: bool) -> None:
    evil = Evil(tmp_path / "it ran")
    held = {**compact_tensors(), "extra": evil} if place == "beside the weights" else evil
    torch.save(held, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)

    with pytest.raises(Refused, match=r"evil\.pth is refused"):
        convert_to_safetensors(tmp_path / "evil.pth", tmp_path / "evil.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pth"]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a pickle", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."],
    ids=["empty", "text", "cut off", "an empty dictionary"],
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(Refused, match=r"net\.pth"):
        convert_to_safetensors(tmp_path / "net.pth", tmp_path / "net.safetensors")
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize("held", [torch.zeros(3), [torch.zeros(3)], {"epoch": 3}, "text"])
def test_values_that_are_no_weights_by_name_are_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "net.pth")
    with pytest.raises(Refused, match=r"net\.pth"):
        convert_to_safetensors(tmp_path / "net.pth", tmp_path / "net.safetensors")


def test_a_file_that_is_not_there_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        convert_to_safetensors(tmp_path / "net.pth", tmp_path / "net.safetensors")
