"""What of a control net request can be refused before anything is stored: names nobody knows, and pictures that don't go together."""

from __future__ import annotations

from sdapi.catalog import Assets
from sdapi.dialects.base import Asked
from sdapi.domain.control_maps import annotator_of, control_map_of
from sdapi.domain.errors import InvalidRequest, ModelNotFound


def check_control(asked: Asked, assets: Assets) -> tuple[str, ...]:
    """The ids of the nets, which may be asked for by other names. Raises InvalidRequest. Reads folders, so call it in a thread."""
    if asked.kind != "controlnet":
        return ()
    net_ids = tuple(_id_of(name, assets) for name in asked.controlnet_models)
    if asked.auto_hint and asked.controlnet_type is not None:
        annotator_of(control_map_of(asked.controlnet_type), assets.annotators.installed())
    roles = {picture.role for picture in asked.pictures}
    if "mask_image" in roles and "init_image" not in roles:
        raise InvalidRequest.of("init_image", "The init_image field is required with mask_image: its masked part is what is drawn.")
    return net_ids


def _id_of(name: str, assets: Assets) -> str:
    try:
        return assets.get("controlnet", name).id
    except ModelNotFound as error:
        known = error.available
        there_are = f"There are: {', '.join(known)}." if known else "There are none: they belong into models/controlnets/."
        raise InvalidRequest.of("controlnet_model", f"There is no control net named {name!r} on this server. {there_are}") from error
