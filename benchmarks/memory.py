"""What drawing takes of memory at most: by model, size of the picture, and rows that share a forward. Each in a process of its own."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .table import Table

_SIDES_PX = (128, 256)
_ROWS = (1, 4, 8)
_STEPS = 2
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What makes Linux forget the peak so far."""


@dataclass(frozen=True)
class Peak:
    """Bytes of one process, of the GPU's memory where there is one, else of the whole process."""

    model: str
    side_px: int
    rows: int
    device: str
    before_bytes: int
    """With all libraries imported, and no model."""
    loading_bytes: int
    """At most, while the model was loaded; pages of its files count where they are mapped."""
    weights_bytes: int
    """Of the model."""
    drawing_bytes: int
    """At most, while it was drawn with."""

    @property
    def of_drawing_bytes(self) -> int:
        """What drawing takes besides the weights."""
        return self.drawing_bytes - self.before_bytes - self.weights_bytes


def measure_one(models_dir: Path, model: str, *, side_px: int, rows: int) -> Peak:
    """In this process, which should have done nothing before. Raises BenchmarkFailed where nothing is drawn."""
    import torch

    from sdapi.catalog import Assets, Catalog, embedded_model_dir
    from sdapi.domain.device_options import DeviceOptions
    from sdapi.domain.generation import Txt2Img
    from sdapi.pipelines.device_host import open_loop

    from .throughput import Asked

    device = "cuda" if torch.cuda.is_available() else "cpu"
    catalog = Catalog(models_dir, aliases={}, embedded=embedded_model_dir())
    loop = open_loop(catalog, Assets(models_dir), DeviceOptions(device, "auto", 0, rows, 2**40, owns_process=True))
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()

    def draw(pictures: int, side: int) -> None:
        drawn = {"checkpoint": model, "prompt": "a red circle", "width": side, "height": side, "steps": _STEPS}
        for one in [Asked(loop, seed, Txt2Img.model_validate({**drawn, "seed": seed})) for seed in range(pictures)]:
            one.picture()

    before_bytes = _peak_bytes(device)
    draw(1, 64)
    loading_bytes = _peak_bytes(device)
    _forget_peak(device)
    draw(rows, side_px)
    drawing_bytes = _peak_bytes(device)
    weights_bytes = loop.models.resident_bytes
    loop.stop()
    thread.join()
    return Peak(model, side_px, rows, device, before_bytes, loading_bytes, weights_bytes, drawing_bytes)


def _peak_bytes(device: str) -> int:
    """Since the last `_forget_peak`. Where the system can't forget, since the process began."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    if _STATUS.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())) is not None:
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)


def measure(
    models_dir: Path = Path("models"),
    models: Sequence[str] = ("demo",),
    sides_px: Sequence[int] = _SIDES_PX,
    rows: Sequence[int] = _ROWS,
) -> Table:
    """Every model at every size with every number of rows."""
    found: list[Peak] = []
    for model in models:
        for side_px in sides_px:
            for count in rows:
                command = [sys.executable, "-m", "benchmarks.memory", "--models-dir", str(models_dir), "--measure"]
                asked = ["--model", model, "--side-px", str(side_px), "--rows", str(count)]
                ran = subprocess.run([*command, *asked], check=True, stdout=subprocess.PIPE, text=True)
                found.append(Peak(**json.loads(ran.stdout.splitlines()[-1])))
    return Table(
        "Memory, at most",
        ("weights, MB", "loading, MB", "drawing, MB", "drawing besides weights and libraries, MB"),
        tuple(
            (
                f"{peak.model}, {peak.side_px} px, rows: {peak.rows}",
                *(f"{size / 1e6:.0f}" for size in (peak.weights_bytes, peak.loading_bytes, peak.drawing_bytes, peak.of_drawing_bytes)),
            )
            for peak in found
        ),
        note=f"Of {'the GPU memory' if found and found[0].device == 'cuda' else 'the whole process'}, each in a process of its own; "
        f"{_STEPS} steps. Rows are pictures drawn at the same time.",
        figures={"peaks": [asdict(peak) for peak in found]},
    )


def main() -> None:
    """Print the table, and the same as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="where models lie besides the embedded one")
    parser.add_argument("--model", action="append", help="may be given more than once; the embedded one unless given")
    parser.add_argument("--side-px", type=int, action="append", help="may be given more than once")
    parser.add_argument("--rows", type=int, action="append", help="may be given more than once")
    parser.add_argument("--out", type=Path, help="a folder that gets the line of JSON, too")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    models, sides_px, rows = options.model or ["demo"], options.side_px or list(_SIDES_PX), options.rows or list(_ROWS)
    if options.measure:
        print(json.dumps(asdict(measure_one(options.models_dir, models[0], side_px=sides_px[0], rows=rows[0]))))
        return
    from .record import tell

    tell("memory", measure(options.models_dir, models, sides_px, rows), options.out)


if __name__ == "__main__":
    main()
