"""Forwards recorded as CUDA graphs: hundreds of kernels started by one call, where the processor would be slower than the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sdapi.pipelines.forwards.forward_inputs import ForwardInputs
from sdapi.pipelines.forwards.recordings import Recording, Run

_WARM_UPS = 3
"""Forwards before one is recorded: libraries choose their kernels and take their workspaces in the first ones, which a graph may not."""
_LEAST_BYTES = 16 * 2**20
"""Of a graph itself, about: its kernels' arguments lie on the device."""


class CudaRecorder:
    """Of one model. Its graphs share memory for what lies between their inputs and outputs: only one of them is played at a time."""

    def __init__(self, device: torch.device, *, has_fixed_kernels: bool = False) -> None:
        """`has_fixed_kernels` leaves convolutions to the kernels a size always gets; else the fastest ones are recorded, by measurement."""
        self._device = device
        self._has_fixed_kernels = has_fixed_kernels
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, run: Run, inputs: ForwardInputs) -> Recording:
        """See Recorder. Blocks for about four forwards."""
        # Only while recording: for a size that comes once, measuring takes longer than it saves.
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = not self._has_fixed_kernels
        try:
            with torch.cuda.device(self._device):
                return self._recorded(run, inputs)
        finally:
            torch.backends.cudnn.benchmark = before

    def _recorded(self, run: Run, inputs: ForwardInputs) -> _Graph:
        before_bytes = torch.cuda.memory_reserved(self._device)
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                run(inputs)
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Models are loaded by another thread, whose allocations would else break the recording.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = run(inputs)
        taken_bytes = max(_LEAST_BYTES, torch.cuda.memory_reserved(self._device) - before_bytes)
        return _Graph(graph, inputs, output, taken_bytes)


class _Graph:
    def __init__(self, graph: torch.cuda.CUDAGraph, inputs: ForwardInputs, output: Tensor, size_bytes: int) -> None:
        self._graph = graph
        self._inputs = inputs
        """Kept because the graph reads their memory."""
        self._output = output
        self.size_bytes = size_bytes

    def play(self) -> Tensor:
        self._graph.replay()
        return self._output
