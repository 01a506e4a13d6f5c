"""Compiled forwards are made beside the drawing, say what the network says, and serve every checkpoint of one architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.progress import Progress
from sdapi.pipelines.compiling.compile_spec import CompileSpec, compile_spec
from sdapi.pipelines.compiling.compiled_forwards import CompiledForwards
from sdapi.pipelines.compiling.compiler import Compiler, can_compile
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.forwards.forward_inputs import ForwardInputs, forward
from sdapi.pipelines.forwards.recordings import Run
from sdapi.pipelines.forwards.text_keys import text_keys_of
from sdapi.pipelines.forwards.unet_forward import Forwards
from sdapi.pipelines.scheduling.tickets import Ticket

from .drawing import a_request
from .test_forwards import Recordings, inputs_of

SMALLEST = {
    "block_out_channels": (16,), "down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("UpBlock2D",), "sample_size": 8,
    "layers_per_block": 1, "cross_attention_dim": 64, "attention_head_dim": 2, "norm_num_groups": 4, "mid_block_type": None,
}  # fmt: skip


def a_unet(seed: int) -> Any:
    """As small as can be: compiling takes its time for every layer."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(**SMALLEST).eval().requires_grad_(requires_grad=False)
    unet.conv_out.bias.copy_(torch.randn(4))
    text_keys_of(unet)
    return unet


