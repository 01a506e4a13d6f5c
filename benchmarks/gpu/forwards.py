"""What one forward takes as it is written and played from a recording, with what requests lay over it; and with projections joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from sdapi.pipelines.added.loras import Applied, Delta, Lora
from sdapi.pipelines.forwards.attention_choice import AttentionChoice, choose_attention, cuda_attention
from sdapi.pipelines.forwards.best_time import best_seconds
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.forwards.joined_projections import JoiningChoice
from sdapi.pipelines.forwards.overlay import Overlay
from sdapi.pipelines.forwards.unet_forward import Forwards, recorder_on
from sdapi.pipelines.scheduling.row import BatchKey

from ..table import NOT_MEASURED, Table
from .subjects import Subject

_PICTURE = 8
"""Pixels per latent, along each side."""
_TOKENS = 77
_RANK = 16
_SAMPLES = (2, 8)
"""One picture with guidance, and four."""
_USES = 8
"""More than a recording waits for."""
_SIZES = 6
"""Numbers that tell Stable Diffusion XL of the picture's size."""


@torch.inference_mode()
def forwards_table(subject: Subject, unet: Any) -> Table:
    """Of that network. It keeps its attention, but its weights lie otherwise in memory afterwards: as ours do."""
    processors = dict(unet.attn_processors)
    unet.to(memory_format=torch.channels_last)
    try:
        rows = [*_overlays(subject, unet), *_projections(subject, unet)]
    finally:
        unet.set_attn_processor(processors)
    note = (
        f"Best of five. Recorded: a CUDA graph; nothing is on a CPU. The LoRA is of rank {_RANK}, on every projection of every attention."
    )
    return Table(f"{subject.name}: one forward", ("as it is, ms", "recorded, ms", "times as fast"), tuple(rows), note=note)


def _overlays(subject: Subject, unet: Any) -> Iterator[tuple[str, ...]]:
    lora = _random_lora(unet)
    for samples in _SAMPLES:
        key = BatchKey("any", subject.side_px // _PICTURE, subject.side_px // _PICTURE, _TOKENS)
        merging = BatchKey("any", key.latent_height, key.latent_width, _TOKENS, merges_tokens=True)
        none: list[tuple[Applied, ...]] = [()] * samples
        nobody = [False] * samples
        overlays: Mapping[str, Overlay] = {
            "nothing laid over": Overlay(unet, key, none, nobody),
            "a LoRA": Overlay(unet, key, [(Applied(lora, 0.7),)] * samples, nobody),
            "a LoRA for half of them": Overlay(unet, key, [(Applied(lora, 0.7),), ()] * (samples // 2), nobody),
            "half of them perturbed": Overlay(unet, key, none, [True, False] * (samples // 2)),
            "tokens merged": Overlay(unet, merging, none, nobody),
        }
        for name, overlay in overlays.items():
            yield f"{name}, {samples} samples", *_cells(unet, overlay, samples)


def _projections(subject: Subject, unet: Any) -> Iterator[tuple[str, ...]]:
    """With the attention kernels that are fastest here."""
    side = subject.side_px // _PICTURE
    kernels = cuda_attention(unet) if unet.device.type == "cuda" else AttentionChoice(_ANY_KERNEL, lambda *_: 0.0)
    for samples in _SAMPLES:
        overlay = Overlay(unet, BatchKey("any", side, side, _TOKENS), [()] * samples, [False] * samples)
        for name, joining in (("three projections", None), ("joined projections", JoiningChoice(lambda _: 0.0))):
            choose_attention(unet, kernels, joining)
            yield f"{name}, {samples} samples", *_cells(unet, overlay, samples)


_ANY_KERNEL = {"default": nn.functional.scaled_dot_product_attention}


def _cells(unet: Any, overlay: Overlay, samples: int) -> tuple[str, str, str]:
    told = _inputs(unet, overlay.batch, samples)
    plain_s = best_seconds(lambda: overlay.forward(told), device=unet.device)
    recorder = recorder_on(unet.device, has_fixed_kernels=False)
    if recorder is None:
        return f"{plain_s * 1000:.2f}", NOT_MEASURED, NOT_MEASURED
    forwards = Forwards(partial(forward, unet), recorder())
    for _ in range(_USES):
        forwards.predict_under(overlay, told)
    if not forwards.recorded:
        return f"{plain_s * 1000:.2f}", "none was made", NOT_MEASURED
    recorded_s = best_seconds(lambda: forwards.predict_under(overlay, told), device=unet.device)
    return f"{plain_s * 1000:.2f}", f"{recorded_s * 1000:.2f}", f"{plain_s / recorded_s:.2f}"


def _inputs(unet: Any, key: BatchKey, samples: int) -> ForwardInputs:
    config, like = unet.config, {"device": unet.device, "dtype": unet.dtype}
    latents = torch.randn(samples, config.in_channels, key.latent_height, key.latent_width, **like)
    times, context = torch.full((samples,), 500.0, device=unet.device), torch.randn(samples, _TOKENS, config.cross_attention_dim, **like)
    if config.addition_embed_type != "text_time":
        return ForwardInputs(latents, times, context)
    width = config.projection_class_embeddings_input_dim - _SIZES * config.addition_time_embed_dim
    return ForwardInputs(latents, times, context, torch.randn(samples, width, **like), torch.full((samples, _SIZES), 512.0, **like))


def _random_lora(unet: Any) -> Lora:
    def random(*shape: int) -> torch.Tensor:
        numbers: torch.Tensor = torch.randn(shape, device=unet.device, dtype=unet.dtype)
        return numbers / float(shape[1] ** 0.5)

    found = {path: module for path, module in unet.named_modules() if isinstance(module, nn.Linear) and ".attn" in path}
    deltas = {path: Delta(random(_RANK, one.in_features), None, random(one.out_features, _RANK) / 10, 1.0) for path, one in found.items()}
    return Lora("random", deltas, {})
