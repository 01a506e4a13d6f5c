"""Rows step together by numbers found once, and come out as their own scheduler objects would have brought them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdapi.domain.generation import SchedulerName, Txt2Img
from sdapi.domain.sampler_names import WITH_KARRAS_SIGMAS
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.samplers import planned_samplers
from sdapi.pipelines.samplers.joint_steps import advance_rows
from sdapi.pipelines.samplers.plan_cache import Plans, PlanShelf
from sdapi.pipelines.samplers.plan_probing import planned
from sdapi.pipelines.samplers.planned_samplers import AnySampler, Move, PlannedSampler, advanced_together
from sdapi.pipelines.samplers.row_sums import added_up
from sdapi.pipelines.samplers.sampler import Sampler
from sdapi.pipelines.scheduling.row import BatchKey, Row
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference

CLOSENESS = 1e-4
"""Of the largest element: what float32 makes of sums that are added up in another order, over all steps."""
PIXEL_CLOSENESS = 2
"""Of 255. Larger matrix products round differently; over a few steps that may tip a pixel by one or two."""
SHAPE = (1, 4, 8, 8)
DPM_SOLVERS = (SchedulerName.DPM_MULTISTEP, SchedulerName.DPM_SINGLESTEP)
NOT_LINEAR: list[dict[str, Any]] = [
    {"name": SchedulerName.DDIM, "clip_sample": True},
    {"name": SchedulerName.DDPM, "clip_sample": True, "clip_sample_range": 20.0},
    {"name": SchedulerName.DPM_MULTISTEP, "thresholding": True},
    {"name": SchedulerName.UNIPC, "thresholding": True, "sample_max_value": 5.0},
    {"name": SchedulerName.LCM, "thresholding": True},
]


def ways() -> Iterator[dict[str, Any]]:
    """Every sampler by every spacing and equation that means something to it."""
    for name in SchedulerName:
        for karras in (False, True) if name in WITH_KARRAS_SIGMAS else (None,):
            for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++") if name in DPM_SOLVERS else (None,):
                yield {"name": name, "use_karras_sigmas": karras, "algorithm_type": algorithm}


def config(**changes: Any) -> dict[str, Any]:
    return {**demo_parts().scheduler_config, **changes}


def own_sampler(name: SchedulerName | None = None, *, steps: int = 7, strength: float | None = None, **asked: Any) -> Sampler:
    settings = {setting: asked.pop(setting) for setting in list(asked) if setting not in ("use_karras_sigmas", "algorithm_type")}
    return Sampler(config(**settings), name, steps=steps, strength=strength, **asked)


def planned_sampler(**asked: Any) -> PlannedSampler:
    plan = planned(own_sampler(**asked))
    assert plan is not None
    return PlannedSampler(plan)


@dataclass
class Going:
    """One row on its way with a network that answers with noise."""

    sampler: AnySampler
    seed: int
    shape: tuple[int, ...] = SHAPE
    seen: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        self._network = torch.Generator().manual_seed(self.seed + 1000)
        self.clean, self.noise = (torch.randn(self.shape, generator=self.generator) for _ in range(2))
        self.latents = self.noise * self.sampler.initial_noise_sigma

    def noised(self) -> None:
        self.latents = self.sampler.add_noise(self.clean, self.noise)

    def predicted(self) -> Tensor:
        self.seen.append(self.sampler.model_input(self.latents))
        return torch.randn(self.shape, generator=self._network)

    def go(self) -> Tensor:
        while not self.sampler.finished:
            self.latents = self.sampler.advance(self.predicted(), self.latents, self.generator)
        return self.latents


def go_together(rows: list[Going]) -> None:
    while going := [row for row in rows if not row.sampler.finished]:
        moves = [Move(row.sampler, row.predicted(), row.latents, row.generator) for row in going if isinstance(row.sampler, PlannedSampler)]
        for row, latents in zip(going, advanced_together(moves), strict=True):
            row.latents = latents


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("prediction_type", "steps", "strength"),
    [("epsilon", 1, None), ("epsilon", 9, None), ("v_prediction", 12, 0.6)],
)
@pytest.mark.parametrize("asked", ways(), ids=lambda asked: "-".join(str(value) for value in asked.values() if value is not None))
def test_a_plan_leads_where_the_scheduler_object_does(
    asked: dict[str, Any], steps: int, strength: float | None, prediction_type: str
) -> None:
    settings = {**asked, "steps": steps, "strength": strength, "prediction_type": prediction_type}
    own, by_plan = Going(own_sampler(**settings), seed=5), Going(planned_sampler(**settings), seed=5)
    assert by_plan.sampler.name == own.sampler.name
    assert torch.equal(by_plan.sampler.timesteps, own.sampler.timesteps)
    if strength is not None:
        own.noised()
        by_plan.noised()
    assert difference(by_plan.go(), own.go()) <= CLOSENESS
    assert all(difference(*inputs) <= CLOSENESS for inputs in zip(by_plan.seen, own.seen, strict=True))
    assert torch.equal(by_plan.generator.get_state(), own.generator.get_state())


@pytest.mark.parametrize("asked", [{"name": name} for name in SchedulerName])
def test_a_plan_shows_and_keeps_what_the_scheduler_object_does(asked: dict[str, Any]) -> None:
    own, by_plan = (Going(make(steps=5, strength=0.8, **asked), seed=2) for make in (own_sampler, planned_sampler))
    while not own.sampler.finished:
        assert difference(by_plan.sampler.add_noise(own.clean, own.noise), own.sampler.add_noise(own.clean, own.noise)) <= CLOSENESS
        predicted = own.predicted()
        shown = [going.sampler.denoised(predicted, own.latents) for going in (by_plan, own)]
        assert difference(*shown) <= CLOSENESS
        for going in (own, by_plan):
            going.latents = going.sampler.advance(predicted, going.latents, going.generator)


@pytest.mark.parametrize(
    "settings", [{"skip_prk_steps": False}, {"rescale_betas_zero_snr": True}, {"timestep_spacing": "trailing"}, {"solver_order": 3}]
)
@pytest.mark.parametrize("name", [SchedulerName.PNDM, SchedulerName.DDIM, SchedulerName.EULER, SchedulerName.UNIPC, SchedulerName.DEIS])
def test_a_checkpoints_own_settings_reach_the_plan(name: SchedulerName, settings: dict[str, Any]) -> None:
    own, by_plan = (Going(make(name=name, steps=10, **settings), seed=3) for make in (own_sampler, planned_sampler))
    assert difference(by_plan.go(), own.go()) <= CLOSENESS


def test_many_steps_do_not_lead_away() -> None:
    for name in (SchedulerName.DPM_MULTISTEP, SchedulerName.EULER_ANCESTRAL, SchedulerName.UNIPC):
        own, by_plan = (Going(make(name=name, steps=150), seed=3) for make in (own_sampler, planned_sampler))
        assert difference(by_plan.go(), own.go()) <= CLOSENESS, name


@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 24, 40)])
def test_rows_on_different_plans_step_together_exactly_as_alone(shape: tuple[int, ...]) -> None:
    asked = [{**way, "steps": 3 + number % 5} for number, way in enumerate(itertools.islice(ways(), 0, None, 2))]
    together = [Going(planned_sampler(**way), seed=number, shape=shape) for number, way in enumerate(asked)]
    go_together(together)
    for number, (way, row) in enumerate(zip(asked, together, strict=True)):
        alone = Going(planned_sampler(**way), seed=number, shape=shape)
        assert torch.equal(row.latents, alone.go()), way
        assert torch.equal(row.generator.get_state(), alone.generator.get_state())


@pytest.mark.parametrize("settings", NOT_LINEAR, ids=lambda settings: str(list(settings.values())))
def test_a_sampler_that_cuts_off_values_has_no_plan_and_keeps_its_object(settings: dict[str, Any]) -> None:
    assert planned(own_sampler(steps=6, **settings)) is None
    name = settings["name"]
    plans = Plans(config(**{setting: value for setting, value in settings.items() if setting != "name"}))
    kept = [Going(plans.sampler(name, steps=6, strength=None), seed=1) for _ in range(2)]
    assert all(isinstance(going.sampler, Sampler) for going in kept)
    own = Going(own_sampler(steps=6, **settings), seed=1).go()
    assert all(torch.equal(going.go(), own) for going in kept)


class Restless(diffusers.EulerDiscreteScheduler):  # type: ignore[misc]
    """Adds what is no row's own."""

    def step(self, *args: Any, **named: Any) -> Any:
        (stepped,) = super().step(*args, **named)
        return (stepped + 0.01 * torch.randn(stepped.shape),)


