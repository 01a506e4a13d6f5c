"""Which network an upscaler's file holds, deduced from the names and shapes of its tensors; four layouts are about."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from sdapi.catalog import Refused

from .networks import CompactNetwork, CompactShape, DenseNetwork, DenseShape, Network

_WRAPPERS: Final = ("params_ema.", "params.", "state_dict.", "module.", "generator.")
"""What training programs put around all names; the averaged weights come first where a file has both."""
_SUB: Final = re.compile(r"model\.1\.sub\.(\d+)\.(.+)")
_DENSE: Final = re.compile(r"RDB(\d)\.conv(\d)\.(?:0\.)?")
_MIDDLE: Final = {"RRDB_trunk.": "body.", "trunk_conv.": "conv_body.", "upconv": "conv_up", "HRconv.": "conv_hr."}
"""Names of ESRGAN's second publication, and Real-ESRGAN's for the same."""
_UNKNOWN: Final = (
    "it is no network known here. ESRGAN and Real-ESRGAN (RRDBNet: RealESRGAN_x4plus, _x2plus, _x4plus_anime_6B and the like) and "
    "the compact networks (SRVGGNetCompact: realesr-general-x4v3, realesr-animevideov3) are"
)


def network_of(tensors: Mapping[str, Tensor]) -> Network:
    """The network with these weights, for inference, on their device and in their dtype. Raises Refused."""
    named = _unwrapped(tensors)
    try:
        named = _from_first_esrgan(named) if "model.0.weight" in named else _from_second_esrgan(named)
        if "conv_first.weight" in named:
            return _filled(DenseNetwork, _dense_shape(named), named)
        if "body.0.weight" in named:
            return _filled(CompactNetwork, _compact_shape(named), named)
    except (LookupError, ValueError, IndexError, RuntimeError) as error:
        raise Refused(f"Its tensors are not what their names promise: {_UNKNOWN}.") from error
    raise Refused(f"Its tensors are unfamiliar: {_UNKNOWN}.")


def _filled(kind: type[Network], shape: DenseShape | CompactShape, tensors: Mapping[str, Tensor]) -> Network:
    # Built without memory of its own, because the weights replace every tensor.
    with torch.device("meta"):
        network: Network = kind(shape)  # type: ignore[arg-type]
    network.load_state_dict(tensors, strict=True, assign=True)
    return network.eval().requires_grad_(requires_grad=False)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = dict(tensors)
    for wrapper in _WRAPPERS:
        inside = {name.removeprefix(wrapper): tensor for name, tensor in named.items() if name.startswith(wrapper)}
        named = inside or named
    return named


def _from_first_esrgan(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`model.0`, `model.1.sub.0.RDB1.conv1.0`, ...: a numbered row of modules, of which the last ones are told by their place.

    After the trunk come a resize, a convolution and a slope for each doubling, then a convolution, a slope and the last convolution.
    """
    trunk = [int(found[1]) for name in tensors if (found := _SUB.fullmatch(name)) is not None]
    ends = sorted({int(name.split(".")[1]) for name in tensors if re.fullmatch(r"model\.\d+\.(weight|bias)", name)} - {0})
    *ups, high, last = ends
    numbered = {"model.0.": "conv_first.", f"model.1.sub.{max(trunk)}.": "conv_body."}
    numbered |= {f"model.{high}.": "conv_hr.", f"model.{last}.": "conv_last."}
    numbered |= {f"model.{place}.": f"conv_up{number}." for number, place in enumerate(ups, start=1)}
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in numbered if name.startswith(prefix)), None)
        if prefix is not None:
            renamed[numbered[prefix] + name.removeprefix(prefix)] = tensor
        elif (found := _SUB.fullmatch(name)) is not None:
            renamed[f"body.{found[1]}." + _DENSE.sub(r"rdb\1.conv\2.", found[2])] = tensor
        else:
            renamed[name] = tensor
    return renamed


def _from_second_esrgan(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _MIDDLE if name.startswith(prefix)), None)
        new = name if prefix is None else _MIDDLE[prefix] + name.removeprefix(prefix)
        renamed[_DENSE.sub(r"rdb\1.conv\2.", new)] = tensor
    return renamed


def _dense_shape(tensors: Mapping[str, Tensor]) -> DenseShape:
    features, channels = tensors["conv_first.weight"].shape[:2]
    fold = {3: 1, 12: 2, 48: 4}[channels]
    blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("body."))
    doublings = sum(name.startswith("conv_up") and name.endswith(".weight") for name in tensors)
    growth = tensors["body.0.rdb1.conv1.weight"].shape[0]
    return DenseShape(features, growth, blocks, doublings, fold)


def _compact_shape(tensors: Mapping[str, Tensor]) -> CompactShape:
    features = tensors["body.0.weight"].shape[0]
    places = sorted(int(name.split(".")[1]) for name in tensors if name.endswith(".weight") and tensors[name].ndim == 4)
    scale = round((tensors[f"body.{places[-1]}.weight"].shape[0] / 3) ** 0.5)
    return CompactShape(features, len(places) - 2, scale)
