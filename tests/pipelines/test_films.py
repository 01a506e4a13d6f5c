"""Films are what diffusers itself would draw, take turns with pictures, and become MP4 files that show them."""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from sdapi.catalog import Assets, Catalog, ModelBroken, embedded_model_dir
from sdapi.domain.films import Film
from sdapi.domain.generation import SchedulerName, Text2Video
from sdapi.engine.base import Drawn
from sdapi.engine.safety import with_unsafe_covered
from sdapi.mp4 import encode_mp4
from sdapi.pipelines.families.film import FilmModel, open_film_model
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped

from .drawing import Asked, Studio, a_request, demo_parts, greatest_difference
from .tiny_films import frames_of_mp4, write_film_folder, write_motion_adapter

MODELS = ("modelscope", "animatediff", "apart", "wan")
CLOSENESS = 1
VISIBLE = 8


@pytest.fixture(scope="module")
def models_dir() -> Iterator[Path]:
    """With a tiny model of every kind, saved once."""
    with TemporaryDirectory() as place:
        for name in MODELS:
            write_film_folder(Path(place) / "video" / name, "animatediff" if name == "apart" else name, apart=name == "apart")
        write_motion_adapter(Path(place) / "video" / "adapter")
        yield Path(place)


@cache
def a_model(models_dir: Path, model_id: str) -> FilmModel:
    films, checkpoints = Assets(models_dir).films, Catalog(models_dir, aliases={}, embedded=embedded_model_dir())
    return open_film_model(f"video/{model_id}", films, checkpoints, device=torch.device("cpu"), dtype=torch.float32, is_dtype_chosen=False)


@pytest.fixture
def models(models_dir: Path) -> dict[str, Any]:
    return {"demo": UnetModel("demo", demo_parts())} | {f"video/{name}": a_model(models_dir, name) for name in MODELS}