class Secretive(diffusers.EulerDiscreteScheduler):  # type: ignore[misc]
    """Remembers, in a form that nobody looks for."""

    def step(self, *args: Any, **named: Any) -> Any:
        (stepped,) = super().step(*args, **named)
        before = getattr(self, "hidden", None)
        self.hidden = {"last": stepped}
        return (stepped if before is None else stepped + 0.1 * before["last"],)


class Fragile(diffusers.EulerDiscreteScheduler):  # type: ignore[misc]
    """Wants pictures."""

    def step(self, model_output: Tensor, *args: Any, **named: Any) -> Any:
        if model_output.shape[1] != 4:
            raise ValueError("no picture")
        return super().step(model_output, *args, **named)


@pytest.mark.parametrize("scheduler_class", [Restless, Secretive, Fragile])
def test_a_scheduler_that_does_what_no_numbers_say_has_no_plan(scheduler_class: type[Any]) -> None:
    sampler = own_sampler(SchedulerName.EULER)
    sampler.scheduler.__class__ = scheduler_class
    assert planned(sampler) is None


def test_probing_draws_nothing_from_the_common_generator() -> None:
    torch.manual_seed(4)
    before = torch.get_rng_state()
    planned_sampler(name=SchedulerName.EULER_ANCESTRAL)
    assert torch.equal(torch.get_rng_state(), before)


