"""The network for faces as an operator meets it: listed, checked and removed, and what is no such network is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sdapi.catalog import Refused
from sdapi.catalog.faces import FaceNetworks
from sdapi.cli import app

from .test_model_downloads import VAE, tensors

NAMES = ("conv_body_first.weight", "final_linear.weight", "stylegan_decoder.constant_input.weight", "condition_scale.0.2.weight")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDAPI_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("SDAPI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "faces" / "gfpgan").mkdir(parents=True)
    return tmp_path / "models"


def models(*words: str) -> Result:
    return CliRunner().invoke(app, ["models", *words])


@pytest.mark.parametrize("wrapper", ["", "params_ema."])
def test_it_is_listed_checked_and_removed_but_not_added(folder: Path, wrapper: str) -> None:
    network = folder / "faces" / "gfpgan" / "GFPGANv1.4.safetensors"
    network.write_bytes(tensors({wrapper + name: (2, 2) for name in NAMES}))

    assert models("list", "--kind", "face").stdout.split()[:2] == ["gfpgan", "face"]
    assert "ok   face gfpgan" in models("verify", "gfpgan").stdout
    assert "by hand" in models("add", str(network), "--kind", "face").output
    assert models("remove", "gfpgan", "--yes").exit_code == 0
    assert not network.exists()


@pytest.mark.parametrize(
    ("content", "told"), [(tensors(VAE), "it is not GFPGAN"), (b"", "not a safetensors file"), (None, "no .safetensors")]
)
def test_what_can_not_be_used_is_told(folder: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (folder / "faces" / "gfpgan" / "x.safetensors").write_bytes(content)
    assert told in models("list").stderr
    with pytest.raises(Refused, match="models/faces/gfpgan can't be used"):
        FaceNetworks(folder).used()
