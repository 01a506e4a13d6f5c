"""How pictures were made, in the words A1111's web interface writes into PNG files and reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.highres import STRENGTH
from sdapi.domain.sampler_names import a1111_name
from sdapi.png_encoding import storable


@dataclass(frozen=True)
class Hashes:
    """Short hashes of what took part, as far as they are known."""

    model: str | None = None
    loras: Mapping[str, str] = field(default_factory=dict)
    """By id."""
    embeddings: Mapping[str, str] = field(default_factory=dict)
    """By id; of those the request asked for."""
    vae: str | None = None


def parameters_text(request: Txt2Img | Img2Img | Inpaint | ControlNet, *, seed: int, model: str, hashes: Hashes) -> str:
    """How one sample was made: prompt, negative prompt and a line of `Key: value` pairs.

    `seed` is the sample's own. Line breaks within the prompts stay, as A1111 keeps them: its reader takes the last line as the pairs.
    LoRAs stand at the end of the prompt, as one would ask for them there. What A1111 has no word for has the field's name.
    The sampler is left out where `request` names none; the caller fills in the one that drew.
    """
    pairs: dict[str, object] = {
        "Steps": request.steps,
        "Sampler": _sampler(request),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model hash": hashes.model,
        "Model": model,
        "VAE hash": hashes.vae,
        "VAE": request.vae,
        "Denoising strength": _denoising_strength(request),
        "Clip skip": request.clip_skip if request.clip_skip > 1 else None,
        "Lora hashes": _listed(hashes.loras),
        "TI hashes": _listed(hashes.embeddings),
        "Embeddings": ", ".join(request.embeddings) or None,
        **_control_nets(request),
        "Highres fix": "yes" if request.highres_fix else None,
        "Self attention": "yes" if request.self_attention else None,
        "Panorama": "yes" if request.panorama else None,
        "Token merging": "yes" if request.token_merging else None,
        "Postprocess upscale by": request.upscale or None,
        "Postprocess upscaler": request.upscaler if request.upscale else None,
        "Version": "sdapi",
    }
    tags = "".join(f" <lora:{use.id}:{use.strength:g}>" for use in request.loras)
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return f"{request.prompt}{tags}{negative}\n{_line(pairs)}".strip()


def upscaling_text(request: Upscale) -> str:
    """How a picture was made larger that was not drawn here."""
    faces = {"Face restoration": "GFPGAN"} if request.face_enhance else {}
    return _line({"Postprocess upscale by": f"{request.scale:g}", "Postprocess upscaler": request.upscaler, **faces, "Version": "sdapi"})


def film_text(request: Text2Video) -> str:
    """How a film was made, as pictures tell it."""
    drawing = Txt2Img.model_validate(request.model_dump(exclude={"kind", "seconds", "frames", "frames_per_s", "motion_adapter"}))
    told = parameters_text(drawing, seed=request.seed, model=request.checkpoint, hashes=Hashes())
    film = {"Motion adapter": request.motion_adapter, "Frames": request.frames, "Frames per second": request.frames_per_s}
    return storable(f"{told}, {_line(film)}")


def _line(pairs: Mapping[str, object]) -> str:
    return ", ".join(f"{key}: {_quoted(str(value))}" for key, value in pairs.items() if value is not None)


def _listed(hashes: Mapping[str, str]) -> str | None:
    return ", ".join(f"{name}: {value}" for name, value in hashes.items()) or None


def _denoising_strength(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> str | None:
    if request.highres_fix:
        return f"{STRENGTH:g}"
    return f"{request.strength:g}" if _draws_over_a_picture(request) else None


def _control_nets(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> dict[str, str]:
    """As A1111's ControlNet extension: one value of pairs for each net."""
    if not isinstance(request, ControlNet):
        return {}
    module = request.controlnet_type if request.auto_hint and request.controlnet_type else "none"
    mode = "ControlNet is more important" if request.guess_mode else "Balanced"
    return {
        f"ControlNet {place}": f"Module: {module}, Model: {net}, Weight: {scale:g}, Control Mode: {mode}"
        for place, (net, scale) in enumerate(zip(request.controlnet_models, request.scale_of_each_net, strict=True))
    }


def _draws_over_a_picture(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> TypeGuard[Img2Img | Inpaint | ControlNet]:
    return request.draws_over_init_image if isinstance(request, ControlNet) else isinstance(request, Img2Img | Inpaint)


def _sampler(request: Txt2Img | Img2Img | Inpaint | ControlNet) -> str | None:
    if request.scheduler is None:
        return None
    return a1111_name(request.scheduler, use_karras_sigmas=request.use_karras_sigmas, algorithm_type=request.algorithm_type)


def _quoted(value: str) -> str:
    """As A1111: values that would break the line of pairs become JSON strings."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",\n:") else value
