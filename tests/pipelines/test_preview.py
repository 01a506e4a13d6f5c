"""Looking at a picture while it is drawn shows what it becomes and changes nothing; caches are cleared between steps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
from PIL import Image
from recipe.detector import detect
from recipe.drawing import draw
from recipe.scenes import Scene
from torch import Tensor

from sdapi.domain.generation import SchedulerName
from sdapi.domain.progress import Progress
from sdapi.engine.availability import missing
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures

from .drawing import Asked, Studio, a_request, an_img2img_request, demo_parts, draw_alone

SCHEDULERS = [name for name in SchedulerName if missing(a_request(scheduler=name)) is None]


class Looker:
    """Looks at a job whenever it has made a step, as the most curious client would."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.seen: list[Image.Image | None] = []

    def at(self, job_id: int) -> Callable[[Progress], None]:
        return lambda _: self._studio.loop.preview(job_id, self.seen.append)


def looked_at(studio: Studio, looker: Looker, **request: object) -> Asked:
    return studio.ask(a_request(**request), on_step=looker.at(len(studio.asked)))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_picture_that_was_looked_at_is_the_same_to_the_bit(scheduler: SchedulerName) -> None:
    studio = Studio()
    looker = Looker(studio)
    job = looked_at(studio, looker, scheduler=scheduler, steps=6)
    studio.draw()
    assert len([image for image in looker.seen if image is not None]) >= 5
    assert job.image.tobytes() == draw_alone(a_request(scheduler=scheduler, steps=6)).tobytes()


def test_looking_at_img2img_changes_nothing_either() -> None:
    init = draw(Scene(shape="square", colour="green", background="white"), 64, 64)
    studio = Studio()
    looker = Looker(studio)
    job = studio.ask(an_img2img_request(steps=8), init, on_step=looker.at(0))
    studio.draw()
    assert any(looker.seen)
    assert job.image.tobytes() == draw_alone(an_img2img_request(steps=8), init).tobytes()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("karras", [False, True])
def test_a_late_preview_shows_what_the_picture_becomes(scheduler: SchedulerName, karras: bool) -> None:
    studio = Studio()
    looker = Looker(studio)
    job = looked_at(studio, looker, scheduler=scheduler, steps=12, width=128, height=128, use_karras_sigmas=karras)
    studio.draw()
    late = [image for image in looker.seen if image is not None][-1]
    assert (detect(late).background, detect(late).colour) == (detect(job.image).background, detect(job.image).colour)
    assert detect(late).background == "blue"


def test_a_large_picture_is_looked_at_small() -> None:
    studio = Studio()
    looker = Looker(studio)
    looked_at(studio, looker, width=512, height=320, steps=3)
    studio.draw()
    assert next(image.size for image in looker.seen if image is not None) == (256, 160)


def test_nobody_looks_and_no_preview_is_made() -> None:
    model = CountingModel()
    studio = Studio({"demo": model})
    studio.ask(a_request(steps=5))
    studio.draw()
    assert model.previews == 0


def test_all_who_look_before_a_step_get_the_same_picture() -> None:
    model = CountingModel()
    studio = Studio({"demo": model})
    seen: list[Image.Image | None] = []

    def look_thrice(progress: Progress) -> None:
        if progress.step == 2:
            for _ in range(3):
                studio.loop.preview(0, seen.append)

    studio.ask(a_request(steps=6), on_step=look_thrice)
    studio.draw()
    assert model.previews == 1
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2] is not None


def test_one_step_makes_one_preview_however_many_jobs_are_looked_at() -> None:
    model = CountingModel()
    studio = Studio({"demo": model})
    looker = Looker(studio)
    for seed in range(4):
        looked_at(studio, looker, seed=seed, steps=6)
    studio.draw()
    assert 4 <= model.previews <= model.forwards
    assert len(looker.seen) == 4 * 6, "everybody was answered"


def test_a_job_that_is_not_drawn_has_no_preview() -> None:
    studio = Studio()
    seen: list[Image.Image | None] = []
    studio.ask(a_request(), on_step=lambda _: studio.loop.preview(99, seen.append))
    studio.draw()
    assert seen == [None] * 4


