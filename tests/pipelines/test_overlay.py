"""What is laid over a network is recorded along with it, once for whoever takes part, and nobody's picture can tell."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdapi.catalog import Assets
from sdapi.domain.generation import ControlNet, Txt2Img
from sdapi.pipelines.added.loras import Applied, Delta, Lora
from sdapi.pipelines.control.controlnets import Control, Sample
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.forwards.control_forwards import ControlForwards
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.forwards.overlay import Overlay
from sdapi.pipelines.forwards.recordings import Recording, Run
from sdapi.pipelines.forwards.unet_forward import Forwards
from sdapi.pipelines.guidance.halves import Words
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.scheduling.row import BatchKey

from .control_nets import a_control_net
from .drawing import Studio, a_request, greatest_difference
from .lora_files import LINEAR, OUTPUT, a_lora, install, kohya
from .test_compiled_forwards import Compiled
from .test_controlnets import a_control_request, a_hint, nets
from .test_forwards import Recordings, inputs_of
from .test_panorama import small
from .test_perturbed_attention import outspoken

TOGETHER = 2
"""Of 255."""


class RecordingModel(UnetModel):
    """The real model, whose forwards are recorded as on a CUDA device."""

    def __init__(self, models_dir: Path, parts: UnetComponents | None = None) -> None:
        super().__init__("demo", parts or outspoken(), Assets(models_dir))
        self.recorder = Recordings()
        self._forwards = Forwards(partial(forward, self._parts.unet), self.recorder)
        self.net_recorders: list[Recordings] = []
        self._control_forwards = ControlForwards(self._another_recorder)

    def _another_recorder(self) -> Recordings:
        self.net_recorders.append(Recordings())
        return self.net_recorders[-1]

    @property
    def plays(self) -> int:
        return sum(replay.plays for replay in self.recorder.made)


def drawn(model: UnetModel, *requests: Txt2Img | ControlNet) -> list[Image.Image]:
    """The requests' pictures, drawn together."""
    studio = Studio({"demo": model}, control_nets=nets())
    asked = [studio.ask(request, control_image=a_hint() if isinstance(request, ControlNet) else None) for request in requests]
    studio.draw()
    return [one.image for one in asked]


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    for number in (1, 2, 3, 4, 5):
        install(tmp_path, f"lora{number}", kohya(a_lora(number, text=())))
    return tmp_path


def using(*uses: tuple[str, float], **changes: object) -> Txt2Img:
    return a_request(loras=[{"id": name, "strength": strength} for name, strength in uses], **{"steps": 8, **changes})


FEATURES: dict[str, Txt2Img | ControlNet] = {
    "a LoRA": using(("lora1", 0.7)),
    "two LoRAs": using(("lora1", 0.7), ("lora2", -0.4)),
    "a control net": a_control_request(steps=8),
    "guessing": a_control_request(steps=8, guess_mode=True),
    "two control nets": a_control_request(steps=8, controlnet_models=("one", "pooled")),
    "perturbed": a_request(steps=8, self_attention=True),
    "merged": a_request(steps=8, token_merging=True),
    "a panorama": a_request(steps=4, panorama=True, width=256, height=128),
    "all": using(("lora1", 0.7), self_attention=True, token_merging=True),
    "a led panorama": using(("lora2", 1.0), steps=4, panorama=True, self_attention=True, width=256, height=128),
}


@pytest.mark.parametrize("feature", list(FEATURES))
def test_a_picture_from_recordings_is_the_one_without(models_dir: Path, feature: str) -> None:
    parts = small() if "panorama" in feature else None
    model = RecordingModel(models_dir, parts)
    (picture,) = drawn(model, FEATURES[feature])
    (expected,) = drawn(UnetModel("demo", parts or outspoken(), Assets(models_dir)), FEATURES[feature])
    assert model.plays >= 3
    assert greatest_difference(picture, expected) <= 1


