"""Panoramas: pictures larger than the model knows, drawn in overlapping windows of the size it knows, without an edge at the sides.

At every step each window's noise is predicted for itself, and where windows overlap their mean counts (Bar-Tal et al. 2023,
"MultiDiffusion"), most that of the window whose middle is nearest (Barbero Jiménez 2023, "Mixture of Diffusers"): an even mean of
windows that disagree leaves noise in the picture. The sampler then steps the picture as a whole. Windows that leave at the right come
in at the left, so that the picture can be laid side by side with itself. One no wider than a window is drawn in windows of its own
width, moved around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdapi.domain.windows import WINDOWS_OVER_A_PLACE
from sdapi.pipelines.scheduling.row import Row, Window

_USUAL_WINDOW = 64
"""Of models that don't say which size they were trained at, in latents: Stable Diffusion 1's."""
_SPREAD = 0.3
"""See Window: halfway between two middles both count alike, and at its edge a window counts next to nothing."""
_WRAPPED = 8
"""Latents from the other side that are decoded at each side: about as far as a VAE's decoder sees."""


def window_of(unet: Any, *, latent_height: int, latent_width: int) -> Window:
    """The window in which this model draws a picture of this size: what it was trained at, or less where the picture has less."""
    trained = unet.config.get("sample_size") or _USUAL_WINDOW
    height, width = (trained, trained) if isinstance(trained, int) else trained
    return Window(min(height, latent_height), min(width, latent_width), WINDOWS_OVER_A_PLACE, _SPREAD)


@dataclass(frozen=True)
class _Place:
    """Where one window of a row lies."""

    row: int
    top: int
    columns: Tensor
    """Of the row's latents, in the window's order."""

    def cut(self, row: Row, window: Window) -> Row:
        """The row as if the window were all of its picture."""
        shown = None if row.shown is None else self._part(row.shown, window)
        return replace(row, latents=self._part(row.latents, window), shown=shown, window=None)

    def _part(self, whole: Tensor, window: Window) -> Tensor:
        return whole[:, :, self.top : self.top + window.latent_height].index_select(-1, self.columns)


def predict_in_windows(rows: Sequence[Row], predict: Callable[[Sequence[Row]], list[Tensor]]) -> list[Tensor]:
    """The noise prediction of each row, which all have one size of window, from `predict`ing for windows.

    So many windows share a forward as cover the largest of the pictures: never more than a plain picture of that size takes.
    """
    window = rows[0].window
    assert window is not None  # noqa: S101 - all rows of a batch have the same
    places = [_place(number, row.latents, window, *corner) for number, row in enumerate(rows) for corner in window.corners(row.latents)]
    area = max(row.latents.shape[-2] * row.latents.shape[-1] for row in rows)
    at_once = max(len(rows), area // (window.latent_height * window.latent_width))
    # Sums of many half floats would lose what the mean is to keep.
    sums = [torch.zeros_like(row.latents, dtype=torch.float32) for row in rows]
    weights = [torch.zeros_like(total) for total in sums]
    weight = _weight(window, rows[0].latents.device)
    for chunk in _chunks(places, at_once):
        for place, predicted in zip(chunk, predict([place.cut(rows[place.row], window) for place in chunk]), strict=True):
            lines = slice(place.top, place.top + window.latent_height)
            sums[place.row][:, :, lines].index_add_(-1, place.columns, predicted.float() * weight)
            weights[place.row][:, :, lines].index_add_(-1, place.columns, weight.expand(predicted.shape))
    return [(total / weighed).to(row.latents.dtype) for row, total, weighed in zip(rows, sums, weights, strict=True)]


def decoded_in_the_round(latents: Tensor, decode: Callable[[Tensor], Image.Image]) -> Image.Image:
    """The picture that latents stand for which go on from their right side at their left: decoded with some of each beyond the other."""
    width, margin = latents.shape[-1], min(_WRAPPED, latents.shape[-1])
    picture = decode(torch.cat([latents[..., -margin:], latents, latents[..., :margin]], dim=-1))
    cell_px = picture.width // (width + 2 * margin)
    return picture.crop((margin * cell_px, 0, (margin + width) * cell_px, picture.height))


def _place(row: int, latents: Tensor, window: Window, top: int, left: int) -> _Place:
    width = latents.shape[-1]
    return _Place(row, top, torch.arange(left, left + window.latent_width, device=latents.device) % width)


def _weight(window: Window, device: torch.device) -> Tensor:
    """(height, width) of the window: what its word counts at each of its places."""
    down, across = (_bell(cells, window.spread, device) for cells in (window.latent_height, window.latent_width))
    return down[:, None] * across


def _bell(cells: int, spread: float, device: torch.device) -> Tensor:
    from_middle = (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) * 2 / cells - 1
    return torch.exp(-((from_middle / spread) ** 2) / 2)


def _chunks(places: list[_Place], size: int) -> Iterator[list[_Place]]:
    for first in range(0, len(places), size):
        yield places[first : first + size]