def test_a_preview_that_fails_costs_the_look_only() -> None:
    studio = Studio({"demo": BlindModel()})
    looker = Looker(studio)
    job = looked_at(studio, looker, steps=4)
    studio.draw()
    assert looker.seen[:3] == [None] * 3
    assert looker.seen[3] == job.image, "after its last step it is decoded: then the finished picture is shown"
    assert job.image.tobytes() == draw_alone(a_request(steps=4)).tobytes()


def test_looks_at_a_cancelled_job_are_answered() -> None:
    studio = Studio({"demo": UnetModel("demo", demo_parts())})
    seen: list[Image.Image | None] = []

    def cancel_and_look(progress: Progress) -> None:
        studio.loop.preview(0, seen.append)
        job.ticket.cancelled.set()

    job = studio.ask(a_request(steps=30), on_step=cancel_and_look)
    studio.draw()
    assert seen == [None]


def test_a_finished_first_sample_is_shown_as_it_is() -> None:
    studio = Studio(max_batch_rows=1)
    seen: list[Image.Image | None] = []

    def look(progress: Progress) -> None:
        if progress.step == 6:
            studio.loop.preview(0, seen.append)

    job = studio.ask(a_request(steps=4, samples=2), on_step=look)
    studio.draw()
    (result,) = job.results
    assert isinstance(result, Pictures)
    assert seen == [result.images[0]]


def test_after_the_loop_has_ended_there_is_nothing_to_see_and_nothing_to_clear() -> None:
    studio = Studio()
    studio.ask(a_request(steps=2))
    studio.draw()
    answers: list[object] = []
    studio.loop.preview(0, answers.append)
    studio.loop.clear_caches(answers.append)
    assert answers == [None, 0]


def test_clearing_caches_forgets_idle_models_and_prompts_and_drawing_goes_on() -> None:
    models = {"demo": UnetModel("demo", demo_parts()), "other": UnetModel("other", demo_parts())}
    studio = Studio(dict(models))
    freed: list[int] = []
    idle = studio.ask(a_request(checkpoint="other", steps=1))

    def clear(progress: Progress) -> None:
        if idle.results and not freed:
            studio.loop.clear_caches(freed.append)

    job = studio.ask(a_request(steps=30), on_step=clear)
    studio.draw()
    prompts_of_each = 2 * 77 * demo_parts().text_encoder.config.hidden_size * 4
    # Of every prompt, and of the batch of both.
    keys_of_each = 4 * 77 * sum(2 * width for width in (64, 96, 96, 96, 64, 64, 128)) * 4
    assert freed[0] == models["other"].size_bytes + 2 * (prompts_of_each + keys_of_each)
    assert job.image.tobytes() == draw_alone(a_request(steps=30)).tobytes()


def test_an_idle_loop_clears_its_caches_at_once() -> None:
    studio = Studio()
    freed: list[int] = []
    told = threading.Event()

    def done(size_bytes: int) -> None:
        freed.append(size_bytes)
        told.set()

    thread = threading.Thread(target=studio.draw)
    thread.start()
    studio.loop.clear_caches(done)
    assert told.wait(10)
    studio.loop.stop()
    thread.join(10)
    assert freed == [0]


class CountingModel(UnetModel):
    """The real model, counting its previews and forwards."""

    def __init__(self) -> None:
        super().__init__("demo", demo_parts())
        self.previews = 0
        self.forwards = 0

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.forwards += 1
        return super().predict(rows)

    def preview(self, row: Row, predicted: Tensor) -> Image.Image:
        self.previews += 1
        return super().preview(row, predicted)


class BlindModel(UnetModel):
    """The real model on a device that has no memory left for looking."""

    def __init__(self) -> None:
        super().__init__("demo", demo_parts())

    def preview(self, row: Row, predicted: Tensor) -> Image.Image:
        raise RuntimeError("CUDA error: out of memory")
