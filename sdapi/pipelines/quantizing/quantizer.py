"""Brings loaded models to eight bits, and back where they say something else then: the gate between an operator's wish and the pictures.

Runs where models are loaded, beside the drawing, before anybody draws with them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from torch import Tensor, nn

from sdapi.domain.families import WholeFamily
from sdapi.domain.quantization import EightBits
from sdapi.pipelines.loading.loader import UnetComponents
from sdapi.pipelines.loading.whole_loader import WholeComponents
from sdapi.pipelines.quantizing.eight_bits import NotInstalledError, Way, large_layers, quantized, ways
from sdapi.pipelines.quantizing.probes import Probe, unet_probe, whole_probe
from sdapi.pipelines.quantizing.stored_weights import stored_bytes
from sdapi.pipelines.quantizing.way_choice import Seconds, in_order, measured_seconds

_log = logging.getLogger(__name__)

UNET_LIMIT: Final = 0.1
"""Share of what a UNet says of the picture that it may say differently.

With the embedded model, whose layers were made ever coarser, 0.004 (int8) came to 59 dB between pictures of 128 px (PSNR, median of six),
0.014 (fp8) to 51, 0.035 to 44, 0.07 to 43, 0.1 to 37 and 0.2 to 32, the shapes and colours asked for still being found; at 0.44, with
23 dB, they weren't any more. In bfloat16, which rounds as coarsely, int8 shows as 0.05; pictures are as far from float32's as before.
"""
WHOLE_LIMIT: Final = 0.05
"""The same of other denoisers, which tell picture and noise at once: with tiny random ones of Flux, Stable Diffusion 3, Qwen-Image and

Z-Image, 0.004 to 0.02 came to 49 to 61 dB, 0.03 to 0.05 to 33 to 52, and 0.1 and more to as little as 24.
"""
_NOTHING: Final = 1e-12


class Quantizer:
    """Of one device. What it returns has other weights in the same networks, so nobody else may use them yet."""

    def __init__(
        self,
        bits: EightBits,
        *,
        unet_limit: float = UNET_LIMIT,
        whole_limit: float = WHOLE_LIMIT,
        is_deterministic: bool = False,
        seconds: Seconds = measured_seconds,
    ) -> None:
        """Models whose answers change by more than the limit are left as they are. `seconds` measures layers; see `way_choice.py`.

        `is_deterministic` leaves inputs in their own format, so that nothing depends on what was measured.
        """
        self._bits = bits
        self._unet_limit = unet_limit
        self._whole_limit = whole_limit
        self._is_deterministic = is_deterministic
        self._seconds = seconds

    def unet(self, model_id: str, parts: UnetComponents) -> UnetComponents:
        """The model with its UNet in eight bits, or as it was; blocks for some forwards."""
        saved_bytes = self._brought(model_id, parts.unet, lambda: unet_probe(parts), self._unet_limit)
        return replace(parts, bytes=parts.bytes - saved_bytes)

    def whole(self, model_id: str, family: WholeFamily, parts: WholeComponents) -> WholeComponents:
        """The pipeline with its denoiser in eight bits, or as it was; blocks for some steps of a small picture."""
        saved_bytes = self._brought(model_id, parts.denoiser, lambda: whole_probe(model_id, family, parts), self._whole_limit)
        return replace(parts, bytes=parts.bytes - saved_bytes)

    def _brought(self, model_id: str, network: Any, probe_of: Callable[[], Probe], limit: float) -> int:
        """How many bytes that saved."""
        layers = large_layers(network)
        originals = {path: layer.weight for path, layer in layers.items()}
        before_bytes = stored_bytes(network)
        told: dict[str, Any] = {"model": model_id, "format": self._bits}
        try:
            error, way = self._try_ways(layers, probe_of, limit)
        except NotInstalledError as missing:
            reason = str(missing)
        except Exception as failure:  # noqa: BLE001 - whatever a network or a device has against it, it can be drawn with as it is
            reason = repr(failure)
        else:
            if way is not None:
                saved_bytes = before_bytes - stored_bytes(network)
                told |= {"inputs_too": way.has_inputs_too, "error": round(error, 4), "saved_bytes": saved_bytes}
                _log.info("weights were brought to eight bits", extra=told)
                return saved_bytes
            reason = f"it says something else then, by {error:.3f} where {limit} is allowed" if layers else "it has no large layers"
        _set(layers, originals)
        _log.warning("a model is drawn with as it is, not in eight bits", extra={**told, "reason": reason})
        return 0

    def _try_ways(self, layers: dict[str, nn.Linear], probe_of: Callable[[], Probe], limit: float) -> tuple[float, Way | None]:
        """The first way within the limit, which the layers then compute in, and its error; None and the last error where there is none."""
        if not layers:
            return 0.0, None
        originals = {path: layer.weight for path, layer in layers.items()}
        largest = max(originals.values(), key=Tensor.numel)
        probe = probe_of()
        able = ways(self._bits, device=largest.device, dtype=largest.dtype)
        error = 0.0
        for way in able[-1:] if self._is_deterministic else in_order(able, largest, self._seconds):
            for path, layer in layers.items():
                layer.weight = quantized(originals[path], way)
            error = relative_error(probe.expected, probe.ask(), probe.content)
            if error <= limit:
                return error, way
            _log.info(
                "a way to quantize is off by too much", extra={"format": way.format, "inputs_too": way.has_inputs_too, "error": error}
            )
        return error, None


def relative_error(expected: Sequence[Tensor], said: Sequence[Tensor], content: Sequence[float]) -> float:
    """The greatest over all answers of how long their difference is, as a share of their content; infinite where one isn't a number."""
    shares = [float((one - other).norm()) / max(much, _NOTHING) for one, other, much in zip(expected, said, content, strict=True)]
    return max((share if math.isfinite(share) else math.inf for share in shares), default=math.inf)


def _set(layers: Mapping[str, nn.Linear], weights: Mapping[str, Tensor]) -> None:
    for path, layer in layers.items():
        layer.weight = weights[path]
