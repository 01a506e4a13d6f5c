"""Which drawn pictures are checked before anybody gets them, and what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from sdapi.catalog import Assets, Refused
from sdapi.domain.generation import AnyRequest
from sdapi.domain.safety import DEFAULT_SAFETY_TYPE, NO_CHECKER, SafetyMode, SafetyType

from .base import Drawn, Failed
from .covering import covered


class SafetyRules:
    """The operator's choice, for the engines."""

    def __init__(self, assets: Assets, mode: SafetyMode) -> None:
        self._assets = assets
        self._mode = mode

    async def covering(self, request: AnyRequest) -> SafetyType | Failed | None:
        """How unsafe pictures of the request are to be covered; None where nobody looks at them.

        Failed where they must be looked at and can't be. One that is installed and can't be used is no reason to give pictures out.
        """
        asked: SafetyType | None = request.safety
        how = None if self._mode == "off" else (asked or DEFAULT_SAFETY_TYPE) if self._mode == "required" else asked
        if how is None:
            return None
        try:
            installed = await asyncio.to_thread(self._assets.safety.used)
        except Refused as refusal:
            return Failed(str(refusal))
        if installed is None:
            return Failed(NO_CHECKER) if self._mode == "required" else None
        return how

    async def is_installed(self) -> bool:
        """Whether there is something to check pictures with, usable or not."""
        try:
            return await asyncio.to_thread(self._assets.safety.used) is not None
        except Refused:
            return True


async def with_unsafe_covered(drawn: Drawn, unsafe: Sequence[bool], how: SafetyType) -> Drawn:
    """The same with what is unsafe covered, and with a note of what that is."""
    images = [
        await asyncio.to_thread(covered, image, how) if is_unsafe else image for image, is_unsafe in zip(drawn.images, unsafe, strict=True)
    ]
    film = drawn.film
    if film is not None and any(unsafe):
        # Whatever was found in one of its frames is hardly in that one alone.
        film = replace(film, frames=tuple([await asyncio.to_thread(covered, frame, how) for frame in film.frames]))
    return replace(drawn, images=tuple(images), unsafe=tuple(unsafe), film=film)
