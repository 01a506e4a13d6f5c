"""Cost and eta: what the queue reckons with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sdapi.domain.generation import Img2Img, Txt2Img
from sdapi.domain.progress import Progress
from sdapi.jobs.estimates import DEFAULT_SPEED, DrawnWork, cost_left, cost_of, eta_s, speed_of


def a_request(**changes: object) -> Txt2Img:
    return Txt2Img.model_validate({"checkpoint": "demo", "prompt": "a cat", "seed": 7, **changes})


@pytest.mark.parametrize("change", [{"steps": 40}, {"width": 1024}, {"samples": 2}, {"steps": 31}])
def test_more_work_costs_more(change: dict[str, object]) -> None:
    assert cost_of(a_request(**change)) > cost_of(a_request())


def test_without_guidance_a_step_costs_half() -> None:
    assert cost_of(a_request(guidance_scale=1)) < 0.6 * cost_of(a_request())


def test_img2img_costs_only_the_steps_it_takes() -> None:
    half = Img2Img.model_validate({**a_request().model_dump(exclude={"kind"}), "init_image": "inputs/x.png", "strength": 0.5})
    assert cost_of(half) < 0.6 * cost_of(a_request())


def test_what_is_left_shrinks_with_every_step() -> None:
    assert cost_left(10, Progress(15, 20)) == 2.5
    assert cost_left(10, None) == 10


def test_alone_a_job_takes_its_own_cost_at_the_measured_speed() -> None:
    assert eta_s(own=6, ahead=[], shared_by=4, speed=2) == 3
    assert eta_s(own=DEFAULT_SPEED, ahead=[], shared_by=4, speed=None) == 1


def test_a_neighbour_in_the_same_forwards_delays_a_job_by_no_more_than_its_own_length() -> None:
    assert eta_s(own=2, ahead=[100, 1], shared_by=4, speed=1) == 2 + 1 + 2


def test_in_a_long_queue_everything_ahead_has_to_be_drawn_first() -> None:
    assert eta_s(own=2, ahead=[10, 10, 10], shared_by=3, speed=2) == 16


def test_jobs_that_shared_their_time_count_it_once() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    together = [DrawnWork(10, noon, 4.0), DrawnWork(10, noon, 4.0)]
    later = DrawnWork(5, noon + timedelta(minutes=5), 1.0)
    assert speed_of(together) == 5.0
    assert speed_of([later, *together]) == 5.0
    assert speed_of([]) is None
