"""The latent space, made by hand: what each 8 x 8 px cell of a picture looks like on average, and how busy it is.

A latent is (4, height_px / 8, width_px / 8): three decorrelated colour means and one contrast, each with a standard deviation of
about `LATENT_STD` over the drawings. Because it is a formula, the denoiser can be trained at once; the autoencoder learns the
same mapping beside it. The small standard deviation moves the noise schedule towards the coarse structure that flat shapes
consist of (the resolution-dependent shift of "simple diffusion", Hoogeboom et al. 2023).
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .drawing import draw
from .scenes import draw_scene

LATENT_STD = 0.4
SCALING_FACTOR = 0.18215
"""SD 1.x's: the autoencoder's own latents are these divided by it."""


def to_pixels(images: list[Image.Image]) -> Tensor:
    """(n, 3, h, w) in -1..1."""
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 127.5 - 1


def cells(pixels: Tensor) -> Tensor:
    """(n, 4, h/8, w/8): mean red, green, blue in -1..1 and contrast of each cell, not yet standardised."""
    n, c, h, w = pixels.shape
    blocks = pixels.view(n, c, h // 8, 8, w // 8, 8)
    contrast = blocks.var(dim=(3, 5), correction=0).mean(1, keepdim=True).clamp(min=0).sqrt()
    return torch.cat([blocks.mean((3, 5)), contrast], dim=1)


@cache
def _whitening() -> tuple[Tensor, Tensor]:
    """Mean (4) and matrix (4, 4) that bring the cells of a fixed sample of drawings to zero mean and `LATENT_STD`, decorrelated."""
    rng = random.Random(7)
    sample = cells(to_pixels([draw(draw_scene(rng), 128, 128) for _ in range(600)]))
    flat = sample.permute(1, 0, 2, 3).reshape(4, -1).double()
    mean = flat.mean(1)
    matrix = torch.zeros(4, 4, dtype=torch.double)
    values, vectors = torch.linalg.eigh(torch.cov(flat[:3]))
    # The symmetric root keeps red, green and blue recognisable, whatever signs the eigenvectors come in.
    matrix[:3, :3] = vectors @ torch.diag(values.rsqrt()) @ vectors.T * LATENT_STD
    matrix[3, 3] = LATENT_STD / flat[3].std()
    return mean.float(), matrix.float()


def encode(pixels: Tensor) -> Tensor:
    """Pixels (n, 3, h, w) in -1..1 to latents as the denoiser sees them."""
    mean, matrix = _whitening()
    return torch.einsum("ij,njhw->nihw", matrix, cells(pixels) - mean.view(1, 4, 1, 1))


def preview(latents: Tensor) -> list[Image.Image]:
    """A rough picture of each latent without a decoder: its cell colours, magnified 8 times."""
    mean, matrix = _whitening()
    colours = torch.einsum("ij,njhw->nihw", torch.linalg.inv(matrix), latents.float()) + mean.view(1, 4, 1, 1)
    arrays = ((colours[:, :3].clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(a).resize((a.shape[1] * 8, a.shape[0] * 8), Image.Resampling.BICUBIC) for a in arrays]
