"""What enlarging takes and gives: time and memory of a network as large as RealESRGAN_x4plus, and the embedded one against Lanczos."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping

from sdapi.catalog import embedded_assets_dir

from .record import tell
from .table import NOT_MEASURED, Table

_SIDES_PX = (1024,)
_QUICK_SIDES_PX = (192,)


def measure(*, quick: bool = True) -> Table:
    """The large network at one size, in a process of its own; then pictures that training left out. `quick`: 192 instead of 1024 px."""
    rows = [_large(side_px) for side_px in (_QUICK_SIDES_PX if quick else _SIDES_PX)]
    rows += _quality()
    return Table(
        "Upscaling",
        ("time, s", "most memory, MB", "tiles", "PSNR, dB", "Lanczos, dB"),
        tuple(rows),
        note="Time and memory: a network of RealESRGAN_x4plus' shape with random weights, tile by tile, in a process of its own whose "
        "whole memory is told, torch included. PSNR: the embedded demo-x2 on 24 drawings of combinations that training never saw, halved "
        "by area and enlarged again.",
    )


def _large(side_px: int) -> tuple[str, ...]:
    command = [sys.executable, "-m", "benchmarks.upscaling", "--one", str(side_px)]
    found: Mapping[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    name = f"RealESRGAN_x4plus' shape, {side_px} to {4 * side_px} px"
    return name, f"{found['seconds']:.0f}", f"{found['peak_mb']:.0f}", f"{found['tiles']:.0f}", NOT_MEASURED, NOT_MEASURED


def _one(side_px: int) -> None:
    """What the process of its own does."""
    import torch
    from PIL import Image

    from sdapi.pipelines.upscalers.model import UpscalerModel
    from sdapi.pipelines.upscalers.networks import DenseNetwork, DenseShape

    torch.manual_seed(0)
    model = UpscalerModel("large", DenseNetwork(DenseShape(features=64, growth=32, blocks=23)).eval().requires_grad_(requires_grad=False))
    picture = Image.effect_noise((side_px, side_px), 60).convert("RGB")
    started = time.perf_counter()
    row = model.begin(picture.size, 4, picture)
    while not row.sampler.finished:
        (predicted,) = model.predict([row])
        model.advance(row, predicted)
    assert model.decode(row).size == (4 * side_px, 4 * side_px)
    seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb, "tiles": row.steps}))


def _quality() -> list[tuple[str, ...]]:
    folder = embedded_assets_dir()
    if folder is None:
        raise FileNotFoundError("the embedded upscaler is not there")
    command = [sys.executable, "-m", "recipe.train_upscaler", "--judge", str(folder / "upscalers" / "demo-x2.safetensors")]
    # The recipe is no part of any package: it is run where it lies.
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder.parent).stdout
    rows: list[tuple[str, ...]] = []
    for found in map(json.loads, told.splitlines()):
        name = f"embedded demo-x2, {found['side_px'] // 2} to {found['side_px']} px"
        rows.append((name, f"{found['seconds']:.2f}", NOT_MEASURED, "1", f"{found['net_db']:.1f}", f"{found['lanczos_db']:.1f}"))
    return rows


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="192 px instead of 1024: seconds instead of minutes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        _one(args.one)
    else:
        tell("upscaling", measure(quick=args.quick))


if __name__ == "__main__":
    main()
