"""What of a control net request can be refused before anything is stored: names nobody knows, and pictures that don't go together."""

from __future__ import annotations

from sdapi.catalog import Assets
from sdapi.dialects.base import Asked
from sdapi.domain.control_maps import control_map_of
from sdapi.domain.errors import InvalidRequest


def check_control(asked: Asked, assets: Assets) -> None:
    """Raises InvalidRequest. Reads folders, so call it in a thread."""
    if asked.kind != "controlnet":
        return
    known = {asset.id for asset in assets.all("controlnet")}
    for net_id in asked.controlnet_models:
        if net_id not in known:
            there_are = f"There are: {', '.join(sorted(known))}." if known else "There are none: they belong into models/controlnets/."
            raise InvalidRequest.of("controlnet_model", f"There is no control net named {net_id!r} on this server. {there_are}")
    if asked.auto_hint and asked.controlnet_type is not None:
        control_map_of(asked.controlnet_type)
    roles = {picture.role for picture in asked.pictures}
    if "mask_image" in roles and "init_image" not in roles:
        raise InvalidRequest.of("init_image", "The init_image field is required with mask_image: its masked part is what is drawn.")
