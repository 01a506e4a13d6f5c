"""Which model draws a film, how long it becomes, and what of the request can be refused before anything is recorded."""

from __future__ import annotations

from dataclasses import replace

from sdapi.catalog import FILM_FAMILIES, Assets, Catalog, Checkpoint
from sdapi.catalog.films import FILMS_FOLDER
from sdapi.dialects.base import Asked
from sdapi.domain.errors import InvalidRequest, ModelNotFound, NotAvailable
from sdapi.domain.families import refusal
from sdapi.domain.films import film_length, longest_s
from sdapi.domain.generation import Text2Video

_PLAIN_CHANNELS = 4
_OWN_SAMPLER = {"scheduler": None, "use_karras_sigmas": None, "algorithm_type": None}


def choose_film_model(asked: Asked, assets: Assets, checkpoints: Catalog, default_model: str) -> Checkpoint:
    """The model the request names, or the first by id where it names none. Reads folders.

    A Stable Diffusion 1.x checkpoint is chosen together with the first motion adapter, and a motion adapter with the default model.
    Raises ModelNotFound, and NotAvailable where there is nothing to draw films with.
    """
    installed = assets.films.all()
    if not installed:
        raise NotAvailable(_nothing_there(assets))
    whole = [one for one in installed if not one.is_motion_adapter]
    adapters = [one for one in installed if one.is_motion_adapter]
    try:
        found = assets.films.get(asked.model_id or (whole or adapters)[0].id)
        return _moved(checkpoints, default_model, found) if found.is_motion_adapter else found
    except ModelNotFound as error:
        if not adapters or asked.model_id is None:
            raise ModelNotFound(error.model_id, [one.id for one in whole]) from error
    return _moved(checkpoints, asked.model_id, adapters[0])


def _moved(checkpoints: Catalog, model_id: str, adapter: Checkpoint) -> Checkpoint:
    """That checkpoint, as the adapter moves it. Raises ModelNotFound, InvalidRequest."""
    found = checkpoints.get(model_id)
    if found.family != "sd1" or found.in_channels != _PLAIN_CHANNELS:
        sentence = f"The motion adapter {adapter.id!r} moves Stable Diffusion 1.x models; {found.id!r} is none, or one for inpainting."
        raise InvalidRequest.of("model_id", sentence)
    return replace(found, family="animatediff", longest_frames=adapter.longest_frames, motion_adapter=adapter.id)


def _nothing_there(assets: Assets) -> str:
    broken = next((one for one in assets.films.problems() if one.path.name != FILMS_FOLDER), None)
    reason = "" if broken is None else f" {broken.path.name} can't be used: {broken.sentence}"
    kinds = "TextToVideoSDPipeline, AnimateDiffPipeline, WanPipeline or MotionAdapter"
    return f"This server has no model that draws films: its operator puts one into models/video/ as a diffusers folder ({kinds}).{reason}"


def suited_film(request: Text2Video, model: Checkpoint) -> Text2Video:
    """The request as the model draws it: with its number of frames, and without a sampler where the model keeps its own.

    Raises InvalidRequest for what the model can't do, and ModelNotFound for one that draws no films.
    """
    family = model.family
    if family not in FILM_FAMILIES:
        raise ModelNotFound(model.id, ())
    if (refused := refusal(family, request)) is not None:
        raise InvalidRequest.of(*refused)
    if request.upscale:
        raise InvalidRequest.of("upscale", "Films are not enlarged: send no, or leave it out, and ask for a larger width and height.")
    length = film_length(family, request.seconds)
    if model.longest_frames is not None and length.frames > model.longest_frames:
        longest = f"{longest_s(family, model.longest_frames):g}"
        sentence = f"The model {model.id!r} knows {model.longest_frames} frames, {longest} seconds: ask for at most that."
        raise InvalidRequest.of("seconds", sentence)
    own = _OWN_SAMPLER if family == "wan" else {}
    return request.model_copy(
        update={"frames": length.frames, "frames_per_s": length.frames_per_s, "motion_adapter": model.motion_adapter, **own}
    )
