"""A model's forwards in compiled form: made beside the drawing for sizes that come again and again, and taken as soon as they are there."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdapi.pipelines.compiling.compile_spec import CompileSpec, compile_spec
from sdapi.pipelines.compiling.compiler import Compiler
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, ForwardKey, forward
from sdapi.pipelines.forwards.recordings import Run

_log = logging.getLogger(__name__)

_WORTH_COMPILING = 20
"""Forwards of a size before a compiled one is looked for, or made, which takes half a minute or more of one core."""
_MOST = 64
"""Sizes of one model."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.06}
"""Share of the largest number a forward says that a compiled one may be off by; rounding alone is a fraction of it."""


class CompiledForwards:
    """Of one loaded UNet; for use from the device thread only."""

    def __init__(self, unet: Any, compiler: Compiler) -> None:
        self._unet = unet
        self._compiler = compiler
        self._weights = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
        self._uses: Counter[tuple[ForwardKey, int]] = Counter()
        self._ready: dict[tuple[ForwardKey, int], Run | None] = {}
        """None for what can't be used."""
        self._specs: dict[tuple[ForwardKey, int], CompileSpec] = {}
        self._pays_from: dict[tuple[ForwardKey, int], int] = {}

    def for_(self, inputs: ForwardInputs) -> Run | None:
        """What runs inputs of exactly this size; None where the network itself must. Every call counts as a forward."""
        key = (inputs.key, inputs.samples)
        if key in self._ready:
            return self._ready[key]
        if len(self._ready) >= _MOST:
            return None
        self._uses[key] += 1
        if self._uses[key] < _WORTH_COMPILING:
            return None
        if (spec := self._specs.get(key)) is None:
            spec = self._specs[key] = compile_spec(self._unet, inputs)
        file = self._compiler.file(spec, may_make=self._uses[key] >= self._pays(key, inputs))
        if file is None:
            return None
        self._ready[key] = self._opened(spec, str(file), inputs)
        return self._ready[key]

    def _pays(self, key: tuple[ForwardKey, int], inputs: ForwardInputs) -> int:
        """From how many forwards of that size on one is made."""
        if not self._compiler.pays_after_s:
            return _WORTH_COMPILING
        if key not in self._pays_from:
            # Once for each size; by now it is warm.
            began_s = time.perf_counter()
            forward(self._unet, inputs)
            self._pays_from[key] = math.ceil(self._compiler.pays_after_s / (time.perf_counter() - began_s))
        return self._pays_from[key]

    def _opened(self, spec: CompileSpec, file: str, inputs: ForwardInputs) -> Run | None:
        import torch._inductor  # see Compiler

        try:
            run = self._run_of(torch._inductor.aoti_load_package(file))  # noqa: SLF001 - its documented name
            expected, said = forward(self._unet, inputs), run(inputs)
            error = float((expected.float() - said.float()).abs().max() / expected.float().abs().max().clamp(min=1.0))
        except Exception as broken:  # noqa: BLE001 - a file from another machine, a missing library: the network itself still runs
            self._compiler.reject(spec, repr(broken))
            return None
        if not error <= _TOLERANCE[self._unet.dtype]:
            self._compiler.reject(spec, f"it says something else than the network, by {error}")
            return None
        return run

    def _run_of(self, package: Any) -> Run:
        names = package.get_constant_fqns()
        # The model's own memory, not a copy.
        package.load_constants({name: self._weights[name] for name in names}, check_full_update=True, user_managed=True)
        bias: Tensor = self._unet.conv_out.bias.view(1, -1, 1, 1)
        call: Callable[..., Any] = package

        def run(inputs: ForwardInputs) -> Tensor:
            said = call(*(None if tensor is None else tensor.contiguous() for tensor in inputs.told))
            output: Tensor = said[0] if isinstance(said, list | tuple) else said
            return output + bias

        return run
