"""How far the `eta` of answers is from what it really takes, with a dozen different jobs in the queue."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx

from .server import BenchmarkFailed, job_of, scratch_folder, serving, submit, wait_until
from .table import Table

_JOBS: tuple[Mapping[str, int], ...] = tuple(
    {"width": side_px, "height": side_px, "num_inference_steps": steps, "seed": side_px + steps}
    for steps in (15, 20, 25)
    for side_px in (128, 256, 192, 128)
)
_WARM_UP: tuple[Mapping[str, int], ...] = ({"width": 256, "height": 256, "num_inference_steps": 20, "seed": 1},)
_LOOK_EVERY_S = 0.25
_NEGLIGIBLE_S = 0.5
"""A relative error says nothing about the last moments."""


@dataclass(frozen=True)
class _Promise:
    """An eta that was given, and when."""

    job_id: int
    at: datetime
    eta_s: float


@dataclass
class _Wave:
    """A dozen jobs submitted at once, from first to last."""

    at_submission: list[_Promise] = field(default_factory=list)
    on_the_way: list[_Promise] = field(default_factory=list)
    finished: dict[int, datetime] = field(default_factory=dict)

    def errors(self, promises: Sequence[_Promise]) -> list[float]:
        """(promised - real) / real, each."""
        pairs = [(promise.eta_s, (self.finished[promise.job_id] - promise.at).total_seconds()) for promise in promises]
        return [(promised_s - real_s) / real_s for promised_s, real_s in pairs if real_s > _NEGLIGIBLE_S]


def measure() -> Table:
    """The first dozen meets a server that has drawn one picture, the second one that has drawn the first dozen."""
    with scratch_folder() as folder, serving(folder, sync_wait_s=0) as server, server.client() as client:
        _run_wave(client, _WARM_UP)
        first, second = (_run_wave(client, _JOBS) for _ in range(2))
    return Table(
        f"eta of {len(_JOBS)} jobs submitted at once",
        ("median error", "median too long (+) or short (-)", "worst", "etas"),
        (
            _row("eta of the `processing` answer, first dozen", first, first.at_submission),
            _row("eta of the `processing` answer, second dozen", second, second.at_submission),
            _row("eta of GET /jobs/{id} on the way, first dozen", first, first.on_the_way),
            _row("eta of GET /jobs/{id} on the way, second dozen", second, second.on_the_way),
        ),
        note=f"Relative to the seconds it really took from that answer on; where that was over {_NEGLIGIBLE_S} s. "
        f"The dozens took {_span_s(first):.1f} and {_span_s(second):.1f} s.",
    )


def _run_wave(client: httpx.Client, jobs: Sequence[Mapping[str, int]]) -> _Wave:
    wave = _Wave()
    for fields in jobs:
        answer = submit(client, **fields)
        wave.at_submission.append(_Promise(answer["id"], datetime.now(UTC), answer["eta"]))
    wait_until(lambda: _all_finished(client, wave), look_every_s=_LOOK_EVERY_S)
    return wave


def _all_finished(client: httpx.Client, wave: _Wave) -> bool:
    """Whether every job of the wave is done; keeps the etas of those that are not."""
    for job_id in (promise.job_id for promise in wave.at_submission if promise.job_id not in wave.finished):
        job = job_of(client, job_id)
        if job["finished_at"] is None:
            wave.on_the_way.append(_Promise(job_id, datetime.now(UTC), job["eta"]))
        else:
            wave.finished[job_id] = datetime.fromisoformat(job["finished_at"])
    return len(wave.finished) == len(wave.at_submission)


def _span_s(wave: _Wave) -> float:
    return (max(wave.finished.values()) - min(promise.at for promise in wave.at_submission)).total_seconds()


def _row(name: str, wave: _Wave, promises: Sequence[_Promise]) -> tuple[str, ...]:
    errors = wave.errors(promises)
    if not errors:
        raise BenchmarkFailed(f"all jobs were done within {_NEGLIGIBLE_S} s")
    signed = statistics.median(errors)
    sizes = [abs(error) for error in errors]
    return name, f"{statistics.median(sizes):.0%}", f"{signed:+.0%}", f"{max(sizes):.0%}", str(len(errors))


def main() -> None:
    """Print the table."""
    print(measure().markdown())


if __name__ == "__main__":
    main()