def names_in(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


@pytest.fixture
def compiler(tmp_path: Path) -> Iterator[Compiler]:
    made = Compiler(tmp_path / "compiled")
    yield made
    made.close()


@pytest.mark.skipif("COMPILE_TESTS" not in os.environ, reason="half a minute of a core; asked for by COMPILE_TESTS=1")
@torch.inference_mode()
def test_what_was_compiled_says_what_the_network_says_with_anybodys_weights(compiler: Compiler, tmp_path: Path) -> None:
    first, second = a_unet(1), a_unet(2)
    told, other = inputs_of(2), inputs_of(2, seed=1)
    forwards = CompiledForwards(first, compiler)
    began_s = time.monotonic()
    assert [forwards.for_(told) for _ in range(20)] == [None] * 20
    assert time.monotonic() - began_s < 5, "nobody waits for it"
    compiler.wait(240)
    run = forwards.for_(told)
    assert run is not None
    assert torch.allclose(run(other), forward(first, other), atol=1e-5)
    assert forwards.for_(inputs_of(3)) is None, "it is for its own size only"

    # After the next start, for another checkpoint.
    next_start = Compiler(tmp_path / "compiled")
    next_start.wait(60)
    again = CompiledForwards(second, next_start)
    found = [again.for_(told) for _ in range(20)][-1]
    assert found is not None
    assert torch.allclose(found(other), forward(second, other), atol=1e-5)
    assert not torch.allclose(found(other), run(other), atol=1e-2)
    assert names_in(tmp_path / "compiled") == [f"{compile_spec(first, told).name}.pt2"], "nothing else is left"


@torch.inference_mode()
def test_a_size_is_only_compiled_once_its_forwards_have_taken_long_enough(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    told = inputs_of(2)
    for pays_after_s, begun in ((1e9, 0), (1e-9, 1)):
        caplog.clear()
        compiler = Compiler(tmp_path / "compiled", pays_after_s=pays_after_s, python="/bin/false")
        forwards = CompiledForwards(a_unet(1), compiler)
        for _ in range(25):
            assert forwards.for_(told) is None
        compiler.wait(60)
        assert [record.message for record in caplog.records] == ["a forward could not be compiled"] * begun


@torch.inference_mode()
def test_what_was_compiled_before_is_taken_however_short_its_forwards_were(tmp_path: Path) -> None:
    unet, told = a_unet(1), inputs_of(2)
    compiler = Compiler(tmp_path, pays_after_s=1e9)
    file = tmp_path / f"{compile_spec(unet, told).name}.pt2"
    file.write_bytes(b"PK")
    compiler.wait(60)
    forwards = CompiledForwards(unet, compiler)
    for _ in range(25):
        forwards.for_(told)
    assert not file.exists(), "it was opened, and is none"


def test_without_a_compiler_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not can_compile()
    (tmp_path / "g++").touch(mode=0o755)
    assert can_compile()


def test_what_depends_on_the_machine_or_the_shape_has_a_file_of_its_own() -> None:
    unet = a_unet(1)
    spec = compile_spec(unet, inputs_of(2))
    assert spec.name == compile_spec(a_unet(2), inputs_of(2, seed=5)).name
    others = [compile_spec(unet, inputs_of(4)), compile_spec(unet, inputs_of(2, side=16)), compile_spec(unet.bfloat16(), inputs_of(2))]
    assert len({spec.name, *(other.name for other in others)}) == 4
    assert CompileSpec.from_json(spec.as_json) == spec


@torch.inference_mode()
def test_a_file_that_is_no_compiled_forward_is_thrown_away_and_the_network_runs(compiler: Compiler, tmp_path: Path) -> None:
    unet, told = a_unet(1), inputs_of(2)
    (tmp_path / "compiled").mkdir()
    damaged = tmp_path / "compiled" / f"{compile_spec(unet, told).name}.pt2"
    damaged.write_bytes(b"PK")
    compiler.wait(60)
    forwards = CompiledForwards(unet, compiler)
    assert [forwards.for_(told) for _ in range(25)] == [None] * 25
    assert not damaged.exists()


@torch.inference_mode()
def test_where_nothing_can_be_compiled_it_is_given_up_after_some_trials(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    compiler = Compiler(tmp_path / "compiled", python="/bin/false")
    broken = CompileSpec("{}", "float32", "no device", is_channels_last=False, threads=1, inputs=(), made_with="")
    specs = [CompileSpec(**{**json.loads(broken.as_json), "threads": number, "inputs": ()}) for number in range(1, 6)]
    for spec in specs:
        assert compiler.file(spec) is None
        compiler.wait(60)
    assert [record.message for record in caplog.records] == ["a forward could not be compiled"] * 3
    assert names_in(tmp_path / "compiled") == []


def test_the_process_that_compiles_ends_with_the_server(tmp_path: Path) -> None:
    spec = compile_spec(a_unet(1), inputs_of(2))
    # Prints who compiles, and ends without looking after it.
    program = (
        "import sys; from pathlib import Path; from sdapi.pipelines.compiling.compiler import Compiler;"
        "from sdapi.pipelines.compiling.compile_spec import *;"
        "c = Compiler(Path(sys.argv[1])); c.file(CompileSpec.from_json(sys.argv[2])); print(c._making.process.pid, flush=True);"
        "import os; os._exit(0)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path), spec.as_json], capture_output=True, text=True, timeout=60)
    child = int(ended.stdout)
    began_s = time.monotonic()
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - began_s < 30
        time.sleep(0.1)
    assert names_in(tmp_path) == []


def test_the_process_that_compiles_is_gone_when_the_loop_has_ended(tmp_path: Path) -> None:
    folder = embedded_model_dir()
    assert folder is not None
    options = DeviceOptions("cpu", "float32", threads=1, max_batch_rows=8, model_cache_bytes=2**40, compiled_dir=tmp_path / "compiled")
    loop = open_loop(Catalog(tmp_path, aliases={}, embedded=folder), Assets(tmp_path, embedded=None), options)
    before = set(psutil.Process().children())

    def report(_: Progress) -> None:
        made.extend(set(psutil.Process().children()) - before - set(made))
        if made:
            loop.stop()

    made: list[psutil.Process] = []
    request = a_request(steps=40, guidance_scale=1)
    loop.submit(Ticket(1, request, None, threading.Event(), report, lambda _: loop.stop()))
    loop.run()
    assert len(made) == 1
    assert not made[0].is_running()
    assert names_in(tmp_path / "compiled") == []


@dataclass
class Compiled:
    """Ready for what it was told, and for nothing else."""

    ready: set[int]
    ran: list[int] = field(default_factory=list)

    def for_(self, inputs: ForwardInputs) -> Run | None:
        def run(told: ForwardInputs) -> Tensor:
            self.ran.append(told.samples)
            return torch.full_like(told.latents, 7.0)

        return run if inputs.samples in self.ready else None


def plain(inputs: ForwardInputs) -> Tensor:
    return torch.zeros_like(inputs.latents)


@torch.inference_mode()
def test_batches_that_nearly_fill_a_compiled_size_are_padded_to_it_and_others_are_not() -> None:
    compiled = Compiled(ready={6, 8, 12})
    forwards = Forwards(plain, compiled=compiled)
    said = {samples: float(forwards.predict(inputs_of(samples)).mean()) for samples in (4, 5, 6, 7, 9, 10)}
    assert said == {4: 0.0, 5: 7.0, 6: 7.0, 7: 7.0, 9: 0.0, 10: 7.0}
    assert compiled.ran == [6, 6, 8, 12]
    assert forwards.predict(inputs_of(5)).shape == (5, 4, 8, 8)


@torch.inference_mode()
def test_a_recording_is_made_again_of_the_compiled_forward_when_that_is_there() -> None:
    compiled, recorder = Compiled(ready=set()), Recordings()
    forwards = Forwards(plain, recorder, compiled=compiled)
    for _ in range(3):
        assert float(forwards.predict(inputs_of(2)).mean()) == 0.0
    compiled.ready.add(2)
    for _ in range(3):
        assert float(forwards.predict(inputs_of(2)).mean()) == 7.0
    assert (len(recorder.made), forwards.recorded, forwards.compiled) == (2, 1, 1)


@torch.inference_mode()
def test_a_compiled_forward_that_can_not_be_recorded_leaves_the_recording_there_is() -> None:
    compiled, recorder = Compiled(ready=set()), Recordings()
    forwards = Forwards(plain, recorder, compiled=compiled)
    forwards.predict(inputs_of(2))
    forwards.predict(inputs_of(2))
    compiled.ready.add(2)
    recorder.fails = True
    for _ in range(2):
        assert float(forwards.predict(inputs_of(2)).mean()) == 0.0
    assert forwards.recorded == 1
