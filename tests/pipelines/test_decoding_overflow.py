"""A picture that overflows half precision is decoded again in float32, and its neighbours are not touched."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.latents.decoding_overflow import decoded_in_any_case
from sdapi.pipelines.latents.latent_space import decoded
from sdapi.pipelines.scheduling.tickets import Trouble

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference


def a_vae(dtype: torch.dtype = torch.float16) -> Any:
    return copy.deepcopy(demo_parts().vae).to(dtype)


def small_and_large() -> Tensor:
    """Latents for two pictures, of which the second overflows what float16 holds, and not what float32 does."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    latents[1] *= 2e5
    return latents


@torch.inference_mode()
def test_only_what_overflowed_is_decoded_again() -> None:
    vae, latents = a_vae(), small_and_large()
    assert not torch.isfinite(decoded(vae, latents)[1]).all(), "it does overflow"
    pixels = decoded_in_any_case(vae, latents)
    assert torch.equal(pixels[0], decoded(vae, latents)[0].float())
    assert torch.allclose(pixels[1], decoded(a_vae().float(), latents[1:])[0], atol=1e-4)


@torch.inference_mode()
def test_the_network_stays_as_it_was() -> None:
    vae = a_vae()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    decoded_in_any_case(vae, small_and_large())
    assert vae.dtype == torch.float16
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_float32_can_not_hold_either_is_said(dtype: torch.dtype) -> None:
    latents = small_and_large()
    latents[0] = torch.inf
    with pytest.raises(ArithmeticError, match="overflowed"):
        decoded_in_any_case(a_vae(dtype), latents)


def test_a_job_whose_decoding_overflows_gets_its_picture() -> None:
    vae = a_vae()
    # Weights that float16 holds and activations that it does not; the norms that follow take the factor out again.
    vae.decoder.conv_in.weight.mul_(3e4)
    vae.decoder.conv_in.bias.mul_(3e4)
    pictures = []
    for network in (vae, copy.deepcopy(vae).float()):
        studio = Studio({"demo": UnetModel("demo", replace(demo_parts(), vae=network))})
        asked = studio.ask(a_request())
        studio.draw()
        pictures.append(asked.image)
    assert greatest_difference(*pictures) <= 1
    assert greatest_difference(pictures[0], draw_alone(a_request(prompt="a green star"))) > 20, "it is no empty picture"


def test_a_picture_that_is_no_numbers_fails_its_job() -> None:
    vae = a_vae(torch.float32)
    vae.decoder.conv_out.bias.fill_(torch.nan)
    studio = Studio({"demo": UnetModel("demo", replace(demo_parts(), vae=vae))})
    asked = studio.ask(a_request())
    studio.draw()
    assert isinstance(asked.results[0], Trouble)
