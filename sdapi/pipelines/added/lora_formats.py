"""Which module each tensor of a LoRA file belongs to: kohya's names (LoCon's convolutions too), PEFT's, diffusers' own old and new ones.

Names are compared with the modules a network really has, written with underscores throughout: no table of names can be incomplete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from sdapi.catalog import Refused

Side = Literal["unet", "text_encoder", "text_encoder_2"]
_Role = Literal["down", "up", "mid"]

_WEIGHT = re.compile(
    r"(?P<module>.+?)[._]lora(?:_linear_layer)?[._](?P<role>A|B|down|up|mid)(?:\.(?:default|default_\d+|weight))*",
)
_EVERY_SIDE: tuple[Side, ...] = get_args(Side)

_ROLES: Mapping[str, _Role] = {"A": "down", "down": "down", "B": "up", "up": "up", "mid": "mid"}
_PREFIXES: tuple[tuple[str, Side | None], ...] = (
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("unet.", "unet"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("diffusion_model.", "unet"),
    ("base_model.model.", None),
)
"""What stands before a module's name; None where it may belong to either network."""

_OTHER_KINDS = (
    (re.compile(r"\.dora_scale$"), "DoRA"),
    (re.compile(r"\.hada_w[12]"), "LoHa"),
    (re.compile(r"\.lokr_w[12]"), "LoKr"),
)
"""Kin of LoRA that change weights in another way than by adding a product of two matrices."""

_RESNET = {
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
_LDM_PLAIN = {
    "add_embedding.linear_1": "label_emb_0_0",
    "add_embedding.linear_2": "label_emb_0_2",
    "conv_in": "input_blocks_0_0",
    "time_embedding.linear_1": "time_embed_0",
    "time_embedding.linear_2": "time_embed_2",
    "conv_out": "out_2",
}
_IN_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_IN_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


@dataclass
class RawDelta:
    """What a file says about one module, as it stands there."""

    tensors: dict[_Role, Tensor] = field(default_factory=dict)
    alpha: float | None = None
    """None: as large as the rank."""


@dataclass(frozen=True)
class RawLora:
    """A LoRA file, sorted by the modules it changes."""

    unet: Mapping[str, RawDelta]
    text_encoder: Mapping[str, RawDelta]
    text_encoder_2: Mapping[str, RawDelta]
    unmatched: tuple[str, ...]
    """Tensors that belong to no module of the model."""


class ModuleNames:
    """Finds the modules that files mean, by any of the names they go by."""

    def __init__(
        self,
        unet_paths: Iterable[str],
        text_encoder_paths: Iterable[str],
        text_encoder_2_paths: Iterable[str] = (),
        *,
        layers_per_block: int,
    ) -> None:
        """The paths of all linear and convolution modules of the networks."""
        unet = list(unet_paths)
        self._by_name: dict[Side, dict[str, str]] = {"unet": {_flat(path): path for path in unet}, "text_encoder": {}, "text_encoder_2": {}}
        for path in unet:
            if (ldm := _ldm_name(path, unet, layers_per_block)) is not None:
                self._by_name["unet"].setdefault(ldm, path)
        encoders: tuple[tuple[Side, Iterable[str]], ...] = (("text_encoder", text_encoder_paths), ("text_encoder_2", text_encoder_2_paths))
        for side, paths in encoders:
            for path in paths:
                self._by_name[side][_flat(path.removeprefix("text_model."))] = path

    def find(self, name: str) -> tuple[Side, str] | None:
        """The network and the path of the module within it. Names that could be either text encoder's are the first one's."""
        prefix, side = next(((prefix, side) for prefix, side in _PREFIXES if name.startswith(prefix)), ("", None))
        flat = _flat(name.removeprefix(prefix).replace(".processor.", "."))
        for candidate in _EVERY_SIDE if side is None else (side,):
            names = self._by_name[candidate]
            spelt = flat if candidate == "unet" else flat.removeprefix("text_model_")
            # Old diffusers files call the attention's output to_out_lora, though the module is to_out.0.
            for one in (spelt, f"{spelt}_0"):
                if one in names:
                    return candidate, names[one]
        return None


def sort_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], names: ModuleNames) -> RawLora:
    """The file's tensors by module. `metadata` is the safetensors file's. Raises Refused where no tensor belongs to the model."""
    for pattern, kind in _OTHER_KINDS:
        if any(pattern.search(name) for name in tensors):
            raise Refused(f"It is a {kind}, which is not supported; LoRA and LoCon files can be used.")
    sides: dict[Side, dict[str, RawDelta]] = {side: {} for side in _EVERY_SIDE}
    unmatched: list[str] = []
    alphas = _Alphas(metadata)
    for name, tensor in tensors.items():
        weight = _WEIGHT.fullmatch(name)
        module = weight["module"] if weight else name.removesuffix(".alpha")
        found = names.find(module)
        if found is None or not (weight or name.endswith(".alpha")):
            unmatched.append(name)
            continue
        side, path = found
        delta = sides[side].setdefault(path, RawDelta(alpha=alphas.of(side, path)))
        if weight:
            delta.tensors[_ROLES[weight["role"]]] = tensor
        else:
            delta.alpha = float(tensor)
    whole = {side: {path: delta for path, delta in found.items() if delta.tensors} for side, found in sides.items()}
    if not any(whole.values()):
        raise Refused("None of its weights belongs to a module of this model; it was made for another family of models.")
    return RawLora(whole["unet"], whole["text_encoder"], whole["text_encoder_2"], tuple(unmatched))


class _Alphas:
    """The scales that PEFT keeps beside the weights, in the file's metadata."""

    def __init__(self, metadata: Mapping[str, str]) -> None:
        try:
            table = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except ValueError:
            table = {}
        self._table = table if isinstance(table, dict) else {}

    def of(self, side: Side, path: str) -> float | None:
        """The alpha of that module; None where the metadata says nothing."""
        patterns = self._table.get(f"{side}.alpha_pattern")
        for pattern, alpha in patterns.items() if isinstance(patterns, dict) else ():
            if path == pattern or path.endswith(f".{pattern}"):
                return float(alpha)
        alpha = self._table.get(f"{side}.lora_alpha")
        return float(alpha) if isinstance(alpha, int | float) else None


def _flat(path: str) -> str:
    return path.replace(".", "_")


def _ldm_name(path: str, paths: list[str], layers: int) -> str | None:
    """The flat name the module has in the original latent-diffusion code, which some trainers use."""
    if path in _LDM_PLAIN:
        return _LDM_PLAIN[path]
    if middle := _IN_MIDDLE.fullmatch(path):
        return f"middle_block_{1 if middle[1] == 'attentions' else 2 * int(middle[2])}_{_rest(middle[1], middle[3])}"
    if (found := _IN_BLOCK.fullmatch(path)) is None:
        return None
    block, layer = int(found[2]), int(found[4])
    match found[1], found[3]:
        case "down", "downsamplers":
            return f"input_blocks_{1 + block * (layers + 1) + layers}_0_op"
        case "up", "upsamplers":
            # A block's attention, where it has one, stands before its upsampler.
            has_attention = any(other.startswith(f"up_blocks.{block}.attentions.") for other in paths)
            return f"output_blocks_{block * (layers + 1) + layers}_{2 if has_attention else 1}_conv"
        case "down", kind:
            return f"input_blocks_{1 + block * (layers + 1) + layer}_{int(kind == 'attentions')}_{_rest(kind, found[5])}"
        case _, kind:
            return f"output_blocks_{block * (layers + 1) + layer}_{int(kind == 'attentions')}_{_rest(kind, found[5])}"


def _rest(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else _flat(rest)
