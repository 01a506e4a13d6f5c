"""How the loop shares its device: among lengths of jobs, clients and batches; and what it learns of it meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import Tensor

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.progress import Progress
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.scheduling.loop import DrawingLoop
from sdapi.pipelines.scheduling.models import Model
from sdapi.pipelines.scheduling.pacing import Pacing
from sdapi.pipelines.scheduling.profile import StepProfile
from sdapi.pipelines.scheduling.row import Row
from sdapi.pipelines.scheduling.tickets import Pictures, Result, Ticket
from sdapi.pipelines.scheduling.warm_up import WarmUp

from .drawing import Asked, Studio, a_request, demo_parts


class WatchedModel(UnetModel):
    """The real model, keeping a tally of its forwards."""

    def __init__(self) -> None:
        super().__init__("demo", demo_parts())
        self.batches: list[int] = []

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        self.batches.append(len(rows))
        return super().predict(rows)


def ask(studio: Studio, client: str, **request: object) -> Asked:
    asked = studio.ask(a_request(**request))
    asked.ticket.client = client
    return asked


def test_a_short_job_ends_before_a_long_one_that_leaves_it_no_place() -> None:
    studio = Studio(max_batch_rows=1)
    late: list[Asked] = []

    def after_ten(progress: Progress) -> None:
        if progress.step == 10 and not late:
            late.append(studio.ask(a_request(seed=2, steps=10)))

    studio.ask(a_request(seed=1, steps=50), on_step=after_ten)
    studio.draw()
    ended = studio.order.index("done 1")
    assert studio.order[:ended].count("step 0") <= 10 + 3, "and the long one is passed over for eight turns at a time"
    assert ended < studio.order.index("done 0")


@pytest.mark.parametrize("side", [64, 128])
def test_a_lone_job_is_not_held_up_by_anothers_many(side: int) -> None:
    """Of their size or of another, in flight when it comes."""
    studio = Studio(max_batch_rows=2)
    for seed in range(8):
        ask(studio, "busy", seed=seed, steps=8)
    ask(studio, "quiet", seed=9, steps=8, width=side, height=side)
    studio.draw()
    before = studio.order[: studio.order.index("done 8")]
    assert sum(before.count(f"done {number}") for number in range(8)) <= 2
    assert sum(before.count(f"step {number}") for number in range(8)) <= 8 + 2, "one of theirs beside each of its own"


def test_one_clients_jobs_of_two_sizes_get_on_evenly() -> None:
    studio = Studio(max_batch_rows=1)
    for number, side in enumerate((64, 96)):
        ask(studio, "ann", seed=number, steps=18, width=side, height=side)
    studio.draw()
    half = studio.order[: studio.order.index("done 0")]
    assert half.count("step 1") >= 6, "of 18 steps that cost two and a quarter times as much, about eight"


def test_where_a_device_gains_nothing_from_company_rows_take_turns() -> None:
    model = WatchedModel()
    profile = StepProfile({"demo 8x8 77 tokens": {2: 1.0, 4: 2.0, 8: 4.0}})
    studio = Studio({"demo": model}, pacing=Pacing(profile))
    jobs = [studio.ask(a_request(seed=seed, steps=5)) for seed in range(4)]
    studio.draw()
    assert set(model.batches) == {1}
    assert all(isinstance(job.results[0], Pictures) for job in jobs)


def test_where_it_gains_they_share_their_forwards() -> None:
    model = WatchedModel()
    profile = StepProfile({"demo 8x8 77 tokens": dict.fromkeys((2, 4, 8), 1.0)})
    studio = Studio({"demo": model}, pacing=Pacing(profile))
    for seed in range(4):
        studio.ask(a_request(seed=seed, steps=9))
    studio.draw()
    assert max(model.batches) == 4


def drawn_by(loop: DrawingLoop) -> Result:
    results: list[Result] = []

    def done(result: Result) -> None:
        results.append(result)
        loop.stop()

    loop.submit(Ticket(1, a_request(), None, threading.Event(), lambda _: None, done))
    loop.run()
    return results[0]


def test_what_a_device_takes_is_kept_for_the_next_start(tmp_path: Path) -> None:
    folder = embedded_model_dir()
    assert folder is not None
    path = tmp_path / "data" / "device-profile.json"
    options = DeviceOptions("cpu", "float32", threads=1, max_batch_rows=4, model_cache_bytes=2**30, profile_path=path)
    for _ in range(2):
        loop = open_loop(Catalog(tmp_path, aliases={}, embedded=folder), Assets(tmp_path), options)
        assert isinstance(drawn_by(loop), Pictures)
        assert '"demo 8x8 77 tokens"' in path.read_text()
    assert loop._pacing.profile is not None
    assert 2 in loop._pacing.profile.known["demo 8x8 77 tokens"]


def test_a_new_model_is_warmed_up_while_nobody_waits() -> None:
    profile = StepProfile()

    class Watched(WarmUp):
        steps = 0

        def take_step(self, models: Sequence[Model], profile: StepProfile) -> None:
            assert len(loop._aloft) == 0
            self.steps += 1
            super().take_step(models, profile)
            if not self.has_work(models):
                loop.stop()

    warm_up = Watched(max_rows=2)
    model = WatchedModel()
    models: dict[str, Model] = {"demo": model}
    loop = DrawingLoop(
        Residency(models.__getitem__, Memory(2**40)),
        max_batch_pixels=2**22,
        max_batch_rows=4,
        pacing=Pacing(profile, warm_up=warm_up),
    )
    results: list[Result] = []
    loop.submit(Ticket(1, a_request(), None, threading.Event(), lambda _: None, results.append))
    loop.run()
    assert isinstance(results[0], Pictures)
    assert 1 <= warm_up.steps <= 7
    cells = model.native_px[0] // 8
    assert 2 in profile.known[f"demo {cells}x{cells} 77 tokens"], "at the size the model was trained at"


def test_a_model_that_can_not_be_warmed_up_harms_nobody() -> None:
    class Broken(WatchedModel):
        def predict(self, rows: Sequence[Row]) -> list[Tensor]:
            raise RuntimeError("CUDA error: out of memory")

    warm_up, model, profile = WarmUp(), Broken(), StepProfile()
    assert warm_up.has_work([model])
    warm_up.take_step([model], profile)
    assert not warm_up.has_work([model])
    assert profile.known == {}