def test_plans_are_shared_and_the_least_recently_used_is_forgotten() -> None:
    plans = Plans(config(), capacity=2)
    first, same, shorter = (plans.sampler(None, steps=steps, strength=None) for steps in (5, 5, 4))
    assert first is not same
    assert first.timesteps is same.timesteps
    assert len(plans) == 2
    assert plans.sampler(None, steps=5, strength=None).timesteps is first.timesteps
    plans.sampler(None, steps=3, strength=None)
    assert plans.sampler(None, steps=5, strength=None).timesteps is first.timesteps
    assert plans.sampler(None, steps=4, strength=None).timesteps is not shorter.timesteps


def a_row(sampler: AnySampler, seed: int = 1, shape: tuple[int, ...] = SHAPE) -> Row:
    going = Going(sampler, seed, shape)
    return Row(BatchKey("demo", shape[-2], shape[-1], 77), going.latents, sampler, going.generator, (), None, 1.0)


def test_a_joint_step_that_fails_is_taken_row_by_row_and_draws_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [{"name": SchedulerName.EULER_ANCESTRAL}, {"name": SchedulerName.UNIPC}, {"name": SchedulerName.DDPM}]
    predictions = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    expected = [a_row(planned_sampler(**way), seed) for seed, way in enumerate(asked)]
    assert advance_rows(expected, predictions) == [None] * 3

    def short_of_memory(coefficients: Tensor, taken: Tensor) -> Tensor:
        if len(taken) > 1:
            raise torch.OutOfMemoryError("too much at once")
        total: Tensor = added_up(coefficients, taken)
        return total

    monkeypatch.setattr(planned_samplers, "added_up", short_of_memory)
    rows = [a_row(planned_sampler(**way), seed) for seed, way in enumerate(asked)]
    assert advance_rows(rows, predictions) == [None] * 3
    assert all(torch.equal(row.latents, other.latents) for row, other in zip(rows, expected, strict=True))
    assert [row.sampler.position for row in rows] == [1, 1, 1]


