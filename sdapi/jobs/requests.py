"""From what was asked to what is drawn: the model looked up, its own words and defaults, a concrete seed, the input pictures stored."""

from __future__ import annotations

import asyncio
import io
import secrets
import uuid
from typing import Any, assert_never

from PIL import Image

from sdapi.catalog import Assets, Catalog, Checkpoint
from sdapi.dialects.base import Asked, Picture, PictureRole
from sdapi.domain.generation import MAX_STEPS, AnyRequest, ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.remote_images import RemoteImages
from sdapi.storage import Storage

from .additions_check import Looked, look_up
from .control_check import check_control

DEFAULT_UPSCALER = "realesr-general-x4v3"
"""What the hosted services took where none was named."""


class RequestBuilder:
    """Turns `Asked` into a domain request. Whatever is wrong ends here, and then nothing is left behind."""

    def __init__(self, *, catalog: Catalog, assets: Assets, images: RemoteImages, storage: Storage, default_model: str) -> None:
        self._catalog = catalog
        self._assets = assets
        self._images = images
        self._storage = storage
        self._default_model = default_model

    def model_id(self, asked: Asked) -> str:
        """The model's id or alias as the client knows it."""
        return asked.model_id or (DEFAULT_UPSCALER if asked.kind == "upscale" else self._default_model)

    async def build(self, asked: Asked, *, public_url: str) -> AnyRequest:
        """Raises ModelNotFound, InvalidRequest, ImageRefused; input pictures that were stored by then are removed again."""
        checkpoint = None if asked.kind == "upscale" else await asyncio.to_thread(self._catalog.get, self.model_id(asked))
        looked = await asyncio.to_thread(look_up, asked, self._assets)
        await asyncio.to_thread(check_control, asked, self._assets)
        stored: dict[PictureRole, str] = {}
        try:
            sizes: dict[PictureRole, tuple[int, int]] = {}
            for picture in asked.pictures:
                stored[picture.role], sizes[picture.role] = await self._store(picture, asked, public_url)
            if checkpoint is None:
                return _upscale(asked, self.model_id(asked), stored, sizes)
            return _drawing(asked, checkpoint, stored, looked)
        except BaseException:
            await self.discard(stored.values())
            raise

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


def _upscale(asked: Asked, model_id: str, stored: dict[PictureRole, str], sizes: dict[PictureRole, tuple[int, int]]) -> Upscale:
    width, height = sizes["init_image"]
    return Upscale(
        init_image=stored["init_image"],
        width=width,
        height=height,
        scale=asked.scale,
        upscaler=model_id,
        face_enhance=asked.face_enhance,
    )


def _drawing(asked: Asked, checkpoint: Checkpoint, stored: dict[PictureRole, str], looked: Looked) -> AnyRequest:
    common: dict[str, object] = {
        "checkpoint": checkpoint.id,
        "prompt": _prompt(asked, checkpoint, looked.prompt),
        "negative_prompt": _negative_prompt(asked, checkpoint),
        "width": asked.width,
        "height": asked.height,
        "seed": secrets.randbits(32) if asked.seed is None else asked.seed,
        "samples": asked.samples,
        "steps": min(asked.steps or checkpoint.steps or asked.default_steps, MAX_STEPS),
        "guidance_scale": asked.guidance_scale or checkpoint.guidance_scale or 7.5,
        "scheduler": asked.scheduler,
        "use_karras_sigmas": asked.use_karras_sigmas,
        "algorithm_type": asked.algorithm_type,
        "clip_skip": asked.clip_skip,
        "loras": looked.loras,
        "embeddings": looked.embeddings,
        "vae": looked.vae,
        "panorama": asked.panorama,
        "self_attention": asked.self_attention,
        "highres_fix": asked.highres_fix,
        "multi_lingual": asked.multi_lingual,
        "upscale": asked.upscale,
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


def _prompt(asked: Asked, checkpoint: Checkpoint, prompt: str) -> str:
    """Trigger words first, enhancement words last."""
    triggered = f"{checkpoint.trigger} {prompt}" if checkpoint.trigger else prompt
    return f"{triggered}, {checkpoint.enhance}" if asked.enhance_prompt and checkpoint.enhance else triggered


def _negative_prompt(asked: Asked, checkpoint: Checkpoint) -> str:
    stock = checkpoint.negative if asked.enhance_prompt else ""
    return ", ".join(words for words in (asked.negative_prompt, stock) if words)


def _fitted_png(picture: Image.Image, size: tuple[int, int]) -> bytes:
    """The input picture at the size it is drawn at, stretched as diffusers and A1111 do."""
    buffer = io.BytesIO()
    fitted = picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
    fitted.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