def test_rows_that_come_and_go_with_whatever_laid_over_them_equal_themselves_alone(models_dir: Path) -> None:
    requests: list[Txt2Img | ControlNet] = [
        using(("lora1", 1.0), seed=1, steps=11),
        using(seed=2, steps=11),
        using(("lora1", -0.3), seed=3, guidance_scale=1, steps=12),
        using(("lora1", 0.5), ("lora2", 0.6), seed=4, steps=20),
        a_request(seed=5, steps=11, self_attention=True),
        a_control_request(seed=6, steps=12),
        using(("lora2", 0.4), seed=7, steps=20, samples=2),
    ]
    model = RecordingModel(models_dir)
    pictures = drawn(model, *requests)
    for picture, request in zip(pictures, requests, strict=True):
        (alone,) = drawn(UnetModel("demo", outspoken(), Assets(models_dir)), request)
        assert greatest_difference(picture, alone) <= TOGETHER, request
    assert model.plays >= 3


def test_one_recording_serves_every_strength_and_everybody(models_dir: Path) -> None:
    model = RecordingModel(models_dir)
    drawn(model, using(("lora1", 0.7)))
    (made,) = model.recorder.made
    for strength, guidance_scale in ((0.3, 7.5), (-1.0, 3.0)):
        before = made.plays
        request = using(("lora1", strength), prompt="a green star", seed=3, guidance_scale=guidance_scale, steps=5)
        (picture,) = drawn(model, request)
        (expected,) = drawn(UnetModel("demo", outspoken(), Assets(models_dir)), request)
        assert greatest_difference(picture, expected) <= 1
        assert (len(model.recorder.made), made.plays - before) == (1, 5)


def test_plain_forwards_keep_recordings_of_their_own(models_dir: Path) -> None:
    model = RecordingModel(models_dir)
    (before,) = drawn(model, a_request())
    drawn(model, using(("lora1", 1.0)), a_request(self_attention=True), a_control_request())
    (after,) = drawn(model, a_request())
    assert before.tobytes() == after.tobytes()


def test_each_net_has_recordings_of_its_own_which_leave_when_asked(models_dir: Path) -> None:
    model = RecordingModel(models_dir)
    request = a_control_request(steps=8, controlnet_models=("one", "pooled"))
    (picture,) = drawn(model, request)
    assert [[replay.plays for replay in recorder.made] for recorder in model.net_recorders] == [[7], [7]]
    (expected,) = drawn(UnetModel("demo", outspoken()), request)
    assert greatest_difference(picture, expected) <= 1
    assert model.clear_caches() > 0
    assert model._control_forwards.recorded == 0


@torch.inference_mode()
def test_what_a_recorded_net_says_is_what_it_says_to_the_bit_for_whichever_sizes_and_samples() -> None:
    net = nets()["one"]
    recorded = ControlForwards(Recordings)
    for seed in range(4):
        for side, led in ((8, (0, 1)), (16, (0, 1)), (8, (1,))):
            told = inputs_of(2, side=side, seed=seed)
            control = Control(net, net.encoded(torch.rand(side * 8, side * 8, 3).numpy()), 0.5 + seed / 10, guess_mode=False)
            samples = [Sample((control,) if place in led else (), is_unconditional=False) for place in range(2)]
            words = [Words(context) for context in told.context]
            expected = ControlForwards(None).residuals(samples, told, words)
            found = recorded.residuals(samples, told, words)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert recorded.recorded == 3


def test_recordings_of_a_net_leave_with_it() -> None:
    net = a_control_net(9)
    control_forwards, told = ControlForwards(StillRecorder), inputs_of(1)
    sample = [Sample((Control(net, net.encoded(torch.zeros(64, 64, 3).numpy()), 1.0, guess_mode=False),), is_unconditional=False)]
    with torch.inference_mode():
        for _ in range(3):
            control_forwards.residuals(sample, told, [Words(told.context[0])])
    assert control_forwards.recorded == 1
    gone = weakref.ref(net)
    del net, sample
    assert gone() is None
    assert control_forwards.recorded == 0


UNET = outspoken().unet
KEY = BatchKey("demo", 8, 8, 77)


