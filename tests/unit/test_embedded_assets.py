"""What ships beside the embedded model is listed beside what the operator put there, who always has the last word."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdapi.catalog import Assets, embedded_asset_ids, embedded_assets_dir
from sdapi.catalog.asset_inspection import AssetKind
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.model_downloads.removal import remove_model

from .test_assets import only_problem, put


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """Folders with the control net `demo-canny`, which is called `canny`, too, and the LoRA `demo-night`."""
    folder = tmp_path / "embedded"
    folder.mkdir()
    put(folder, "controlnet", "demo-canny").with_suffix(".toml").write_text('title = "Outlines"\naliases = ["canny"]')
    put(folder, "lora", "demo-night")
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def ids(assets: Assets, kind: AssetKind) -> list[str]:
    return [asset.id for asset in assets.all(kind)]


def test_embedded_assets_are_listed_beside_the_others(models: Path, embedded: Path) -> None:
    put(models, "lora", "mine")
    assets = Assets(models, embedded=embedded)
    assert (ids(assets, "controlnet"), ids(assets, "lora"), assets.problems()) == (["demo-canny"], ["demo-night", "mine"], [])


def test_they_are_there_without_a_models_folder(tmp_path: Path, embedded: Path) -> None:
    assert ids(Assets(tmp_path / "nowhere", embedded=embedded), "controlnet") == ["demo-canny"]


def test_an_alias_of_a_sidecar_finds_its_asset(models: Path, embedded: Path) -> None:
    assets = Assets(models, embedded=embedded)
    assert assets.get("controlnet", "canny") == assets.get("controlnet", "demo-canny")
    with pytest.raises(ModelNotFound) as refusal:
        assets.get("lora", "canny")
    assert refusal.value.available == ("demo-night",)


def test_what_the_operator_calls_so_comes_first(models: Path, embedded: Path) -> None:
    own = [put(models, "controlnet", name) for name in ("canny", "demo-canny")]
    assets = Assets(models, embedded=embedded)
    assert [assets.get("controlnet", name).path for name in ("canny", "demo-canny")] == own
    assert assets.problems() == []


def test_so_does_an_operator_s_alias(models: Path, embedded: Path) -> None:
    own = put(models, "controlnet", "outlines")
    own.with_suffix(".toml").write_text('aliases = ["canny"]')
    assets = Assets(models, embedded=embedded)
    assert (assets.get("controlnet", "canny").path, assets.problems()) == (own, [])


def test_of_two_with_one_alias_the_second_is_told(models: Path) -> None:
    for name in ("a", "b"):
        put(models, "controlnet", name).with_suffix(".toml").write_text('aliases = ["canny"]')
    assets = Assets(models)
    assert assets.get("controlnet", "canny").id == "a"
    assert only_problem(assets) == "Its alias 'canny' already belongs to 'a'."


def test_a_broken_one_of_the_operator_s_is_not_replaced_in_silence(models: Path, embedded: Path) -> None:
    put(models, "lora", "demo-night", {"x": (1,)})
    assets = Assets(models, embedded=embedded)
    assert ids(assets, "lora") == []
    assert "It is not a LoRA" in only_problem(assets)


def test_the_demo_model_ships_with_a_control_net_and_a_lora(models: Path) -> None:
    assets = Assets(models, embedded=embedded_assets_dir())
    assert assets.get("controlnet", "canny").id == "demo-canny"
    assert assets.get("lora", "demo-night").title
    assert assets.problems() == []
    shipped = {asset.id for kind in ("controlnet", "lora", "upscaler") for asset in assets.all(kind)}
    assert shipped == embedded_asset_ids()


def test_embedded_ones_can_not_be_deleted_but_what_hides_them_can(models: Path) -> None:
    with pytest.raises(InvalidRequest, match="'demo-night' belongs to the embedded model and can't be deleted"):
        remove_model(models, "demo-night")
    put(models, "lora", "demo-night")
    assert remove_model(models, "demo-night") == ("lora",)
