"""Which upscaler a request gets, and what of an enlargement can be refused before anything is recorded."""

from __future__ import annotations

from typing import Final

from sdapi.catalog import Asset, Assets, Refused, embedded_assets_dir
from sdapi.catalog.faces import WANTED
from sdapi.dialects.base import Asked
from sdapi.domain.control_maps import AnnotatorName
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.domain.generation import MAX_REPAINTED_PIXELS, MAX_UPSCALED_PIXELS

DEFAULT_UPSCALER: Final = "realesr-general-x4v3"
"""What the hosted services took where none was named."""
_NAMED_AT_MOST: Final = 20
_HOW_TO_INSTALL: Final = "Upscalers belong into models/upscalers/ as <id>.safetensors."


def choose_upscaler(asked: Asked, assets: Assets) -> str | None:
    """The id of what enlarges the picture; None where nothing is to be enlarged. Reads folders. Raises InvalidRequest."""
    if asked.face_enhance and (lacking := _lacking_for_faces(assets)) is not None:
        raise InvalidRequest.of("face_enhance", lacking)
    if asked.kind != "upscale":
        return _best(assets.all("upscaler"), field="upscale") if asked.upscale else None
    if asked.model_id is None:
        return _best(assets.all("upscaler"), field="model_id")
    try:
        return assets.get("upscaler", asked.model_id).id
    except ModelNotFound as error:
        raise InvalidRequest.of("model_id", _why_not(asked.model_id, error, assets)) from error


def check_size(asked: Asked, width: int, height: int) -> None:
    """Refuse what would become larger than is sensible to hold. Raises InvalidRequest."""
    result = round(width * asked.scale) * round(height * asked.scale)
    if result > MAX_UPSCALED_PIXELS:
        sentence = (
            f"{width} x {height} pixels times {asked.scale:g} would have {result / 1e6:.0f} million pixels; "
            f"at most {MAX_UPSCALED_PIXELS / 1e6:.0f} million are made. Ask for a smaller scale, or send a smaller picture."
        )
        raise InvalidRequest.of("scale", sentence)


def check_fits(upscaler: str | None, assets: Assets, width: int, height: int) -> None:
    """Refuse what is too large for upscalers that draw: they hold the whole result at their own scale. Raises InvalidRequest."""
    if upscaler is None or not assets.get("upscaler", upscaler).is_pipeline:
        return
    if width * height > MAX_REPAINTED_PIXELS:
        sentence = (
            f"The upscaler {upscaler!r} draws the larger picture, and takes at most {MAX_REPAINTED_PIXELS / 1e6:.1f} million pixels; "
            f"the picture has {width} x {height}. Send a smaller one, or name another upscaler."
        )
        raise InvalidRequest.of("model_id", sentence)


def _best(installed: list[Asset], *, field: str) -> str:
    """The documented default, or else the largest that the operator has put there, or else the embedded one."""
    if any(asset.id == DEFAULT_UPSCALER for asset in installed):
        return DEFAULT_UPSCALER
    if not installed:
        raise InvalidRequest.of(field, f"There is no upscaler on this server. {_HOW_TO_INSTALL}")
    embedded = embedded_assets_dir()
    return max(installed, key=lambda asset: (embedded is None or not asset.path.is_relative_to(embedded), asset.size_bytes, asset.id)).id


def _lacking_for_faces(assets: Assets) -> str | None:
    """What must be installed before faces can be restored, in a sentence; None where everything is."""
    try:
        wanted = [] if assets.faces.used() is not None else [WANTED]
    except Refused as refusal:
        return f"Faces can't be restored: {refusal}"
    if AnnotatorName.FACE_DETECTOR not in assets.annotators.installed():
        wanted.append(f"a face detection model (YuNet) as .onnx in models/annotators/{AnnotatorName.FACE_DETECTOR}/")
    if not wanted:
        return None
    return f"This server can't restore faces yet. To install: {' and '.join(wanted)}. Or send face_enhance as false."


def _why_not(name: str, error: ModelNotFound, assets: Assets) -> str:
    """What is there instead, and what is wrong with a file of that name, such as that it is a pickle."""
    more = ", ..." if len(error.available) > _NAMED_AT_MOST else "."
    there_are = f"There are: {', '.join(error.available[:_NAMED_AT_MOST])}{more} " if error.available else ""
    broken = next(
        (one for one in assets.problems() if one.path.parent.name == "upscalers" and name in (one.path.stem, one.path.name)), None
    )
    reason = _HOW_TO_INSTALL if broken is None else f"{broken.path.name} can't be used: {broken.sentence}"
    return f"There is no upscaler named {name!r} on this server. {there_are}{reason}"
