"""What is measured: a model in its full size, or the embedded one in a dry run, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdapi.catalog import EMBEDDED_ID, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import SchedulerName, Txt2Img
from sdapi.pipelines.scheduling.loop import DrawingLoop

from ..random_weights import checkpoint_folder
from ..server import BenchmarkFailed
from ..stock_pipeline import running

Family = Literal["sd1", "sdxl"]

SCHEDULER = SchedulerName.DPM_MULTISTEP
"""One forward for a step, of ours and of diffusers' pipelines."""

_TITLES: Mapping[Family, str] = {"sd1": "SD 1.5", "sdxl": "SDXL"}
_COLOURS = ("red", "green", "yellow", "white", "blue")
_SHAPES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True)
class Targets:
    """What the figures are held against; None where there is no target."""

    pictures_per_s: float | None = None
    at_in_flight: int = 0
    """The level that `pictures_per_s`, and `p50_s`, are of."""
    p50_s: float | None = None
    mean_s: float | None = None
    """Of requests at random moments."""


@dataclass(frozen=True)
class Subject:
    """One model, and what is asked of it."""

    family: Family
    title: str
    checkpoint: str
    """Its id."""
    folder: Path
    """In the diffusers layout."""
    models_dir: Path
    is_embedded: bool
    side_px: int
    steps: int
    in_flight: tuple[int, ...]
    warm_s: float
    """Drawn before a level is measured."""
    window_s: float
    """Drawn while it is measured."""
    arrivals_per_s: float
    arrivals: int
    targets: Targets

    @property
    def name(self) -> str:
        """For headings."""
        return f"{self.title}, {self.side_px} px, {self.steps} steps"

    def requests(self, number: int, *, first_seed: int = 1, steps: int | None = None) -> list[Txt2Img]:
        """Of different prompts and seeds, alike in everything else: what static batches can take together, too."""
        return [self.request(seed, steps=steps) for seed in range(first_seed, first_seed + number)]

    def request(self, seed: int, *, steps: int | None = None) -> Txt2Img:
        """One of them."""
        return Txt2Img(
            checkpoint=self.checkpoint,
            prompt=f"a {_COLOURS[seed % 5]} {_SHAPES[(seed // 5) % 4]} on a blue background",
            width=self.side_px,
            height=self.side_px,
            seed=seed,
            steps=steps or self.steps,
            guidance_scale=7.5,
            scheduler=SCHEDULER,
        )


def subject(family: Family, work: Path, *, dry_run: bool) -> Subject:
    """Writes the weights into `work` where they are not there yet. Raises BenchmarkFailed."""
    if dry_run:
        return embedded(family)
    folder = checkpoint_folder(work, family)
    is_large = family == "sdxl"
    return Subject(
        family=family,
        title=_TITLES[family],
        checkpoint=folder.name,
        folder=folder,
        models_dir=work,
        is_embedded=False,
        side_px=1024 if is_large else 512,
        steps=30 if is_large else 20,
        in_flight=(1, 2, 4) if is_large else (1, 2, 4, 8, 16),
        warm_s=5 if is_large else 3,
        window_s=14 if is_large else 7,
        arrivals_per_s=1.0,
        arrivals=25 if is_large else 0,
        targets=Targets(1.1, 4, None, 3.0) if is_large else Targets(10.0, 8, 1.0),
    )


def embedded(family: Family) -> Subject:
    """The embedded model in that one's place. Raises BenchmarkFailed."""
    folder = embedded_model_dir()
    if folder is None:
        raise BenchmarkFailed("the embedded model is not there")
    return Subject(
        family=family,
        title=f"{_TITLES[family]}'s stand-in",
        checkpoint=EMBEDDED_ID,
        folder=folder,
        models_dir=folder.parent,
        is_embedded=True,
        side_px=64,
        steps=4,
        in_flight=(1, 2),
        warm_s=0.2,
        window_s=0.5,
        arrivals_per_s=8.0,
        arrivals=6 if family == "sdxl" else 0,
        targets=Targets(),
    )


@contextmanager
def drawing(subject: Subject, dtype: str = "auto", rows: int = 16) -> Iterator[DrawingLoop]:
    """The loop with that model, with the server's defaults."""
    catalog = Catalog(subject.models_dir, aliases={}, embedded=subject.folder if subject.is_embedded else None)
    options = DeviceOptions(device="auto", dtype=dtype, threads=0, max_batch_rows=rows, model_cache_bytes=2**40)
    with running(catalog, subject.models_dir, options) as loop:
        yield loop