@cache
def stock(models_dir: Path, model_id: str) -> Any:
    """What a user of diffusers would load."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(models_dir / "video" / model_id, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def a_film_request(**changes: object) -> Text2Video:
    """A small valid request; say only what the test is about."""
    values = {"checkpoint": "modelscope", "prompt": "a red circle", "width": 64, "height": 64, "seed": 7, "steps": 2, "frames": 5}
    return Text2Video.model_validate({**values, "guidance_scale": 4, **changes})


def film_of(asked: Asked) -> Film:
    (result,) = asked.results
    assert isinstance(result, Pictures), result
    assert result.film is not None
    return result.film


def drawn(models: dict[str, Any], request: Text2Video) -> Film:
    studio = Studio(models)
    asked = studio.ask(request)
    studio.draw()
    return film_of(asked)


def differ(one: Film, other: Film) -> int:
    return max(greatest_difference(*frames) for frames in zip(one.frames, other.frames, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_words_give_the_frames_of_the_stock_pipeline(models: dict[str, Any], models_dir: Path, name: str) -> None:
    film = drawn(models, a_film_request(checkpoint=name, negative_prompt="a dog", width=72, height=64))
    size = {"width": 80 if name == "wan" else 72, "height": 64}
    guided = {"negative_prompt": "a dog", "guidance_scale": 4.0, "num_frames": 5, "num_inference_steps": 2}
    generator = torch.Generator().manual_seed(7)
    frames = stock(models_dir, name)("a red circle", **size, **guided, generator=generator, output_type="pil").frames[0]
    expected = Film(tuple(frame.resize((72, 64), Image.Resampling.LANCZOS) for frame in frames), 8)
    assert len(film.frames) == 5
    assert differ(film, expected) <= CLOSENESS
    assert greatest_difference(film.frames[0], film.frames[-1]) > 0, "something moves"


def test_a_motion_adapter_moves_a_checkpoint_as_the_stock_pipeline_does(models_dir: Path) -> None:
    film = drawn(
        {"video/adapter/demo": a_model(models_dir, "adapter/demo")},
        a_film_request(checkpoint="demo", motion_adapter="adapter", frames=4, negative_prompt="a dog"),
    )
    folder = embedded_model_dir()
    assert folder is not None
    scheduler = diffusers.DDIMScheduler.from_pretrained(
        folder / "scheduler", clip_sample=False, timestep_spacing="linspace", beta_schedule="linear", steps_offset=1
    )
    adapter = diffusers.MotionAdapter.from_pretrained(models_dir / "video" / "adapter")
    pipe = diffusers.AnimateDiffPipeline.from_pretrained(folder, motion_adapter=adapter, scheduler=scheduler, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    told = {"num_frames": 4, "num_inference_steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64, "negative_prompt": "a dog"}
    frames = pipe("a red circle", **told, generator=torch.Generator().manual_seed(7), output_type="pil").frames[0]
    assert differ(film, Film(tuple(frames), 8)) <= CLOSENESS
    assert greatest_difference(film.frames[0], film.frames[-1]) > 0


def test_a_motion_adapter_that_does_not_fit_is_told_by_name(models_dir: Path) -> None:
    write_film_folder(models_dir / "whole", "animatediff", apart=True)
    (models_dir / "whole" / "motion_adapter").rename(models_dir / "video" / "narrow")
    with pytest.raises(ModelBroken, match="'narrow' can't be loaded with the model 'demo'"):
        a_model(models_dir, "narrow/demo")


@pytest.mark.parametrize("name", ["modelscope", "animatediff", "wan"])
def test_prompt_negative_prompt_guidance_steps_and_seed_are_each_seen(models: dict[str, Any], name: str) -> None:
    request = a_film_request(checkpoint=name)
    before = drawn(models, request)
    for change in ({"prompt": "9"}, {"negative_prompt": "blurry pictures"}, {"guidance_scale": 9}, {"steps": 4}, {"seed": 8}):
        assert differ(before, drawn(models, request.model_copy(update=change))) >= 1, change


def test_a_named_sampler_draws_and_is_told(models: dict[str, Any], models_dir: Path) -> None:
    studio = Studio(models)
    asked = studio.ask(a_film_request(scheduler=SchedulerName.EULER))
    studio.draw()
    (result,) = asked.results
    assert isinstance(result, Pictures)
    assert result.scheduler == "EulerDiscreteScheduler"
    pipe = stock(models_dir, "modelscope")
    own = pipe.scheduler
    try:
        pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(own.config)
        told = {"num_frames": 5, "num_inference_steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64}
        frames = pipe("a red circle", **told, generator=torch.Generator().manual_seed(7), output_type="pil").frames[0]
    finally:
        pipe.scheduler = own
    assert differ(film_of(asked), Film(tuple(frames), 8)) <= CLOSENESS


@pytest.mark.parametrize("scheduler", [SchedulerName.HEUN, SchedulerName.PNDM, SchedulerName.LCM])
@pytest.mark.parametrize("name", ["modelscope", "animatediff"])
def test_progress_ends_at_its_end_with_every_kind_of_sampler(models: dict[str, Any], name: str, scheduler: SchedulerName) -> None:
    studio = Studio(models)
    asked = studio.ask(a_film_request(checkpoint=name, steps=3, scheduler=scheduler))
    studio.draw()
    film_of(asked)
    steps = [progress.step for progress in asked.progress]
    assert steps == sorted(steps)
    assert asked.progress[-1].step == asked.progress[-1].steps


def test_progress_is_told_by_steps_and_then_by_the_frames_that_are_decoded(models: dict[str, Any]) -> None:
    studio = Studio(models)
    asked = studio.ask(a_film_request(frames=8, steps=3))
    studio.draw()
    assert [(progress.step, progress.steps) for progress in asked.progress] == [(number, 5) for number in range(1, 6)]


def test_pictures_go_on_while_a_film_is_drawn_and_neither_changes_the_other(models: dict[str, Any]) -> None:
    film, picture = a_film_request(steps=6, frames=4), a_request(steps=6)
    alone = drawn(models, film)
    studio = Studio(models)
    asked_film, asked_picture = studio.ask(film), studio.ask(picture)
    studio.draw()
    assert differ(film_of(asked_film), alone) == 0
    assert studio.order.index("done 1") < studio.order.index("done 0"), "the small picture is not kept waiting"
    own = Studio(models)
    by_itself = own.ask(picture)
    own.draw()
    assert greatest_difference(asked_picture.image, by_itself.image) == 0


@pytest.mark.parametrize("name", ["modelscope", "wan"])
def test_a_cancelled_film_ends_within_a_step_and_leaves_no_thread(models: dict[str, Any], name: str) -> None:
    studio = Studio(models)

    def on_step(progress: Any) -> None:
        if progress.step == 2:
            asked.ticket.cancelled.set()

    asked = studio.ask(a_film_request(checkpoint=name, steps=20), on_step=on_step)
    studio.draw()
    assert asked.results == [Stopped()]
    assert len(asked.progress) == 2
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sdapi-film")]


def test_an_mp4_has_the_size_the_rate_and_the_colours_of_its_frames_and_its_index_first() -> None:
    colours = ("red", "lime", "blue", "white", "black", "orange", "gray")
    film = Film(tuple(Image.new("RGB", (72, 40), colour) for colour in colours), 16)
    data = encode_mp4(film, "a cat\nSteps: 2, ü")
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(io.BytesIO(data), "r") as container:
        (stream,) = container.streams.video
        assert (stream.width, stream.height) == (72, 40)
        assert (stream.average_rate, stream.codec_context.pix_fmt) == (Fraction(16), "yuv420p")
        assert container.metadata["comment"] == "a cat\nSteps: 2, ü"
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(7, 16)
    frames = frames_of_mp4(data)
    assert len(frames) == len(colours)
    for frame, source in zip(frames, film.frames, strict=True):
        assert greatest_difference(frame, source) <= 3


def test_a_drawn_film_looks_the_same_in_its_mp4(models: dict[str, Any]) -> None:
    film = drawn(models, a_film_request(checkpoint="wan"))
    decoded = frames_of_mp4(encode_mp4(film, None))
    assert len(decoded) == len(film.frames)
    for one, other in zip(decoded, film.frames, strict=True):
        # Colours are kept for two by two pixels, so single pixels of noise may differ; means may not.
        means = [np.asarray(frame.resize((8, 8), Image.Resampling.BOX), dtype=np.float32) for frame in (one, other)]
        assert np.abs(means[0] - means[1]).max() <= VISIBLE


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux to give memory back")
def test_after_twenty_films_no_more_memory_is_taken_than_after_five(models_dir: Path) -> None:
    command = [sys.executable, "-m", "tests.pipelines.film_process", str(models_dir)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | {"PYTHONPATH": "models/demo"}, check=False)
    assert ran.returncode == 0, ran.stderr
    resident = json.loads(ran.stdout)
    early, late = statistics.median(resident[4:7]), statistics.median(resident[-3:])
    assert late / early - 1 < 0.02, resident


async def test_a_film_with_an_unsafe_frame_is_covered_from_beginning_to_end() -> None:
    frames = tuple(Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue", "white"))
    film = Film(frames, 8)
    drawn_one = Drawn(film.samples, 1.0, film=film)
    assert [frame.getpixel((0, 0)) for frame in drawn_one.images] == [(255, 0, 0), (0, 255, 0), (255, 255, 255)]
    safe = await with_unsafe_covered(drawn_one, [False] * 3, "black")
    covered = await with_unsafe_covered(drawn_one, [False, False, True], "black")
    assert safe.film == film
    assert covered.film is not None
    assert [frame.getextrema() for frame in covered.film.frames] == [((0, 0),) * 3] * 4
