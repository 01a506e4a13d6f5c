"""Prompts on their way into English: a translator is brought into memory, used beside the drawing, and kept while there is memory."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

import torch

from sdapi.catalog import ModelBroken
from sdapi.catalog.translators import InstalledTranslator, Translators
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img
from sdapi.domain.prompt_words import PromptPiece, together
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.memory.passing_thread import PassingThread
from sdapi.pipelines.memory.residency import Residency
from sdapi.pipelines.words.translator import Translator, read_translator

Drawing = Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video


class _Translation:
    """One job's prompts."""

    def __init__(self, request: Drawing, translator: str) -> None:
        self.request = request
        self.translator = translator
        """What the residency knows it by."""
        self.future: Future[Drawing] | None = None
        """Once the translator is there, which then stays until the job takes its prompts or is forgotten."""


class Translations:
    """Those of one device; for use from the device thread only."""

    def __init__(self, translators: Translators | None, memory: Memory, *, device: torch.device, dtype: torch.dtype) -> None:
        """None for `translators`: nothing is installed."""
        self._translators = translators
        self._memory = memory
        self._device = device
        self._dtype = dtype
        self._known: dict[str, InstalledTranslator] = {}
        self._residency: Residency[Translator] = Residency(self._read, memory)
        self._jobs: dict[int, _Translation] = {}
        self._threads = torch.get_num_threads()
        # One at a time: a second beside it would only take the drawing's cores.
        self._worker = PassingThread("sdapi-translator")

    def in_english(self, job_id: int, request: Drawing) -> Drawing | None:
        """The request as it is to be drawn; None while it is being translated, of which `Memory.wait_for_load` tells the end.

        Raises ModelBroken, once per job, where the translator is gone or damaged, and what translating raised.
        """
        if request.translation is None:
            return request
        if job_id not in self._jobs:
            self._jobs[job_id] = _Translation(request, self._key(request.translation.translator))
        job = self._jobs[job_id]
        if job.future is None:
            try:
                translator = self._residency.lease(job.translator)
            except BaseException:
                del self._jobs[job_id]
                raise
            if translator is None:
                return None
            job.future = self._worker.submit(self._translated, request, translator)
            job.future.add_done_callback(lambda _: self._memory.load_ended())
        if not job.future.done():
            return None
        try:
            return job.future.result()
        finally:
            self.forget(job_id)

    def forget(self, job_id: int) -> None:
        """The job needs no translation any more, if it ever did."""
        job = self._jobs.pop(job_id, None)
        if job is None or job.future is None:
            return
        job.future.cancel()
        self._residency.release(job.translator)

    @property
    def size_bytes(self) -> int:
        """What the translators in memory take."""
        return self._residency.size_bytes

    def clear(self) -> int:
        """Forget translators nobody uses; how many bytes they took."""
        return self._residency.evict_idle()

    def close(self) -> None:
        """Translate nothing more."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        self._residency.close()

    def _key(self, translator_id: str) -> str:
        installed = {} if self._translators is None else self._translators.installed()
        if translator_id not in installed:
            raise ModelBroken(translator_id, f"There is no translator in models/translators/{translator_id}/ any more.")
        key = f"{translator_id}, {installed[translator_id].version}"
        self._known[key] = installed[translator_id]
        return key

    def _translated(self, request: Drawing, translator: Translator) -> Drawing:
        torch.set_num_threads(self._threads)  # of this thread, which knows of no choice made on another
        return _translated(request, translator)

    def _read(self, key: str) -> Translator:
        return read_translator(self._known[key], device=self._device, dtype=self._dtype)


def _translated(request: Drawing, translator: Translator) -> Drawing:
    """The request with its words in English, in which nothing is left to translate."""

    def said(pieces: Iterable[PromptPiece]) -> str:
        return together(
            piece if piece.language is None else PromptPiece(text=translator.english(piece.text, piece.language)) for piece in pieces
        )

    translation = request.translation
    if translation is None:
        return request
    prompts = {"prompt": said(translation.prompt), "negative_prompt": said(translation.negative_prompt)}
    return request.model_copy(update={**prompts, "translation": None})
