"""Pictures of different users share forwards, and none of them can tell."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from recipe.drawing import draw
from recipe.scenes import Scene
from torch import Tensor

from sdapi.domain.generation import Img2Img, SchedulerName, Txt2Img
from sdapi.domain.progress import Progress
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped, Trouble

from .drawing import Studio, a_request, an_img2img_request, demo_parts, draw_alone, greatest_difference

CLOSENESS = 2
"""Of 255. Larger matrix products round differently; over a few steps that may tip a pixel by one or two."""


class WatchedModel(UnetModel):
    """The real model, keeping a tally of its forwards."""

    def __init__(self) -> None:
        super().__init__("demo", demo_parts())
        self.batches: list[int] = []
        self.rows: list[Row] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append(len(rows))
        self.rows += [row for row in rows if not any(row is known for known in self.rows)]
        return super().predict(rows)


def mixed_requests() -> list[Txt2Img | Img2Img]:
    """Everything that may differ between rows of one batch: seed, prompt, steps, guidance, scheduler, kind."""
    return [
        a_request(seed=1, prompt="a red circle on a blue background", steps=5),
        a_request(seed=2, prompt="a (green:1.3) star on a white background", steps=8, scheduler=SchedulerName.EULER),
        a_request(seed=3, prompt="black heart, pink background", steps=4, guidance_scale=1),
        a_request(seed=4, prompt="a yellow ring over purple", steps=6, guidance_scale=3.5, scheduler=SchedulerName.EULER_ANCESTRAL),
        a_request(seed=5, prompt="a cross", negative_prompt="red", steps=3, scheduler=SchedulerName.HEUN),
        an_img2img_request(seed=6, prompt="a white square on a red background", steps=10, strength=0.5),
        a_request(seed=7, prompt="a cyan triangle", steps=7, scheduler=SchedulerName.UNIPC, samples=2),
    ]


def test_rows_drawn_together_equal_the_same_rows_drawn_alone() -> None:
    init = draw(Scene(shape="square", colour="green", background="white"), 64, 64)
    model = WatchedModel()
    studio = Studio({"demo": model})
    asked = [studio.ask(request, init if isinstance(request, Img2Img) else None) for request in mixed_requests()]
    studio.draw()
    assert max(model.batches) >= 5, "the rows did share forwards"
    for job, request in zip(asked, mixed_requests(), strict=True):
        alone = draw_alone(request, init if isinstance(request, Img2Img) else None)
        assert greatest_difference(job.image, alone) <= CLOSENESS, request


def test_a_rows_noise_never_depends_on_its_neighbours() -> None:
    request = a_request(seed=11, steps=5, scheduler=SchedulerName.EULER_ANCESTRAL)
    alone, together = WatchedModel(), WatchedModel()
    first = Studio({"demo": alone})
    first.ask(request)
    first.draw()
    second = Studio({"demo": together})
    second.ask(a_request(seed=12, steps=7, scheduler=SchedulerName.KDPM2_ANCESTRAL))
    second.ask(request)
    second.ask(a_request(seed=13, steps=3))
    second.draw()
    (lone,) = alone.rows
    (neighboured,) = [row for row in together.rows if row.generator.initial_seed() == 11]
    assert torch.equal(lone.generator.get_state(), neighboured.generator.get_state())


def test_sample_i_is_the_picture_of_seed_plus_i() -> None:
    studio = Studio()
    two = studio.ask(a_request(seed=20, samples=2))
    studio.draw()
    (result,) = two.results
    assert isinstance(result, Pictures)
    assert len(result.images) == 2
    assert greatest_difference(result.images[1], draw_alone(a_request(seed=21))) <= CLOSENESS


def test_a_newcomer_joins_at_the_next_step_and_may_leave_first() -> None:
    studio = Studio()
    late: list[object] = []

    def after_two_steps(progress: Progress) -> None:
        if progress.step == 2 and not late:
            late.append(studio.ask(a_request(seed=2, steps=3)))

    studio.ask(a_request(seed=1, steps=20), on_step=after_two_steps)
    studio.draw()
    assert studio.order.index("step 1") < studio.order.index("done 0")
    assert studio.order.index("done 1") < studio.order.index("done 0")


def test_sizes_take_turns_instead_of_waiting_for_each_other() -> None:
    studio = Studio()
    studio.ask(a_request(seed=1, width=128, height=128, steps=12))
    studio.ask(a_request(seed=2, steps=4))
    studio.draw()
    assert studio.order.index("done 1") < studio.order.index("done 0")


def test_a_cancelled_row_leaves_the_batch_and_its_neighbours_go_on() -> None:
    studio = Studio()

    def cancel(progress: Progress) -> None:
        if progress.step == 2:
            victim.ticket.cancelled.set()

    survivor = studio.ask(a_request(seed=1, steps=6))
    victim = studio.ask(a_request(seed=2, steps=30), on_step=cancel)
    studio.draw()
    assert isinstance(victim.results[0], Stopped)
    assert len(victim.progress) <= 3
    assert greatest_difference(survivor.image, draw_alone(a_request(seed=1, steps=6))) <= CLOSENESS


class FragileModel(UnetModel):
    """The real model, which can't bear one seed in its batch: stands in for a kernel that fails on one row."""

    def __init__(self, bad_seed: int) -> None:
        super().__init__("demo", demo_parts())
        self._bad_seed = bad_seed

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        if any(row.generator.initial_seed() == self._bad_seed for row in rows):
            raise RuntimeError("CUDA error: out of memory")
        return super().predict(rows)


def test_a_row_that_breaks_the_forward_fails_alone() -> None:
    studio = Studio({"demo": FragileModel(bad_seed=3)})
    jobs = [studio.ask(a_request(seed=seed)) for seed in (1, 2, 3, 4)]
    studio.draw()
    outcomes = [type(job.results[0]) for job in jobs]
    assert outcomes == [Pictures, Pictures, Trouble, Pictures]
    reason = jobs[2].results[0]
    assert isinstance(reason, Trouble)
    assert "CUDA" not in reason.reason, "internals stay in the log"


def test_a_model_that_can_not_be_loaded_fails_its_job_only() -> None:
    studio = Studio()
    lost = studio.ask(a_request(checkpoint="gone"))
    found = studio.ask(a_request())
    studio.draw()
    assert isinstance(lost.results[0], Trouble)
    assert isinstance(found.results[0], Pictures)


def test_progress_counts_every_step_of_every_sample() -> None:
    studio = Studio()
    job = studio.ask(a_request(steps=4, samples=2))
    studio.draw()
    assert job.progress[-1] == Progress(8, 8)
    assert [p.step for p in job.progress] == sorted(p.step for p in job.progress)


@pytest.mark.parametrize("limit", [1, 3])
def test_no_forward_takes_more_rows_than_it_may(limit: int) -> None:
    model = WatchedModel()
    studio = Studio({"demo": model}, max_batch_rows=limit)
    for seed in range(5):
        studio.ask(a_request(seed=seed, steps=6))
    studio.draw()
    assert max(model.batches) == limit


def test_stopping_the_loop_ends_everything_in_flight() -> None:
    studio = Studio()
    job = studio.ask(a_request(steps=50), on_step=lambda _: studio.loop.stop())
    waiting = studio.ask(a_request(seed=2, steps=50))
    studio.draw()
    assert isinstance(job.results[0], Stopped)
    assert isinstance(waiting.results[0], Stopped)
