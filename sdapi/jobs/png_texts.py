"""What the files of finished pictures say of how they were made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from sdapi.catalog import AssetKind, Assets, Catalog
from sdapi.catalog.asset_hashes import AssetHashes
from sdapi.domain.errors import ModelNotFound
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img, Upscale
from sdapi.domain.job import Job
from sdapi.engine.base import Drawn
from sdapi.png import Hashes, film_text, parameters_text, upscaling_text


class PngTexts:
    """Writes them, with the hashes of everything that took part."""

    def __init__(self, catalog: Catalog, assets: Assets, *, enabled: bool) -> None:
        self._catalog = catalog
        self._assets = assets
        self._enabled = enabled
        self._asset_hashes = AssetHashes()

    async def of(self, job: Job, drawn: Drawn) -> list[str | None]:
        """One for each picture, or one for a film; None says nothing."""
        request = job.request
        if not self._enabled:
            return [None] * len(drawn.images)
        if isinstance(request, Text2Video):
            return [None if any(drawn.unsafe or ()) else film_text(request.model_copy(update={"scheduler": drawn.scheduler}))]
        if isinstance(request, Upscale):
            return [upscaling_text(request)] * len(drawn.images)
        told = request.model_copy(update={"scheduler": drawn.scheduler})
        hashes = await asyncio.to_thread(self._hashes, request)
        unsafe = drawn.unsafe or (False,) * len(drawn.images)
        seeds = ((request.seed + index) % 2**32 for index in range(len(drawn.images)))
        texts = [parameters_text(told, seed=seed, model=request.checkpoint, hashes=hashes) for seed in seeds]
        # Whoever finds a covered picture could have it drawn elsewhere, uncovered, by what this would tell.
        return [None if is_unsafe else text for text, is_unsafe in zip(texts, unsafe, strict=True)]

    def _hashes(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> Hashes:
        model, vae = None, None
        with suppress(ModelNotFound, OSError):
            model = self._catalog.hash_of(self._catalog.get(request.checkpoint))
        if request.vae is not None:
            vae = self._of_assets("vae", [request.vae]).get(request.vae)
        loras = self._of_assets("lora", [use.id for use in request.loras])
        return Hashes(model, loras, self._of_assets("embedding", request.embeddings), vae)

    def _of_assets(self, kind: AssetKind, ids: Iterable[str]) -> dict[str, str]:
        """By id; what was removed meanwhile is left out."""
        hashes = {}
        for asset_id in ids:
            with suppress(ModelNotFound, OSError):
                hashes[asset_id] = self._asset_hashes.of(self._assets.get(kind, asset_id))
        return hashes
