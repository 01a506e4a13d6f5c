"""Films by diffusers' pipelines, called whole like those of `whole.py`: ModelScope's, AnimateDiff's and Wan's.

A film shares no forwards, but takes turns with everything else: step by step while it is drawn, and a few frames at a time while
they are decoded.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdapi.catalog import FILM_FAMILIES, Catalog, FilmFamily, ModelBroken
from sdapi.domain.errors import InvalidRequest, ModelNotFound
from sdapi.domain.families import refusal
from sdapi.domain.films import Film
from sdapi.domain.generation import ControlNet, Img2Img, Inpaint, Text2Video, Txt2Img
from sdapi.domain.models_in_memory import film_ids
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.loading.whole_loader import WholeComponents, assembled
from sdapi.pipelines.memory.host_tier import Packed
from sdapi.pipelines.scheduling.row import BatchKey
from sdapi.pipelines.whole.films import (
    decoded,
    decoding_turns,
    drawn_film_size,
    load_adapted,
    load_film_model,
    pictures,
    sampler_asked_for,
    words_and_guidance,
)
from sdapi.pipelines.whole.stepped_call import Pause, SteppedCall
from sdapi.pipelines.whole.whole_arguments import fitted, step_arguments

from .whole import WholeCourse, WholeKey

_KEY_CELL_PX = 8


@dataclass
class Turn:
    """What was done when the pipeline was left."""

    position: int
    total: int


@dataclass
class FilmRow:
    """One film in flight."""

    key: BatchKey
    sampler: WholeCourse
    forwards: int
    """What a step costs in forwards of a Stable Diffusion UNet for one frame: by the size of the network, the frames, and guidance."""
    size: tuple[int, int]
    """In pixels."""
    frames_per_s: int
    told: Turn | None = None
    film: Film | None = None
    """Once it is decoded."""
    call: SteppedCall[list[Image.Image]] = field(init=False)

    @property
    def steps_done(self) -> int:
        """See InFlight."""
        return self.sampler.position

    @property
    def steps(self) -> int:
        """See InFlight. Decoding is among them."""
        return self.sampler.total

    def close(self) -> None:
        """End the row's thread, wherever it is."""
        self.call.close()


