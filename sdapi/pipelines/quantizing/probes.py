"""What a network is asked before and after its weights change, to see whether it still says the same: always the same questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sdapi.domain.families import DEFAULT_GUIDANCE, WholeFamily
from sdapi.domain.generation import Txt2Img
from sdapi.pipelines.families.whole import WholeModel
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, conditions_of, forward
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.loading.whole_loader import WholeComponents
from sdapi.pipelines.words.prompts import PromptEncoder

_PROMPTS: Final = ("a red circle on a blue background", "")
"""As a picture with guidance asks: with words and without."""
_GUIDANCE: Final = 7.5
_LATENT_SIDE: Final = 32
"""A small picture's: layers are the same for all sizes."""
_LATENT_CHANNELS: Final = 4
_SIDE_PX: Final = 256
_STEPS: Final = 3
_CALLS: Final = 2 * _STEPS
"""Some pipelines ask twice a step, with the prompt and without."""


@dataclass(frozen=True)
class Probe:
    """Questions to a network, as they come up in the beginning of a drawing, and what it said then."""

    ask: Callable[[], list[Tensor]]
    """What it says now: the answers in the same order, in float32, on the network's device."""
    expected: list[Tensor]
    content: list[float]
    """How much each of those says, as the length of a vector."""


@torch.inference_mode()
def unet_probe(parts: UnetComponents) -> Probe:
    """What DDIM would ask in the first three of four steps of a small picture with guidance. Raises what the networks raise."""
    unet = parts.unet
    encoder = PromptEncoder(parts.tokenizer, parts.text_encoder, parts.tokenizer_2, parts.text_encoder_2)
    words = [encoder.encode(prompt, chunks=1) for prompt in _PROMPTS]
    context = torch.stack([each.context for each in words])
    noise = torch.randn(1, _LATENT_CHANNELS, _LATENT_SIDE, _LATENT_SIDE, generator=torch.Generator().manual_seed(0))
    latents = noise.to(unet.device)
    # Of inpainting models: nothing is masked.
    others = latents.new_zeros(1, unet.config.in_channels - _LATENT_CHANNELS, _LATENT_SIDE, _LATENT_SIDE)
    steps: Any = DDIMScheduler.from_config(dict(parts.scheduler_config), timestep_spacing="leading", steps_offset=1, clip_sample=False)
    steps.set_timesteps(_STEPS + 1)
    asked: list[ForwardInputs] = []
    expected: list[Tensor] = []
    for time in steps.timesteps[:_STEPS]:
        shown = torch.cat([latents, others], dim=1).expand(len(words), -1, -1, -1).to(unet.dtype)
        times = torch.full((len(words),), float(time), device=unet.device)
        asked.append(ForwardInputs(shown, times, context, *conditions_of(words, shown)))
        led, free = forward(unet, asked[-1]).float()
        expected += [led, free]
        latents = steps.step((free + _GUIDANCE * (led - free))[None], time, latents).prev_sample

    @torch.inference_mode()
    def ask() -> list[Tensor]:
        return [answer for inputs in asked for answer in forward(unet, inputs).float()]

    seen = [latents[:_LATENT_CHANNELS].float() for inputs in asked for latents in inputs.latents]
    return Probe(ask, expected, [_beside_noise(*pair) for pair in zip(expected, seen, strict=True)])


def _beside_noise(answer: Tensor, shown: Tensor) -> float:
    """How much an answer says that isn't the noise that was shown: that is nearly all of it in the first steps, and none of the picture."""
    noise = shown * ((answer * shown).sum() / shown.square().sum())
    return float((answer - noise).norm())


def whole_probe(model_id: str, family: WholeFamily, parts: WholeComponents) -> Probe:
    """What a pipeline asks its network in the first steps of a small picture, whatever family it is of.

    Raises InvalidRequest where it draws nothing from words alone, and what the pipeline raises.
    """
    network = parts.denoiser
    asked: list[tuple[Any, Any]] = []
    answered: list[list[Tensor]] = []

    def note_question(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if len(asked) < _CALLS:
            asked.append((_copied(args), _copied(kwargs)))

    def note_answer(_: Any, __: Any, answer: Any) -> None:
        if len(answered) < _CALLS:
            answered.append([tensor.float().clone() for tensor in _tensors(answer)])

    model = WholeModel(model_id, family, parts)
    request = Txt2Img(
        checkpoint=model_id,
        prompt=_PROMPTS[0],
        width=_SIDE_PX,
        height=_SIDE_PX,
        seed=0,
        steps=_STEPS,
        guidance_scale=DEFAULT_GUIDANCE[family],
    )
    (row,) = model.prepare(request, None)
    listening = network.register_forward_pre_hook(note_question, with_kwargs=True), network.register_forward_hook(note_answer)
    try:
        for _ in range(_STEPS):
            model.predict([row])
    finally:
        row.close()
        for hook in listening:
            hook.remove()

    @torch.no_grad()
    def ask() -> list[Tensor]:
        return [answer.float() for args, kwargs in asked for answer in _tensors(network(*args, **kwargs))]

    expected = [answer for answers in answered for answer in answers]
    return Probe(ask, expected, [float(answer.norm()) for answer in expected])


def _copied(value: Any) -> Any:
    """With every tensor copied: pipelines may write into theirs."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return type(value)(_copied(each) for each in value) if type(value) in (list, tuple) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
