"""From what was asked to what is drawn: the model looked up, its own words and defaults, a concrete seed, the input pictures stored."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import replace
from typing import Any, assert_never

from PIL import Image

from sdapi.catalog import UNET_FAMILIES, Assets, Catalog, Checkpoint
from sdapi.dialects.base import Asked, Picture, PictureRole
from sdapi.domain.enhancing import EnhanceWith
from sdapi.domain.families import DEFAULT_GUIDANCE
from sdapi.domain.generation import MAX_STEPS, AnyRequest, ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.safety import SafetyMode
from sdapi.png_encoding import encode_png
from sdapi.remote_images import RemoteImages
from sdapi.storage import Storage

from .additions_check import Looked, look_up
from .control_check import check_control
from .family_check import suited_to_family
from .film_check import choose_film_model
from .format_check import check_format
from .highres_check import check_highres
from .panorama_check import check_panorama
from .prompt_check import check_prompt
from .safety_check import choose_safety
from .upscaler_check import DEFAULT_UPSCALER, check_fits, check_size, choose_upscaler
from .wording import Worded, Wording


class RequestBuilder:
    """Turns `Asked` into a domain request. Whatever is wrong ends here, and then nothing is left behind."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        assets: Assets,
        images: RemoteImages,
        storage: Storage,
        default_model: str,
        merges_tokens_by_default: bool = False,
        safety: SafetyMode = "optional",
        enhance_with: EnhanceWith = "model",
    ) -> None:
        self._catalog = catalog
        self._assets = assets
        self._images = images
        self._storage = storage
        self._default_model = default_model
        self._merges_tokens_by_default = merges_tokens_by_default
        self._safety: SafetyMode = safety
        self._wording = Wording(assets, enhance_with=enhance_with)

    def model_id(self, asked: Asked) -> str:
        """The id or alias of the checkpoint as the client knows it."""
        return asked.model_id or self._default_model

    async def build(self, asked: Asked, *, public_url: str) -> AnyRequest:
        """Raises ModelNotFound, InvalidRequest, NotAvailable, ImageRefused; input pictures that were stored by then are removed again."""
        checkpoint = None if asked.kind == "upscale" else await asyncio.to_thread(self._model, asked)
        looked = await asyncio.to_thread(look_up, asked, self._assets)
        net_ids = await asyncio.to_thread(check_control, asked, self._assets)
        upscaler = await asyncio.to_thread(choose_upscaler, asked, self._assets)
        safety = await asyncio.to_thread(choose_safety, asked, self._assets, self._safety)
        if checkpoint is not None:
            check_highres(asked, checkpoint)
            check_panorama(asked)
            check_prompt(asked, checkpoint)
            named = replace(asked, controlnet_models=net_ids)
            worded = await asyncio.to_thread(self._wording.of, asked, looked, checkpoint)
            # Once before any picture is fetched, for what can be refused without.
            self._drawing(named, checkpoint, {picture.role: "" for picture in asked.pictures}, looked, worded, upscaler)
        stored: dict[PictureRole, str] = {}
        try:
            sizes: dict[PictureRole, tuple[int, int]] = {}
            for picture in asked.pictures:
                stored[picture.role], sizes[picture.role] = await self._store(picture, asked, public_url)
            if checkpoint is None:
                await asyncio.to_thread(check_fits, upscaler, self._assets, *sizes["init_image"])
                return _upscale(asked, upscaler, stored, sizes).model_copy(update={"safety": safety})
            return self._drawing(named, checkpoint, stored, looked, worded, upscaler).model_copy(update={"safety": safety})
        except BaseException:
            await self.discard(stored.values())
            raise

    def _drawing(
        self,
        asked: Asked,
        checkpoint: Checkpoint,
        stored: dict[PictureRole, str],
        looked: Looked,
        worded: Worded,
        upscaler: str | None,
    ) -> AnyRequest:
        merges_tokens = self._merges_tokens_by_default if asked.token_merging is None else asked.token_merging
        drawing = _drawing(asked, checkpoint, stored, looked, worded, merges_tokens=merges_tokens, upscaler=upscaler)
        return suited_to_family(drawing, checkpoint)

    def _model(self, asked: Asked) -> Checkpoint:
        """What draws it. Reads folders. Raises ModelNotFound, NotAvailable."""
        if asked.kind == "text2video":
            return choose_film_model(asked, self._assets, self._catalog, self._default_model)
        return self._catalog.get(self.model_id(asked))

    async def discard(self, names: Any) -> None:
        """Remove input pictures that no row will ever lead retention to."""
        for name in names:
            await self._storage.delete(name)

    async def _store(self, picture: Picture, asked: Asked, public_url: str) -> tuple[str, tuple[int, int]]:
        image = await self._images.load(picture.field, picture.source, public_url=public_url, as_mask=picture.role == "mask_image")
        size = image.size if asked.kind == "upscale" else (asked.width, asked.height)
        name = f"inputs/{uuid.uuid4()}.png"
        await self._storage.save(name, await asyncio.to_thread(_fitted_png, image, size))
        return name, size


