"""How control nets lead the rows of one request: the map they are shown, encoded by each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from sdapi.domain.control_maps import ControlMap, control_map_of
from sdapi.domain.generation import ControlNet
from sdapi.pipelines.control.annotators import Map
from sdapi.pipelines.control.controlnets import Control, ControlNetwork
from sdapi.pipelines.trained_maps.shelf import AnnotatorShelf


def controls_of(
    request: ControlNet,
    leading: Image.Image,
    mask_image: Image.Image | None,
    control_nets: Sequence[ControlNetwork],
    annotators: AnnotatorShelf,
    *,
    unet: Any,
    model_id: str,
) -> list[tuple[Control, ...]]:
    """One entry per sample, each with the nets in the request's order. `leading` has the size of the drawing.

    Raises ModelBroken when a net doesn't fit the UNet of the model or an annotator can't be read, and InvalidRequest.
    """
    for network in control_nets:
        network.check_fits(unet, model_id)

    def led_by(hint: Map) -> tuple[Control, ...]:
        scales = zip(control_nets, request.scale_of_each_net, strict=True)
        return tuple(Control(network, network.encoded(hint), scale, request.guess_mode) for network, scale in scales)

    seeds = [(request.seed + sample) % 2**32 for sample in range(request.samples)]
    if request.auto_hint and request.controlnet_type is not None and control_map_of(request.controlnet_type) is ControlMap.SHUFFLE:
        return [led_by(annotators.control_map(request, leading, seed=seed, mask=mask_image)) for seed in seeds]
    # All other maps are the same for every seed, and may take a network seconds.
    return [led_by(annotators.control_map(request, leading, seed=seeds[0], mask=mask_image))] * request.samples
