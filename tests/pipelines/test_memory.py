"""Models and LoRAs that left memory have left it."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdapi.catalog import embedded_model_dir

from . import lora_files
from .drawing import demo_parts

GROWTH = 0.02
SETTLED = 5
"""Cycles after which all that is made once has been made."""
LORAS = 10
RANK = 60


def three_checkpoints(models_dir: Path) -> None:
    folder = embedded_model_dir()
    assert folder is not None
    for name in ("one", "two", "three"):
        shutil.copytree(folder, models_dir / "checkpoints" / name, ignore=shutil.ignore_patterns("recipe", "*.md", "*.png"))


def ten_loras(models_dir: Path) -> None:
    """Of about two megabytes each."""
    linear = {path: module for path, module in demo_parts().unet.named_modules() if isinstance(module, torch.nn.Linear)}
    for number in range(LORAS):
        tensors = {}
        for path, module in linear.items():
            if "ff.net" not in path:
                continue
            name = f"lora_unet_{path.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"] = torch.full((RANK, module.in_features), 1e-3)
            tensors[f"{name}.lora_up.weight"] = torch.full((module.out_features, RANK), 1e-3)
        lora_files.install(models_dir, f"lora{number}", tensors)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """What a process took after each cycle: twelve of three checkpoints, twenty of ten LoRAs, twelve of five upscales."""
    models_dir = tmp_path_factory.mktemp("models")
    three_checkpoints(models_dir)
    ten_loras(models_dir)
    command = [sys.executable, "-m", "tests.pipelines.memory_process", str(models_dir)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=280, env=os.environ | {"PYTHONPATH": "models/demo"}, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[int]] = json.loads(ran.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux to give memory back")
@pytest.mark.parametrize("what", ["checkpoints", "loras", "upscales"])
def test_after_many_rounds_no_more_memory_is_taken_than_after_five(resident: dict[str, list[int]], what: str) -> None:
    # Medians of three, because a few pages more or less say nothing.
    early, late = (statistics.median(rounds) for rounds in (resident[what][SETTLED - 1 :][:3], resident[what][-3:]))
    assert late / early - 1 < GROWTH, resident[what]