def a_delta_of(path: str, seed: int, *, scale: float = 1.0) -> Delta:
    generator = torch.Generator().manual_seed(seed)
    outputs, inputs = UNET.get_submodule(path).weight.shape
    return Delta(torch.randn(4, inputs, generator=generator) / 8, None, torch.randn(outputs, 4, generator=generator) / 2, scale)


def a_loaded_lora(seed: int, *, scale: float = 1.0) -> Lora:
    return Lora(f"lora{seed}", {path: a_delta_of(path, seed, scale=scale) for path in (OUTPUT, LINEAR)}, {})


def an_overlay(*loras: tuple[Applied, ...], perturbed: int | None = None, key: BatchKey = KEY) -> Overlay:
    return Overlay(UNET, key, loras, [place == perturbed for place in range(len(loras))])


@torch.inference_mode()
def test_to_the_bit_it_is_what_the_network_says_with_it_laid_over() -> None:
    """Padded as well: three samples take a recording of four."""
    first, second = Applied(a_loaded_lora(1), 0.5), Applied(a_loaded_lora(2), -1.0)
    forwards = Forwards(partial(forward, UNET), recorder := Recordings())
    for seed in range(10):
        residuals = tuple(torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed)) for shape in level_shapes())
        told = replace(inputs_of(3, seed=seed), residuals=residuals)
        overlay = an_overlay((first,), (first, second), (replace(second, strength=seed / 5),), perturbed=seed % 3)
        steady = overlay.steady(told)
        assert steady is not None
        laid, inputs = steady
        assert torch.equal(forwards.predict_under(overlay, told), laid.forward(inputs.padded(4))[:3])
        assert torch.allclose(forwards.predict_under(overlay, told), overlay.forward(told), atol=2e-5)
    # Whoever has no strength in one of them is another case than everybody having some.
    assert len(recorder.made) == 1
    assert recorder.made[0].plays >= 14


def level_shapes() -> list[tuple[int, ...]]:
    """(channels, h, w) of what control nets add, for latents of 8 by 8."""
    shapes: list[tuple[int, ...]] = []
    residuals = nets()["one"].residuals(*control_inputs())
    shapes.extend(tuple(level.shape[1:]) for level in residuals)
    return shapes


def control_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    told = inputs_of(1)
    return told.latents, told.timesteps, told.context, nets()["one"].encoded(torch.zeros(64, 64, 3).numpy())


@torch.inference_mode()
def test_a_lora_that_comes_to_no_number_harms_no_neighbour() -> None:
    broken, sound = Applied(a_loaded_lora(1, scale=float("inf")), 1.0), Applied(a_loaded_lora(2), 1.0)
    overlay, told = an_overlay((broken,), (sound,)), inputs_of(2)
    steady = overlay.steady(told)
    assert steady is not None
    predicted = steady[0].forward(steady[1])
    assert not torch.isfinite(predicted[0]).all()
    assert torch.allclose(predicted[1], overlay.forward(told)[1], atol=1e-5)


@torch.inference_mode()
def test_where_most_would_be_computed_for_nobody_nothing_is_recorded() -> None:
    uses = [(Applied(a_loaded_lora(seed), 1.0),) for seed in range(5)]
    overlay, told = an_overlay(*uses), inputs_of(5)
    forwards = Forwards(partial(forward, UNET), recorder := Recordings())
    for _ in range(10):
        assert torch.equal(forwards.predict_under(overlay, told), overlay.forward(told))
    assert not recorder.made


@dataclass
class Still:
    """A recording that keeps nothing but what it was made of once, as a graph holds on to no object."""

    output: Tensor
    size_bytes: int = 1000

    def play(self) -> Tensor:
        return self.output


class StillRecorder:
    def record(self, run: Run, inputs: ForwardInputs) -> Recording:
        return Still(run(inputs).clone())