class FilmModel:
    """One loaded pipeline for films; for use from the device thread only."""

    def __init__(self, model_id: str, family: FilmFamily, parts: WholeComponents) -> None:
        self._id = model_id
        self._family = family
        self._parts = parts
        self._numbers = itertools.count()

    @property
    def size_bytes(self) -> int:
        """What the weights take."""
        return self._parts.bytes

    def packed(self) -> Packed[FilmModel]:
        """See CanReturn: it keeps nothing but its networks."""
        return Packed(self._parts.networks, lambda: self)

    def additions(self, request: Txt2Img | Img2Img | Inpaint | ControlNet) -> None:
        """See Model: nothing can be added."""

    def prepare(
        self,
        request: Txt2Img | Img2Img | Inpaint | ControlNet,
        init_image: Image.Image | None,  # noqa: ARG002 - see Model
        mask_image: Image.Image | None = None,  # noqa: ARG002
        control_image: Image.Image | None = None,  # noqa: ARG002
        control_nets: Sequence[ControlNetwork] = (),  # noqa: ARG002
    ) -> list[FilmRow]:
        """Raises InvalidRequest: it draws no pictures."""
        raise InvalidRequest.of("model_id", f"The model {request.checkpoint!r} draws films, not pictures.")

    def prepare_film(self, request: Text2Video) -> FilmRow:
        """The film's row; nothing is computed yet. Raises InvalidRequest for what the family can't do."""
        if (refused := refusal(self._family, request)) is not None:
            raise InvalidRequest.of(*refused)
        pipe = assembled(self._parts, self._parts.pipeline_class)
        size = drawn_film_size(pipe, request)
        if (sampler := sampler_asked_for(pipe, self._family, request)) is not None:
            pipe.scheduler = sampler.scheduler
        turns = decoding_turns(self._family, request.frames)
        key = WholeKey(self._id, size[1] // _KEY_CELL_PX, size[0] // _KEY_CELL_PX, context_tokens=0, number=next(self._numbers))
        row = FilmRow(
            key=key,
            sampler=WholeCourse(type(pipe.scheduler).__name__ if sampler is None else sampler.name, request.steps + turns),
            forwards=self._parts.forwards_of_a_step * request.frames * (2 if request.guidance_scale > 1 else 1),
            size=(request.width, request.height),
            frames_per_s=request.frames_per_s,
        )
        row.call = SteppedCall(lambda pause: self._drawn(pipe, request, size, row, pause), name=f"sdapi-film-{key.number}")
        return row

    def _drawn(self, pipe: Any, request: Text2Video, size: tuple[int, int], row: FilmRow, pause: Pause) -> list[Image.Image]:
        """The whole call, on the row's own thread."""
        turns = decoding_turns(self._family, request.frames)
        done = 0

        def on_turn(*_: object) -> None:
            nonlocal done
            done += 1
            row.told = Turn(done, max(done, _tellings(pipe)) + turns)
            pause()

        def on_decoded() -> None:
            nonlocal done
            done += 1
            row.told = Turn(done, max(done, row.sampler.total))
            pause()

        if self._parts.device.type == "cuda" and self._parts.device.index is not None:
            torch.cuda.set_device(self._parts.device)  # every thread has a current device of its own
        result: Tensor = pipe(
            **words_and_guidance(request),
            width=size[0],
            height=size[1],
            num_frames=request.frames,
            num_inference_steps=request.steps,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            output_type="latent" if turns else "pt",
            **step_arguments(pipe, on_turn),
        ).frames
        return decoded(pipe, result, on_decoded) if turns else pictures(result[0])

    def predict(self, rows: Sequence[FilmRow]) -> list[Turn]:
        """Let each pipeline take its next step, or decode its next frames. Raises what the pipeline raised."""
        return [self._turned(row) for row in rows]

    def _turned(self, row: FilmRow) -> Turn:
        row.call.advance()
        if row.call.ended or row.told is None:
            return Turn(row.sampler.total, row.sampler.total)
        return row.told

    def advance(self, row: FilmRow, predicted: Turn) -> None:
        """Count the step."""
        row.sampler.position, row.sampler.total = predicted.position, predicted.total

    def decode(self, row: FilmRow) -> Image.Image:
        """Let the pipeline finish and keep the film with its row; one frame of its middle stands for it."""
        row.film = Film(tuple(fitted(frame, row.size) for frame in row.call.result()), row.frames_per_s)
        return row.film.frames[len(row.film.frames) // 2]

    def preview(self, row: FilmRow, predicted: Turn) -> Image.Image | None:  # noqa: ARG002 - see Model
        """See Model: it can't be told."""
        return None

    def clear_caches(self) -> int:
        """See Model: nothing is kept."""
        return 0


def open_film_model(
    entry: str, films: Catalog, checkpoints: Catalog, *, device: torch.device, dtype: torch.dtype, is_dtype_chosen: bool
) -> FilmModel:
    """What `film_entry` calls so, loaded. Blocks for seconds. Raises ModelBroken, torch.OutOfMemoryError."""
    model_id, adapter_id = film_ids(entry) or (entry, None)
    try:
        if adapter_id is not None:
            adapted = load_adapted(checkpoints.get(model_id), films.get(adapter_id), device=device, dtype=dtype)
            return FilmModel(entry, "animatediff", adapted)
        model = films.get(model_id)
    except ModelNotFound as error:
        raise ModelBroken(error.model_id, f"There is no model named {error.model_id!r} any more.") from error
    if model.family not in FILM_FAMILIES:
        raise ModelBroken(model_id, f"The model {model_id!r} draws no films.")
    return FilmModel(entry, model.family, load_film_model(model, device=device, dtype=dtype, is_dtype_chosen=is_dtype_chosen))


def _tellings(pipe: Any) -> int:
    """How many steps the pipeline tells of; those told by `callback` count a solver's inner steps as one."""
    timesteps = len(pipe.scheduler.timesteps)
    if hasattr(pipe, "_num_timesteps"):
        return max(timesteps, int(pipe._num_timesteps))  # noqa: SLF001 - diffusers tells it nowhere else
    order = int(getattr(pipe.scheduler, "order", 1))
    return -(-timesteps // order)
