"""How long films become, and what may lie in models/video/."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.families import FilmFamily
from sdapi.domain.films import film_length, longest_s
from sdapi.domain.models_in_memory import film_entry, film_ids, upscaler_entry


@pytest.mark.parametrize(
    ("family", "seconds", "frames"),
    [("modelscope", 3, 24), ("modelscope", 20, 160), ("animatediff", 1.5, 12), ("wan", 1, 17), ("wan", 5, 81), ("wan", 20, 321)],
)
def test_a_film_has_the_length_next_to_the_one_asked_for(family: FilmFamily, seconds: float, frames: int) -> None:
    length = film_length(family, seconds)
    assert length.frames == frames
    assert length.seconds == pytest.approx(seconds, abs=0.1)


def test_a_model_that_knows_few_frames_says_for_how_long_they_last() -> None:
    assert longest_s("animatediff", 32) == 4
    assert longest_s("modelscope", None) == 20


def test_what_draws_films_is_told_apart_from_what_draws_pictures() -> None:
    assert film_ids(film_entry("demo")) == ("demo", None)
    assert film_ids(film_entry("demo", "mover")) == ("demo", "mover")
    assert film_ids("demo") is film_ids(upscaler_entry("demo")) is None


def a_folder(path: Path, index: dict[str, object]) -> None:
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def test_what_can_not_draw_films_is_told_in_sentences(tmp_path: Path) -> None:
    parts = {part: ["diffusers", "AutoencoderKL"] for part in ("unet", "vae", "scheduler", "text_encoder", "tokenizer")}
    a_folder(tmp_path / "video" / "pictures", {"_class_name": "StableDiffusionPipeline"})
    a_folder(tmp_path / "video" / "torso", {"_class_name": "WanPipeline", "vae": ["diffusers", "AutoencoderKLWan"]})
    a_folder(tmp_path / "video" / "own-code", {"_class_name": "TextToVideoSDPipeline", **parts, "unet": ["mine", "Mine"]})
    a_folder(tmp_path / "video" / "pickled", {"_class_name": "TextToVideoSDPipeline", **parts})
    for part in parts:
        (tmp_path / "video" / "own-code" / part).mkdir()
        (tmp_path / "video" / "pickled" / part).mkdir()
        (tmp_path / "video" / "pickled" / part / "config.json").write_text("{}")
        (tmp_path / "video" / "pickled" / part / "diffusion_pytorch_model.bin").write_bytes(b"")
    (tmp_path / "video" / "single.safetensors").write_bytes(b"")
    told = {problem.path.name: problem.sentence for problem in Assets(tmp_path).films.problems()}
    assert "films are drawn by TextToVideoSDPipeline, AnimateDiffPipeline, WanPipeline" in told["pictures"]
    assert "model_index.json names no transformer" in told["torso"]
    assert "code that comes with a model is never run" in told["own-code"]
    assert "sdapi models convert" in told["pickled"]
    assert "single file" in told["single.safetensors"]


def test_a_model_for_films_among_the_checkpoints_is_told_where_it_belongs(tmp_path: Path) -> None:
    a_folder(tmp_path / "checkpoints" / "wan", {"_class_name": "WanPipeline"})
    (problem,) = Catalog(tmp_path, aliases={}, embedded=embedded_model_dir()).problems()
    assert problem.sentence == "It draws films, not pictures; it belongs into models/video/."
