"""However a UNet is run - as it is, from a recording, with a pinned number of samples - it says the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.forwards.recordings import Recording, Run
from sdapi.pipelines.forwards.unet_forward import ForwardOptions, Forwards

from .drawing import Studio, a_request, demo_parts, greatest_difference
from .tiny_families import XL, parts_of


@dataclass
class Replay:
    """A recording as CUDA graphs are: fixed memory for inputs and output, and no say in what runs when it is played."""

    run: Run
    inputs: ForwardInputs
    size_bytes: int
    output: Tensor
    plays: int = 0

    def play(self) -> Tensor:
        self.plays += 1
        self.output.copy_(self.run(self.inputs))
        return self.output


@dataclass
class Recordings:
    """Records on any device."""

    size_bytes: int = 1000
    made: list[Replay] = field(default_factory=list)
    fails: bool = False

    def record(self, run: Run, inputs: ForwardInputs) -> Recording:
        if self.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        # Recording runs the forward on whatever the inputs hold, and leaves it in the output.
        self.made.append(Replay(run, inputs, self.size_bytes, run(inputs).clone()))
        return self.made[-1]


def inputs_of(samples: int, *, side: int = 8, seed: int = 0, is_xl: bool = False) -> ForwardInputs:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(samples, 4, side, side, generator=generator)
    context = torch.randn(samples, 77, 2048 if is_xl else 64, generator=generator)
    times = torch.randint(0, 1000, (samples,), generator=generator).float()
    if not is_xl:
        return ForwardInputs(latents, times, context)
    return ForwardInputs(latents, times, context, torch.randn(samples, 1280, generator=generator), torch.full((samples, 6), 64.0))


def eager(inputs: ForwardInputs) -> Tensor:
    return forward(demo_parts().unet, inputs)


@torch.inference_mode()
def recorded(forwards: Forwards, inputs: ForwardInputs) -> Tensor:
    """What is predicted from the recording, which the second use of a size makes."""
    forwards.predict(inputs)
    return forwards.predict(inputs)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 7])
def test_a_recording_plays_what_the_network_says(samples: int) -> None:
    recorder = Recordings()
    forwards = Forwards(eager, recorder)
    first = recorded(forwards, inputs_of(samples))
    with torch.inference_mode():
        second = forwards.predict(inputs_of(samples, seed=1))
        assert torch.allclose(first, eager(inputs_of(samples)), atol=1e-5)
        assert torch.allclose(second, eager(inputs_of(samples, seed=1)), atol=1e-5)
    assert [replay.plays for replay in recorder.made] == [2]


@torch.inference_mode()
def test_what_stable_diffusion_xl_is_told_besides_is_played_too() -> None:
    recorder = Recordings()

    def run(inputs: ForwardInputs) -> Tensor:
        return forward(parts_of(XL).unet, inputs)

    forwards = Forwards(run, recorder)
    recorded(forwards, inputs_of(3, is_xl=True))
    told = inputs_of(3, seed=1, is_xl=True)
    assert torch.allclose(forwards.predict(told), run(told), atol=1e-5)
    assert recorder.made[0].plays == 2


@torch.inference_mode()
def test_numbers_of_samples_share_recordings_and_what_a_larger_one_left_does_no_harm() -> None:
    recorder = Recordings()
    forwards = Forwards(eager, recorder)
    context = inputs_of(8, seed=5).context
    for samples in (8, 7, 5, 6, 3, 4, 8):
        part = inputs_of(samples, seed=samples)
        # The same object again, as ready keys and values are.
        told = ForwardInputs(part.latents, part.timesteps, context if samples == 8 else part.context)
        for _ in range(3):
            assert torch.allclose(forwards.predict(told), eager(told), atol=1e-5)
    assert [replay.inputs.samples for replay in recorder.made] == [8, 6, 4]


@torch.inference_mode()
def test_sizes_that_are_asked_for_once_are_not_recorded() -> None:
    recorder = Recordings()
    forwards = Forwards(eager, recorder)
    for side in (8, 16):
        forwards.predict(inputs_of(2, side=side))
    assert not recorder.made
    forwards.predict(inputs_of(2, side=8))
    assert len(recorder.made) == 1


@torch.inference_mode()
def test_more_samples_than_any_recording_has_are_run_as_they_are() -> None:
    recorder = Recordings()
    forwards = Forwards(eager, recorder)
    assert torch.equal(recorded(forwards, inputs_of(33)), eager(inputs_of(33)))
    assert not recorder.made


@torch.inference_mode()
def test_recordings_keep_to_their_budget_and_the_one_played_longest_ago_leaves() -> None:
    recorder = Recordings(size_bytes=10**8)
    forwards = Forwards(eager, recorder, budget_bytes=2 * 10**8 + 10**7)
    for side in (8, 16):
        recorded(forwards, inputs_of(1, side=side))
    forwards.predict(inputs_of(1, side=8))
    recorded(forwards, inputs_of(1, side=24))
    assert forwards.recorded == 2
    forwards.predict(inputs_of(1, side=8))
    assert len(recorder.made) == 3, "the one in use stayed"
    recorded(forwards, inputs_of(1, side=16))
    assert len(recorder.made) == 4, "the other one left, and comes back"


@torch.inference_mode()
def test_a_device_that_can_not_record_draws_as_it_can_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recordings(fails=True)
    forwards = Forwards(eager, recorder)
    for side in (8, 16):
        assert torch.equal(recorded(forwards, inputs_of(2, side=side)), eager(inputs_of(2, side=side)))
    assert [record.message for record in caplog.records] == ["forwards can't be recorded, they are run one by one from now on"]


@torch.inference_mode()
def test_clearing_forgets_the_recordings_and_tells_their_bytes() -> None:
    forwards = Forwards(eager, Recordings(size_bytes=1000))
    recorded(forwards, inputs_of(2))
    assert forwards.clear() > 1000
    assert forwards.recorded == 0
    assert forwards.clear() == 0
    assert torch.allclose(recorded(forwards, inputs_of(2)), eager(inputs_of(2)), atol=1e-5)


def test_a_prediction_outlives_the_next_one() -> None:
    forwards = Forwards(eager, Recordings())
    first = recorded(forwards, inputs_of(2))
    kept = first.clone()
    recorded(forwards, inputs_of(2, seed=1))
    assert torch.equal(first, kept)


def drawn(*requests: Txt2Img, options: ForwardOptions) -> list[bytes]:
    studio = Studio({"demo": UnetModel("demo", demo_parts(), forwarding=options)})
    asked = [studio.ask(request) for request in requests]
    studio.draw()
    return [one.image.tobytes() for one in asked]


def neighbours() -> list[Txt2Img]:
    return [
        a_request(seed=1, steps=4),
        a_request(seed=2, steps=7, width=128, height=128),
        a_request(seed=3, steps=5, guidance_scale=1),
        a_request(seed=4, steps=6, prompt="a green star", samples=2),
        a_request(seed=5, steps=5, self_attention=True),
        a_request(seed=6, steps=4, prompt="a red ring AND a blue cross"),
        a_request(seed=7, steps=4, token_merging=True),
        a_request(seed=8, steps=3, width=128, height=128),
    ]


def test_a_deterministic_device_draws_every_picture_to_the_bit_as_if_it_were_alone() -> None:
    options = ForwardOptions(is_deterministic=True)
    together = drawn(*neighbours(), options=options)
    for request, picture in zip(neighbours(), together, strict=True):
        assert drawn(request, options=options) == [picture]


@torch.inference_mode()
def test_what_a_deterministic_device_sees_in_a_sample_depends_neither_on_its_neighbours_nor_on_its_place() -> None:
    forwards = Forwards(eager, pinned_samples=4)
    for side in (8, 16, 24):
        alone = forwards.predict(inputs_of(1, side=side, seed=1))
        one = inputs_of(1, side=side, seed=1)
        for samples in (2, 5):
            others = inputs_of(samples, side=side, seed=2)
            for place in range(samples + 1):
                latents, timesteps, context = (torch.cat([rest[:place], mine, rest[place:]]) for rest, mine in _pairs(others, one))
                assert torch.equal(forwards.predict(ForwardInputs(latents, timesteps, context))[place], alone[0])


def _pairs(others: ForwardInputs, one: ForwardInputs) -> list[tuple[Tensor, Tensor]]:
    return [(rest, mine) for rest, mine in zip(others.tensors, one.tensors, strict=True) if rest is not None and mine is not None]


def test_a_deterministic_device_draws_the_same_picture_as_another() -> None:
    request = a_request(seed=1)
    images = []
    for options in (ForwardOptions(), ForwardOptions(is_deterministic=True)):
        studio = Studio({"demo": UnetModel("demo", demo_parts(), forwarding=options)})
        asked = studio.ask(request)
        studio.draw()
        images.append(asked.image)
    assert greatest_difference(*images) <= 2