@torch.inference_mode()
def test_a_recording_keeps_no_lora_in_memory_and_leaves_with_it() -> None:
    lora, other = a_loaded_lora(1), a_loaded_lora(2)
    forwards, told = Forwards(partial(forward, UNET), StillRecorder()), inputs_of(1)
    for _ in range(6):
        forwards.predict_under(an_overlay((Applied(lora, 0.5),)), told)
        forwards.predict_under(an_overlay((Applied(other, 0.5),)), told)
    assert forwards.recorded == 2
    gone = weakref.ref(lora)
    del lora
    gc.collect()
    assert gone() is None
    # The same file once more, at other places of the device's memory.
    back = an_overlay((Applied(a_loaded_lora(1), 0.5),))
    assert torch.equal(forwards.predict_under(back, told), back.forward(told))
    assert forwards.recorded == 1, "the other one's is still there"


def test_a_lora_is_recorded_only_when_it_comes_again_and_again(models_dir: Path) -> None:
    model = RecordingModel(models_dir)
    drawn(model, using(("lora1", 1.0), steps=5))
    assert not model.recorder.made
    drawn(model, using(("lora1", 1.0), steps=5))
    assert len(model.recorder.made) == 1


@torch.inference_mode()
def test_one_that_has_no_memory_to_be_recorded_costs_the_others_theirs_and_is_left_alone_for_a_while() -> None:
    forwards = Forwards(partial(forward, UNET), recorder := Recordings())
    for _ in range(2):
        forwards.predict(inputs_of(1))
    real, failures = recorder.record, []

    def record(run: Run, inputs: ForwardInputs) -> Recording:
        if inputs.samples > 2:
            failures.append(inputs.samples)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(run, inputs)

    recorder.record = record  # type: ignore[method-assign]
    for _ in range(20):
        assert torch.allclose(forwards.predict(inputs_of(4)), forward(UNET, inputs_of(4)), atol=1e-5)
    assert (failures, forwards.recorded) == ([4], 0)
    for _ in range(2):
        forwards.predict(inputs_of(1))
    assert forwards.recorded == 1, "smaller ones are recorded as ever"


FORBIDDEN = {"nonzero", "_local_scalar_dense", "lift_fresh", "lift_fresh_copy", "masked_select", "is_nonzero", "equal", "_unique2"}


@torch.inference_mode()
def test_what_can_not_be_recorded_costs_plain_forwards_and_other_overlays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    forwards = Forwards(partial(forward, UNET), recorder := Recordings())
    perturbed, lora = an_overlay((), (), perturbed=0), an_overlay((Applied(a_loaded_lora(1), 1.0),), ())
    told, real = inputs_of(2), recorder.record

    def record(run: Run, inputs: ForwardInputs) -> Recording:
        if inputs.perturbed is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return real(run, inputs)

    recorder.record = record  # type: ignore[method-assign]
    for _ in range(8):
        assert torch.allclose(forwards.predict_under(perturbed, told), perturbed.forward(told), atol=1e-5)
        assert torch.allclose(forwards.predict_under(lora, told), lora.forward(told), atol=1e-5)
        forwards.predict(told)
    assert forwards.recorded == 2
    assert [record.message for record in caplog.records] == ["forwards with this laid over them can't be recorded"]


@torch.inference_mode()
def test_where_recording_is_given_up_what_is_laid_over_the_network_still_counts_and_nothing_compiled_takes_its_place() -> None:
    compiled = Compiled(ready={1})
    forwards = Forwards(partial(forward, UNET), Recordings(fails=True), compiled=compiled)
    overlay, told = an_overlay((Applied(a_loaded_lora(1), 1.0),)), inputs_of(1)
    for _ in range(10):
        assert torch.equal(forwards.predict_under(overlay, told), overlay.forward(told))
    assert not compiled.ran


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what would have to wait for a device, or bring something there: no recording survives that."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.found.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_what_is_recorded_neither_waits_for_the_device_nor_brings_anything_there() -> None:
    key = replace(KEY, latent_height=16, latent_width=16, merges_tokens=True)
    overlay = an_overlay((Applied(a_loaded_lora(1), 0.5),), (), perturbed=1, key=key)
    steady = overlay.steady(inputs_of(2, side=16))
    assert steady is not None
    with torch.inference_mode(), Watching() as watching:
        steady[0].forward(steady[1])
    assert "scatter_reduce" in watching.found, "tokens were merged"
    assert not watching.found & FORBIDDEN