def test_one_rows_trouble_ends_no_neighbours_step() -> None:
    rows = [a_row(planned_sampler()), a_row(planned_sampler()), a_row(own_sampler()), a_row(planned_sampler(), shape=(1, 4, 8, 16))]
    predictions = [torch.zeros(1, 4, 5, 3), *(torch.zeros_like(row.latents) for row in rows[1:])]
    troubles = advance_rows(rows, predictions)
    assert [trouble is None for trouble in troubles] == [False, True, True, True]
    assert [row.sampler.position for row in rows] == [0, 1, 1, 1]


class BadPredictions(UnetModel):
    """Predicts for one seed what no latents can be stepped by."""

    def predict(self, rows: Sequence[Row]) -> list[Tensor]:
        predictions = super().predict(rows)
        return [each[..., :3] if row.generator.initial_seed() == 2 else each for row, each in zip(rows, predictions, strict=True)]


def test_a_row_that_breaks_the_joint_step_fails_alone() -> None:
    studio = Studio({"demo": BadPredictions("demo", demo_parts())})
    jobs = [studio.ask(a_request(seed=seed, scheduler=SchedulerName.EULER_ANCESTRAL)) for seed in (1, 2, 3)]
    studio.draw()
    assert [type(job.results[0]) for job in jobs] == [Pictures, Trouble, Pictures]
    assert greatest_difference(jobs[2].image, draw_alone(a_request(seed=3, scheduler=SchedulerName.EULER_ANCESTRAL))) <= PIXEL_CLOSENESS


def test_a_checkpoint_whose_samplers_cut_off_values_draws_in_company_as_alone() -> None:
    cutting = {**demo_parts().scheduler_config, "clip_sample": True, "clip_sample_range": 2.0, "thresholding": True}
    requests = [a_request(seed=seed, scheduler=name, steps=4) for seed, name in enumerate(SchedulerName)]

    def drawn(asked: Sequence[Txt2Img]) -> list[Image.Image]:
        studio = Studio({"demo": UnetModel("demo", replace(demo_parts(), scheduler_config=cutting))})
        jobs = [studio.ask(request) for request in asked]
        studio.draw()
        return [job.image for job in jobs]

    for request, picture in zip(requests[:6], drawn(requests), strict=False):
        assert greatest_difference(picture, drawn([request])[0]) <= PIXEL_CLOSENESS, request.scheduler


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that compute or copy; views and random numbers cost no kernel."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += not func.is_view and name not in ("randn", "normal_", "_to_copy")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [SchedulerName.DPM_MULTISTEP, SchedulerName.EULER_ANCESTRAL, SchedulerName.PNDM])
def test_sixteen_rows_take_as_many_operations_as_two(name: SchedulerName) -> None:
    def operations(count: int) -> int:
        rows = [a_row(planned_sampler(name=name), seed) for seed in range(count)]
        predictions = [torch.zeros(SHAPE)] * count
        advance_rows(rows, predictions)
        with Counting() as counting:
            advance_rows(rows, predictions)
        counted: int = counting.count
        return counted

    assert operations(16) == operations(2) <= 12


def test_models_with_the_same_scheduler_config_share_their_plans_and_others_do_not() -> None:
    shelf = PlanShelf()
    first = shelf.of(config())
    first.sampler(SchedulerName.DDIM, steps=4, strength=None)
    assert shelf.of(dict(reversed(config().items()))) is first, "whatever their order, and whichever model has it"
    assert len(shelf.of(config())) == 1
    assert shelf.of(config(prediction_type="v_prediction")) is not first