def _upscale(asked: Asked, upscaler: str | None, stored: dict[PictureRole, str], sizes: dict[PictureRole, tuple[int, int]]) -> Upscale:
    width, height = sizes["init_image"]
    check_size(asked, width, height)
    check_format(asked, width, height)
    return Upscale(
        init_image=stored["init_image"],
        width=width,
        height=height,
        scale=asked.scale,
        upscaler=upscaler or DEFAULT_UPSCALER,
        seed=secrets.randbits(32) if asked.seed is None else asked.seed,
        face_enhance=asked.face_enhance,
        output_format=asked.output_format,
        output_quality=asked.output_quality,
    )


def _drawing(
    asked: Asked,
    checkpoint: Checkpoint,
    stored: dict[PictureRole, str],
    looked: Looked,
    worded: Worded,
    *,
    merges_tokens: bool,
    upscaler: str | None,
) -> AnyRequest:
    common: dict[str, object] = {
        "checkpoint": checkpoint.id,
        "prompt": worded.prompt,
        "negative_prompt": worded.negative_prompt,
        "width": asked.width,
        "height": asked.height,
        "seed": secrets.randbits(32) if asked.seed is None else asked.seed,
        "samples": asked.samples,
        "steps": min(asked.steps or checkpoint.steps or asked.default_steps, MAX_STEPS),
        "guidance_scale": asked.guidance_scale or checkpoint.guidance_scale or DEFAULT_GUIDANCE[checkpoint.family],
        "scheduler": asked.scheduler,
        "use_karras_sigmas": asked.use_karras_sigmas,
        "algorithm_type": asked.algorithm_type,
        "clip_skip": asked.clip_skip,
        "loras": looked.loras,
        "embeddings": looked.embeddings,
        "vae": looked.vae,
        "panorama": asked.panorama,
        "self_attention": asked.self_attention,
        "token_merging": merges_tokens and checkpoint.family in UNET_FAMILIES,
        "highres_fix": asked.highres_fix,
        "multi_lingual": worded.multi_lingual,
        "translation": worded.translation,
        "upscale": asked.upscale,
        "upscaler": upscaler,
        "output_format": asked.output_format,
        "output_quality": asked.output_quality,
    }
    match asked.kind:
        case "txt2img":
            return Txt2Img.model_validate(common)
        case "img2img":
            return Img2Img.model_validate({**common, **stored, "strength": asked.strength})
        case "inpaint":
            return Inpaint.model_validate({**common, **stored, "strength": asked.strength})
        case "controlnet":
            led: dict[str, object] = {
                "controlnet_models": asked.controlnet_models,
                "controlnet_type": asked.controlnet_type,
                "auto_hint": asked.auto_hint,
                "guess_mode": asked.guess_mode,
                "conditioning_scales": asked.conditioning_scales,
                "strength": asked.strength,
            }
            return ControlNet.model_validate({**common, **stored, **led})
        case "text2video":
            return Text2Video.model_validate({**common, "seconds": asked.seconds})
        case "upscale":
            raise AssertionError("an upscale draws with no checkpoint")
        case _:
            assert_never(asked.kind)


def _fitted_png(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """The input picture at the size it is drawn at, stretched as diffusers and A1111 do."""
    return encode_png(picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS))
