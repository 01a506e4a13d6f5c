"""Pictures as PNG files that remember how they were made, in the words A1111's web interface writes and reads."""

from __future__ import annotations

import io
import json

from PIL import Image, PngImagePlugin

from sdapi.domain.generation import Img2Img, SchedulerName, Txt2Img

_COMPRESS_LEVEL = 1  # a fifth of level 6's time; files come out between a seventh smaller and a fifth larger

_SAMPLER_NAMES = {
    SchedulerName.DDPM: "DDPM",
    SchedulerName.DDIM: "DDIM",
    SchedulerName.PNDM: "PLMS",
    SchedulerName.LMS: "LMS",
    SchedulerName.EULER: "Euler",
    SchedulerName.EULER_ANCESTRAL: "Euler a",
    SchedulerName.DPM_MULTISTEP: "DPM++ 2M",
    SchedulerName.HEUN: "Heun",
    SchedulerName.KDPM2: "DPM2",
    SchedulerName.DPM_SINGLESTEP: "DPM++ 2S",
    SchedulerName.KDPM2_ANCESTRAL: "DPM2 a",
    SchedulerName.UNIPC: "UniPC",
    SchedulerName.DEIS: "DEIS",
}


def encode_png(image: Image.Image, parameters: str | None) -> bytes:
    """PNG of `image`, carrying `parameters` as the text chunk "parameters" (tEXt, or iTXt beyond Latin-1); None writes no text."""
    info = PngImagePlugin.PngInfo()
    if parameters is not None:
        info.add_text("parameters", _storable(parameters))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_COMPRESS_LEVEL, pnginfo=info, icc_profile=None)
    return buffer.getvalue()


def parameters_text(request: Txt2Img | Img2Img, *, seed: int, model: str, model_hash: str | None) -> str:
    """How one sample was made: prompt, negative prompt and a line of `Key: value` pairs.

    `seed` is the sample's own. Line breaks within the prompts stay, as A1111 keeps them: its reader takes the last line as the pairs.
    The sampler is left out where `request` names none; the caller fills in the one that drew.
    """
    pairs: dict[str, object] = {
        "Steps": request.steps,
        "Sampler": None if request.scheduler is None else _SAMPLER_NAMES[request.scheduler],
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": model_hash,
        "Model": model,
        "Denoising strength": f"{request.strength:g}" if isinstance(request, Img2Img) else None,
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "Version": "sdapi",
    }
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    line = ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items() if value is not None)
    return f"{request.prompt}{negative}\n{line}".strip()


def _quoted(value: str) -> str:
    """As A1111: values that would break the line of pairs become JSON strings."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",\n:") else value


def _storable(text: str) -> str:
    """Without what a PNG text chunk can't hold: NUL ends it, and a lone surrogate (JSON allows "\\ud800") has no encoding."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
