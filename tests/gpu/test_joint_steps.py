"""Rows step together on the device as they do on the CPU."""

from __future__ import annotations

import pytest
import torch

from sdapi.domain.generation import SchedulerName
from sdapi.pipelines.samplers.joint_steps import advance_rows
from sdapi.pipelines.samplers.plan_cache import Plans
from sdapi.pipelines.scheduling.row import BatchKey, Row
from tests.pipelines.drawing import demo_parts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SHAPE = (1, 4, 64, 64)


def stepped(device: str) -> list[Row]:
    plans = Plans(demo_parts().scheduler_config)
    rows = []
    for seed, name in enumerate(SchedulerName):
        generator = torch.Generator().manual_seed(seed)
        sampler = plans.sampler(name, steps=6, strength=None)
        latents = torch.randn(SHAPE, generator=generator).to(device) * sampler.initial_noise_sigma
        rows.append(Row(BatchKey("demo", 64, 64, 77), latents, sampler, generator, (), None, 1.0))
    network = torch.Generator().manual_seed(99)
    for _ in range(6):
        assert advance_rows(rows, [torch.randn(SHAPE, generator=network).to(device) for _ in rows]) == [None] * len(rows)
    return rows


@torch.inference_mode()
def test_rows_on_the_device_come_out_as_on_the_cpu_even_where_matrix_products_round() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        on_device = stepped("cuda")
    finally:
        torch.set_float32_matmul_precision(before)
    for row, other in zip(on_device, stepped("cpu"), strict=True):
        difference = (row.latents.cpu() - other.latents).abs().max() / other.latents.abs().max()
        assert float(difference) < 1e-5, row.sampler.name
        assert torch.equal(row.generator.get_state(), other.generator.get_state())


@torch.inference_mode()
def test_a_joint_step_does_not_wait_for_the_device() -> None:
    rows = stepped("cuda")
    predictions = [torch.zeros(SHAPE, device="cuda") for _ in rows]
    plans = Plans(demo_parts().scheduler_config)
    for row in rows:
        row.sampler = plans.sampler(SchedulerName.EULER_ANCESTRAL, steps=6, strength=None)
    advance_rows(rows, predictions)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert advance_rows(rows, predictions) == [None] * len(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
