"""The engine in this process: one thread for the device, started by the first picture."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdapi.catalog import Assets, Catalog
from sdapi.catalog.model_files import files_bytes
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.drawing_speeds import DrawingSpeeds
from sdapi.domain.errors import NotAvailable
from sdapi.domain.generation import Txt2Img
from sdapi.domain.models_in_memory import ModelsInMemory
from sdapi.domain.safety import SafetyMode, SafetyType

from .availability import missing
from .base import Cancelled, Drawn, Failed, Outcome, Report, Work
from .load_times import EngineState, ready_in_s
from .loop_calls import call, refuse, settle
from .outcomes import outcome_of
from .preloading import Preloading
from .safety import SafetyRules, with_unsafe_covered

if TYPE_CHECKING:
    from PIL import Image

    from sdapi.pipelines.safety.safety_stage import Verdict
    from sdapi.pipelines.scheduling.loop import DrawingLoop
    from sdapi.pipelines.scheduling.tickets import Result

_log = logging.getLogger(__name__)

_NOTHING_MEASURED = DrawingSpeeds()
_BROKEN = "the drawing engine does not work"
"""What clients are told; /healthz and the log have the reason."""


class LocalEngine:
    """See Engine. Torch and diffusers are imported on the device thread, so the API answers before they are there."""

    def __init__(
        self,
        catalog: Catalog,
        assets: Assets,
        options: DeviceOptions,
        *,
        max_rows: int,
        safety: SafetyMode = "optional",
    ) -> None:
        """`max_rows` pictures may be in flight at once."""
        self._catalog = catalog
        self._assets = assets
        self._options = options
        self._max_rows = max_rows
        self._preloading = Preloading(catalog, self._bring, lambda model_id: model_id in self.models().resident)
        self._rows_in_flight = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.Future[DrawingLoop] | None = None
        self._pending: set[asyncio.Future[Any]] = set()
        self._safety = SafetyRules(assets, safety)
        self._withheld: set[int] = set()
        """Jobs whose pictures nobody may see before they were checked."""
        self._problem: str | None = None
        self._stopping = False
        self._opening_since_s: float | None = None
        self._sizes: dict[str, int] = {}
        self._stamps = 0
        """Drawn so far; their negative numbers are nobody's job."""

    async def draw(self, work: Work, report: Report, cancelled: threading.Event) -> Outcome:
        """See Engine."""
        self._rows_in_flight += work.request.samples
        try:
            how = await self._safety.covering(work.request)
            if how is None or isinstance(how, Failed):
                return how or await self._draw(work, report, cancelled)
            self._withheld.add(work.job_id)
            outcome = await self._draw(work, report, cancelled)
            return await self._checked(outcome, how) if isinstance(outcome, Drawn) else outcome
        finally:
            self._withheld.discard(work.job_id)
            self._rows_in_flight -= work.request.samples

    async def _draw(self, work: Work, report: Report, cancelled: threading.Event) -> Outcome:
        request = work.request
        if (reason := missing(request)) is not None:
            return Failed(reason)
        event_loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result | None] = event_loop.create_future()
        self._pending.add(answer)
        try:
            drawing = await self._drawing_loop()
            if drawing is None or self._problem is not None or self._stopping:
                return Cancelled() if self._stopping else Failed(_BROKEN)
            from sdapi.pipelines.scheduling.tickets import Ticket

            drawing.submit(
                Ticket(
                    job_id=work.job_id,
                    request=request,
                    init_image=work.init_image,
                    mask_image=work.mask_image,
                    control_image=work.control_image,
                    client=work.client_id,
                    cancelled=cancelled,
                    report=lambda progress: call(event_loop, report, progress),
                    done=lambda result: call(event_loop, settle, answer, result),
                )
            )
            result = await answer
            return Failed(_BROKEN) if result is None else outcome_of(result, request)
        finally:
            self._pending.discard(answer)

    async def _checked(self, drawn: Drawn, how: SafetyType) -> Outcome:
        """The same with what is unsafe covered. A check that can't be made ends the job: nothing leaves unseen."""
        verdict = await self._verdict(drawn.images)
        if isinstance(verdict, tuple):
            return await with_unsafe_covered(drawn, verdict, how)
        return Cancelled() if self._stopping else Failed(_BROKEN if verdict is None else verdict.reason)

    async def _verdict(self, images: tuple[Image.Image, ...]) -> Verdict | None:
        """None where the engine is broken."""
        drawing = await self._drawing_loop()
        if drawing is None or self._problem is not None:
            return None
        event_loop = asyncio.get_running_loop()
        answer: asyncio.Future[Verdict | None] = event_loop.create_future()
        self._pending.add(answer)
        try:
            drawing.check(images, lambda verdict: call(event_loop, settle, answer, verdict))
            return await answer
        finally:
            self._pending.discard(answer)

    async def is_unsafe(self, image: Image.Image) -> bool | None:
        """See Engine."""
        if not await self._safety.is_installed():
            return None
        verdict = await self._verdict((image,))
        if isinstance(verdict, tuple):
            return verdict[0]
        raise NotAvailable(f"The picture can't be checked: {_BROKEN}." if verdict is None else verdict.reason)

    async def preview(self, job_id: int) -> Image.Image | None:
        """See Engine."""
        if (drawing := self._opened()) is None or job_id in self._withheld:
            return None
        event_loop = asyncio.get_running_loop()
        answer: asyncio.Future[Image.Image | None] = event_loop.create_future()
        drawing.preview(job_id, lambda image: call(event_loop, settle, answer, image))
        return await answer

    async def clear_caches(self) -> int:
        """See Engine."""
        if (drawing := self._opened()) is None:
            return 0
        event_loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = event_loop.create_future()
        drawing.clear_caches(lambda freed_bytes: call(event_loop, settle, answer, freed_bytes))
        return await answer

    def models(self) -> ModelsInMemory:
        """See Engine."""
        return ModelsInMemory() if (drawing := self._opened()) is None else drawing.models

    def preload(self, model_ids: Sequence[str]) -> None:
        """Begin to bring these checkpoints into memory, in this order. On the event loop, at most once."""
        self._preloading.start(model_ids)

    def preloading(self) -> tuple[str, ...]:
        """See Engine."""
        return self._preloading.coming

    async def _bring(self, model_id: str) -> str | None:
        """By drawing a stamp with it that nobody sees: the first drawing takes longer than others, too."""
        stamp = Txt2Img(checkpoint=model_id, prompt="a stamp", width=64, height=64, seed=0, steps=2)
        self._stamps += 1
        outcome = await self._draw(Work(-self._stamps, stamp), lambda _: None, threading.Event())
        return outcome.reason if isinstance(outcome, Failed) else None

    def room(self) -> int:
        """See Engine."""
        return 0 if self._stopping else max(0, self._max_rows - self._rows_in_flight)

    def problem(self) -> str | None:
        """See Engine."""
        return self._problem

    async def load_s(self, model_id: str) -> float:
        """Seconds until the model can be drawn with, if it were asked for now: 0 when it is in memory."""
        drawing = self._opened()
        state = EngineState(drawing is not None, self._opening_since_s, self.models())
        if model_id not in state.models.resident and not self._sizes.get(model_id):
            self._sizes[model_id] = await asyncio.to_thread(files_bytes, model_id, self._catalog, self._assets)
        return ready_in_s(model_id, self._sizes, state, now_s=time.monotonic())

    def batch_pixels(self) -> int:
        """About how much of picture shares one forward; what the CPU takes, before the device is open."""
        drawing = self._opened()
        return 4 * 512 * 512 if drawing is None else drawing.max_batch_pixels

    def speeds(self) -> DrawingSpeeds:
        """What the device was measured to take for what was drawn on it; nothing is known before it is open."""
        drawing = self._opened()
        return _NOTHING_MEASURED if drawing is None else drawing.speeds

    def _opened(self) -> DrawingLoop | None:
        if self._loop is None or not self._loop.done() or self._loop.exception() is not None:
            return None
        return self._loop.result()

    async def stop(self) -> None:
        """See Engine."""
        self._stopping = True
        if self._loop is not None and self._thread is not None:
            drawing = await self._drawing_loop()
            if drawing is not None:
                drawing.stop()
            await asyncio.to_thread(self._thread.join)
        await self._preloading.stop()

    async def _drawing_loop(self) -> DrawingLoop | None:
        """The loop, opened on the device thread by the first who asks; None when it could not be opened."""
        if self._loop is None:
            if self._stopping:
                return None
            self._loop = asyncio.get_running_loop().create_future()
            self._opening_since_s = time.monotonic()
            # A daemon, so that a hung driver can't keep a process alive that was asked to stop.
            self._thread = threading.Thread(
                target=self._run, args=(asyncio.get_running_loop(), self._loop), name="sdapi-device", daemon=True
            )
            self._thread.start()
        try:
            return await asyncio.shield(self._loop)
        except Exception:  # noqa: BLE001 - logged where it happened; here it means: can't draw
            return None

    def _run(self, event_loop: asyncio.AbstractEventLoop, opened: asyncio.Future[DrawingLoop]) -> None:
        """The device thread's whole life. The one place where anything may come out of the drawing code."""
        try:
            from sdapi.pipelines.device_host import open_loop

            drawing = open_loop(self._catalog, self._assets, self._options)
        except Exception as error:  # noqa: BLE001 - nothing may come out of the device thread
            _log.exception("the drawing engine can't start")
            self._problem = f"the drawing engine can't start: {error}"
            call(event_loop, refuse, opened, error)
            return
        call(event_loop, settle, opened, drawing)
        try:
            drawing.run()
        except Exception as error:  # noqa: BLE001 - nothing may come out of the device thread
            _log.exception("the drawing loop ended")
            self._problem = f"the drawing loop ended: {type(error).__name__}"
            call(event_loop, self._abandon)

    def _abandon(self) -> None:
        for answer in self._pending:
            if not answer.done():
                answer.set_result(None)
