"""When a job will be done: what is before it, how quickly its model is drawn with, what has to be loaded, what else is likely to come.

Reads the table, hands numbers to `queue_model`, and keeps the answer for a moment, because every poll asks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Protocol

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sdapi.domain.drawing_speeds import DrawingSpeeds
from sdapi.domain.job import Job, JobStatus

from .arrivals import WINDOW_S, Arrival, expected
from .board import JobBoard
from .estimates import Shape, shape_of
from .measured_pace import fit, plausible
from .pace import DrawnJob, learned
from .queue_look import FinishedJob, OpenJob, finished_jobs, in_turn, latest_starts, open_jobs, shapes
from .queue_model import Demand, Paces, Room, finish_times

_LOOKED_AT: Final = 2000
"""Open jobs read, oldest first; whoever comes after them is told the end of them all."""
_SIMULATED: Final = 128
"""Waiting jobs followed one by one; beyond them only their cost counts."""
_REMEMBERED: Final = 24
"""Finished jobs that speeds are learned from."""
_LEARN_EVERY_S: Final = 1.0
_KEPT_S: Final = 0.25
_KEPT_FACTOR: Final = 10
"""A plan is kept for so many times what making it took, so that a long queue does not keep the process busy with reckoning."""
_SOONEST_S: Final = 0.1
"""What is said of a job that should be done by now."""
_MAX_STORING_S: Final = 0.3


class Loads(Protocol):
    """What an engine tells about its models and its batches."""

    async def load_s(self, model_id: str) -> float:
        """Seconds until the model can be drawn with, if it were asked for now: 0 when it is in memory."""

    def batch_pixels(self) -> int:
        """About how much of picture shares one forward, where nothing was measured."""

    def speeds(self) -> DrawingSpeeds:
        """What the device was measured to take; the same object while nothing was learnt."""


@dataclass(frozen=True)
class QueueLoad:
    """How much there is to do."""

    queued: int
    running: int
    seconds: float
    """Until all of it is done, if nothing more came."""


@dataclass(frozen=True)
class _Plan:
    """When everything will be done, as reckoned at one moment."""

    at: datetime
    kept_s: float
    positions: Mapping[int, int] = field(default_factory=dict)
    done_s: Mapping[int, float] = field(default_factory=dict)
    """Seconds from `at`."""
    last_s: float = 0.0
    complete: bool = True
    """Whether no open job was left out."""
    load: QueueLoad = QueueLoad(0, 0, 0.0)


class Estimator:
    """Tells when jobs will be done. For the event loop's thread; every method opens its own transaction, or none while a plan is fresh."""

    def __init__(
        self,
        sessions: async_sessionmaker[AsyncSession],
        board: JobBoard,
        loads: Loads,
        *,
        drawn_at_once: int,
        now: Callable[[], datetime],
    ) -> None:
        """`drawn_at_once` pictures are kept in flight on each device, half of them in one forward."""
        self._sessions = sessions
        self._board = board
        self._loads = loads
        self._drawn_at_once = drawn_at_once
        self._now = now
        self._plan: _Plan | None = None
        self._planning = asyncio.Lock()
        self._shapes: dict[int, Shape] = {}
        self._history: list[FinishedJob] = []
        self._learned_at: datetime | None = None
        self._paces = Paces()
        self._speeds: DrawingSpeeds | None = None
        """As they were told last."""

    async def eta_s(self, job: Job) -> float:
        """Seconds until the job is done; 0 when it is final."""
        if job.status.is_final:
            return 0.0
        self._shapes.setdefault(job.id, shape_of(job.request))
        plan = await self._plan_with(job)
        done_s = plan.done_s.get(job.id)
        if done_s is None:
            # It ended while we reckoned, or comes after all we looked at.
            done_s = 0.0 if plan.complete else plan.last_s
        return max(_SOONEST_S, done_s - (self._now() - plan.at).total_seconds())

    async def position(self, job: Job) -> int:
        """How many jobs are drawn or waiting before it; 0 when it is running or final."""
        if job.status is not JobStatus.QUEUED:
            return 0
        plan = await self._plan_with(job)
        return plan.positions.get(job.id, 0 if plan.complete else plan.load.running + plan.load.queued)

    async def queue_load(self) -> QueueLoad:
        """How much there is to do, and how long that will take."""
        return (await self._plan_with(None)).load

    async def _plan_with(self, job: Job | None) -> _Plan:
        """A plan that is fresh, and knows the job as it is."""
        async with self._planning:
            if self._plan is None or not self._serves(self._plan, job):
                self._plan = await self._reckon()
            return self._plan

    def _serves(self, plan: _Plan, job: Job | None) -> bool:
        if not 0 <= (self._now() - plan.at).total_seconds() < plan.kept_s:
            return False
        return job is None or job.id in plan.done_s or not plan.complete

    async def _reckon(self) -> _Plan:
        began = time.monotonic()
        now = self._now()
        async with self._sessions() as session:
            jobs = await open_jobs(session, _LOOKED_AT)
            waiting = [job for job in jobs if job.status is JobStatus.QUEUED]
            order = in_turn(waiting, await latest_starts(session, {job.client_id for job in waiting}))
            learn = self._learned_at is None or not 0 <= (now - self._learned_at).total_seconds() < _LEARN_EVERY_S
            if learn:
                self._history = await finished_jobs(session, _REMEMBERED)
            running = [job for job in jobs if job.status is JobStatus.RUNNING]
            followed = [*running, *order[:_SIMULATED]]
            await self._know_shapes(session, [*(done.id for done in self._history), *(job.id for job in followed)])
        if (speeds := self._loads.speeds()) is not self._speeds:
            self._speeds = speeds
            self._paces = await asyncio.to_thread(_believing, self._paces, speeds)
        room = Room(self._drawn_at_once, max(1, self._drawn_at_once // 2), self._loads.batch_pixels() / (512 * 512))
        if learn:
            await self._learn(now, running, room)
        demands, devices = await self._demands(now, running, order[:_SIMULATED])
        arrivals, observed_s = self._arrivals(now, followed)
        company = expected(arrivals, observed_s=observed_s)
        paces, extra_s = self._paces, self._storing_s()
        done_s, clear_s = await asyncio.to_thread(_both, demands, company, devices, room, paces)
        done_s = {job_id: seconds + extra_s for job_id, seconds in done_s.items()}
        done_s |= _beyond(order[_SIMULATED:], done_s, sum(self._shapes[demand.id].cost for demand in demands))
        return _Plan(
            at=now,
            kept_s=max(_KEPT_S, _KEPT_FACTOR * (time.monotonic() - began)),
            positions={job.id: len(running) + i for i, job in enumerate(order)},
            done_s=done_s,
            last_s=max(done_s.values(), default=0.0),
            complete=len(jobs) < _LOOKED_AT,
            load=QueueLoad(len(order), len(running), max((clear_s + extra_s) if demands else 0.0, _last(done_s, order[_SIMULATED:]))),
        )

    async def _know_shapes(self, session: AsyncSession, job_ids: Collection[int]) -> None:
        """Read what is asked of the jobs met for the first time; forget those met no more."""
        unknown = [job_id for job_id in job_ids if job_id not in self._shapes]
        found = dict(self._shapes)
        found |= await shapes(session, unknown)
        self._shapes = {job_id: found[job_id] for job_id in job_ids if job_id in found}

    async def _learn(self, now: datetime, running: Sequence[OpenJob], room: Room) -> None:
        self._learned_at = now
        history = [
            DrawnJob(done.id, self._shapes[done.id], done.worker, _began_s(done, now), done.seconds, done.client_id)
            for done in self._history
            if done.id in self._shapes
        ]
        full = len(self._history) == _REMEMBERED
        since_s = min((done.finished_at - now).total_seconds() for done in self._history) if full else -math.inf
        company = [
            DrawnJob(job.id, self._shapes[job.id], job.worker or "", (job.started_at - now).total_seconds(), None, job.client_id)
            for job in running
            if job.started_at is not None and job.id in self._shapes and self._board.progress(job.id) is not None
        ]
        self._paces = await asyncio.to_thread(learned, self._paces, [*history, *company], room, complete_since_s=since_s)

    async def _demands(self, now: datetime, running: Sequence[OpenJob], waiting: Sequence[OpenJob]) -> tuple[list[Demand], int]:
        """What the running jobs have left and the waiting ones want, and on how many devices."""
        workers = self._workers(now, running)
        here = {job.worker for job in running if self._board.progress(job.id) is not None}
        ready_s = {
            model: await self._loads.load_s(model) for model in dict.fromkeys(self._shapes[j.id].model for j in (*running, *waiting))
        }
        demands: list[Demand] = []
        for job in running:
            shape, device, progress = self._shapes[job.id], workers.index(job.worker or ""), self._board.progress(job.id)
            if progress is not None:
                left = 1 - progress.step / progress.steps if progress.steps else 1.0
                demands.append(Demand(job.id, shape, job.client_id, left=left, device=device))
            elif job.worker in here or len(workers) == 1:
                demands.append(Demand(job.id, shape, job.client_id, ready_s=ready_s[shape.model], device=device))
            else:
                # Another process knows how far it is; here it is followed from when it began.
                began_s = 0.0 if job.started_at is None else min(0.0, (job.started_at - now).total_seconds())
                demands.append(Demand(job.id, shape, job.client_id, at_s=began_s, device=device))
        # Other processes may have the model already: only where there is just one device, a load is certain.
        wait_s = {model: seconds if len(workers) == 1 else 0.0 for model, seconds in ready_s.items()}
        demands += [Demand(job.id, self._shapes[job.id], job.client_id, ready_s=wait_s[self._shapes[job.id].model]) for job in waiting]
        return demands, len(workers)

    def _workers(self, now: datetime, running: Sequence[OpenJob]) -> list[str]:
        """Whoever runs jobs, or has just finished one; where nobody does, somebody will."""
        lately = [done.worker for done in self._history if (now - done.finished_at).total_seconds() < WINDOW_S]
        busy = dict.fromkeys(job.worker or "" for job in running)
        return list(dict.fromkeys([*busy, *lately])) or [""]

    def _arrivals(self, now: datetime, followed: Sequence[OpenJob]) -> tuple[list[Arrival], float]:
        """The jobs that came lately, and for how long back these are all."""
        lately: list[OpenJob | FinishedJob] = [*followed, *self._history]
        came = [
            Arrival((now - job.created_at).total_seconds(), self._shapes[job.id], job.client_id) for job in lately if job.id in self._shapes
        ]
        full = len(self._history) == _REMEMBERED
        return came, (now - min(job.finished_at for job in self._history)).total_seconds() if full else math.inf

    def _storing_s(self) -> float:
        """What storing and recording take beside the drawing: of the quicker jobs, because the others had to wait for something else."""
        beside = sorted((done.finished_at - done.started_at).total_seconds() - done.seconds for done in self._history)
        return min(_MAX_STORING_S, max(0.0, beside[len(beside) // 4])) if beside else 0.0


def _believing(paces: Paces, speeds: DrawingSpeeds) -> Paces:
    """For a thread: of many sizes it takes ten milliseconds."""
    believed = plausible(speeds)
    return replace(paces, speeds=believed, fitted=fit(believed))


def _began_s(done: FinishedJob, now: datetime) -> float:
    """When its drawing began, in seconds from now."""
    return (done.finished_at - now).total_seconds() - done.seconds


def _both(demands: Sequence[Demand], company: Sequence[Demand], devices: int, room: Room, paces: Paces) -> tuple[dict[int, float], float]:
    """When each demand is done in the company that is expected, and when all would be without."""
    ids = [demand.id for demand in demands]
    done_s = finish_times([*demands, *company], devices=devices, room=room, paces=paces, until_done=ids)
    alone_s = finish_times(demands, devices=devices, room=room, paces=paces) if company else done_s
    return {job_id: done_s[job_id] for job_id in ids if job_id in done_s}, max(alone_s.values(), default=0.0)


def _beyond(rest: Sequence[OpenJob], done_s: Mapping[int, float], cost: float) -> dict[int, float]:
    """When those are done whom nobody followed: as quickly after the others as the others after one another."""
    last_s = max(done_s.values(), default=0.0)
    result: dict[int, float] = {}
    total = cost
    for job in rest:
        total += job.cost
        result[job.id] = last_s * total / cost if cost else last_s
    return result


def _last(done_s: Mapping[int, float], rest: Sequence[OpenJob]) -> float:
    return done_s[rest[-1].id] if rest else 0.0
