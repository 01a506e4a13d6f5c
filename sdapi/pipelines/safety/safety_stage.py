"""Looks at finished pictures beside the drawing: the checker comes when it is first needed, and has a thread while it looks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from PIL import Image

from sdapi.catalog import Refused
from sdapi.catalog.safety import InstalledChecker, SafetyCheckers
from sdapi.domain.errors import SdapiError
from sdapi.domain.safety import NO_CHECKER
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.passing_thread import PassingThread
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.safety.checker import SafetyChecker, read_checker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unchecked:
    """Why nothing can be said of the pictures, in words for a client."""

    reason: str


Verdict = tuple[bool, ...] | Unchecked
"""Of each picture, in order, whether it is unsafe."""


@dataclass(frozen=True)
class Question:
    """Pictures to look at. `answer` is called exactly once, on the thread that draws."""

    images: tuple[Image.Image, ...]
    answer: Callable[[Verdict], None]


@dataclass(frozen=True)
class _Look:
    question: Question
    name: str
    verdict: Future[tuple[bool, ...]]


class SafetyStage:
    """For use from the device thread only, but for `ask`."""

    def __init__(self, checkers: SafetyCheckers | None, memory: Memory, *, device: torch.device) -> None:
        """None for `checkers`: none is installed."""
        self._checkers = checkers
        self._device = device
        self._known: dict[str, InstalledChecker] = {}
        self._residency: Residency[SafetyChecker] = Residency(self._read, memory)
        self._inbox: deque[Question] = deque()
        self._waiting: list[tuple[Question, str]] = []
        """Those whose checker, named beside them, is not in memory yet."""
        self._looks: list[_Look] = []
        self._looking = PassingThread("sdapi-safety")

    @classmethod
    def empty(cls, memory: Memory) -> SafetyStage:
        """One with nothing installed."""
        return cls(None, memory, device=torch.device("cpu"))

    @property
    def is_loading(self) -> bool:
        """Whether somebody waits until a checker is in memory."""
        return bool(self._waiting)

    @property
    def has_errand(self) -> bool:
        """Whether there is something to do for `tend`, or to tell."""
        return bool(self._inbox) or any(look.verdict.done() for look in self._looks)

    def ask(self, question: Question) -> None:
        """Have the pictures looked at; from any thread."""
        self._inbox.append(question)

    def tend(self, wake: Callable[[], None]) -> None:
        """Begin what can be begun, and tell what has been found out. `wake` is called, on another thread, when there is more to tell."""
        for look in [look for look in self._looks if look.verdict.done()]:
            self._looks.remove(look)
            self._residency.release(look.name)
            look.question.answer(_told(look.verdict))
        while self._inbox:
            self._admit(self._inbox.popleft())
        for question, name in list(self._waiting):
            try:
                checker = self._residency.lease(name)
            except Exception as error:  # noqa: BLE001 - whatever loading raises is told to who asked, not to the loop
                self._waiting.remove((question, name))
                question.answer(_unchecked(error, "the safety checker could not be loaded"))
                continue
            if checker is None:
                continue
            self._waiting.remove((question, name))
            verdict = self._looking.submit(checker.are_unsafe, question.images)
            self._looks.append(_Look(question, name, verdict))
            verdict.add_done_callback(lambda _: wake())

    def _admit(self, question: Question) -> None:
        """To be looked at by the checker that is installed now."""
        try:
            installed = None if self._checkers is None else self._checkers.used()
        except Refused as refusal:
            question.answer(Unchecked(str(refusal)))
            return
        if installed is None:
            question.answer(Unchecked(NO_CHECKER))
            return
        name = f"{installed.id}, {installed.version}"
        self._known[name] = installed
        self._waiting.append((question, name))

    def evict_idle(self) -> int:
        """Forget a checker nobody needs now; how many bytes it took."""
        return self._residency.evict_idle()

    def close(self) -> None:
        """Answer everybody and forget everything."""
        self._looking.shutdown(wait=True, cancel_futures=True)
        left = [*(look.question for look in self._looks), *(question for question, _ in self._waiting), *self._inbox]
        self._looks.clear()
        self._waiting.clear()
        self._inbox.clear()
        for question in left:
            question.answer(Unchecked("The server stopped before the pictures were checked."))
        self._residency.close()

    def _read(self, name: str) -> SafetyChecker:
        return read_checker(self._known[name], device=self._device)


def _told(verdict: Future[tuple[bool, ...]]) -> Verdict:
    error = verdict.exception()
    if isinstance(error, Exception):
        return _unchecked(error, "the safety check failed")
    return verdict.result()


def _unchecked(error: Exception, sentence: str) -> Unchecked:
    """Errors of the domain are written for clients; others are logged and summed up."""
    if isinstance(error, SdapiError):
        return Unchecked(str(error))
    _log.error(sentence, exc_info=error)
    return Unchecked(sentence)
