"""Brings models onto one device, whatever kind they are of, in its number formats."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from sdapi.catalog import WHOLE_FAMILIES, Asset, AssetKind, Assets, Catalog, ModelBroken
from sdapi.domain.errors import ModelNotFound
from sdapi.domain.models_in_memory import film_ids
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.forwards.number_formats import NumberFormats
from sdapi.pipelines.forwards.unet_forward import ForwardOptions
from sdapi.pipelines.loading.loader import load_checkpoint, load_controlnet
from sdapi.pipelines.loading.whole_loader import load_whole
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.quantizing.quantizer import Quantizer
from sdapi.pipelines.samplers.plan_cache import PlanShelf
from sdapi.pipelines.scheduling.models import Model

from .families.film import open_film_model
from .families.unet import UnetModel
from .families.whole import WholeModel
from .trained_maps.shelf import AnnotatorShelf
from .upscalers.kinds import Upscaler
from .upscalers.loading import load_upscaler


@dataclass(frozen=True)
class DeviceModels:
    """Reads them; for the loading threads. What all models of the device share is handed on to each."""

    catalog: Catalog
    assets: Assets
    device: torch.device
    formats: NumberFormats
    memory: Memory
    annotators: AnnotatorShelf
    forwarding: ForwardOptions
    quantizer: Quantizer | None
    """None: weights stay in the formats they are loaded in."""
    plans: PlanShelf = field(default_factory=PlanShelf)

    def checkpoint(self, model_id: str) -> Model:
        """A checkpoint, or what draws films. Raises ModelNotFound, ModelBroken and whatever else reading it raises."""
        formats = self.formats
        if film_ids(model_id) is not None:
            return open_film_model(
                model_id, self.assets.films, self.catalog, device=self.device, dtype=formats.others, is_dtype_chosen=formats.is_chosen
            )
        checkpoint = self.catalog.get(model_id)
        if checkpoint.family in WHOLE_FAMILIES:
            whole = load_whole(checkpoint, device=self.device, dtype=formats.others, is_dtype_chosen=formats.is_chosen)
            if self.quantizer is not None:
                whole = self.quantizer.whole(model_id, checkpoint.family, whole)
            return WholeModel(model_id, checkpoint.family, whole)
        parts = load_checkpoint(checkpoint, device=self.device, dtype=formats.predicting, vae_dtype=formats.pictures)
        if self.quantizer is not None:
            parts = self.quantizer.unet(model_id, parts)
        return UnetModel(model_id, parts, self.assets, self.memory, self.annotators, self.forwarding, self.plans.of)

    def control_net(self, net_id: str) -> ControlNetwork:
        """Raises ModelBroken."""
        asset = self._asset("controlnet", net_id, "control net")
        return ControlNetwork(net_id, load_controlnet(asset, device=self.device, dtype=self.formats.predicting))

    def upscaler(self, upscaler_id: str) -> Upscaler:
        """Raises ModelBroken."""
        asset = self._asset("upscaler", upscaler_id, "upscaler")
        return load_upscaler(asset, device=self.device, dtype=self.formats.pictures)

    def _asset(self, kind: AssetKind, asset_id: str, called: str) -> Asset:
        try:
            return self.assets.get(kind, asset_id)
        except ModelNotFound as error:
            raise ModelBroken(asset_id, f"There is no {called} named {asset_id!r} any more.") from error
