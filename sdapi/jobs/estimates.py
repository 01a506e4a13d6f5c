"""What a job costs: its size in UNet forwards times megapixels, whatever kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from sdapi.domain.drawing_speeds import WorkSort
from sdapi.domain.generation import AnyRequest, ControlNet, Img2Img, Inpaint, SchedulerName, Text2Video, Txt2Img, Upscale
from sdapi.domain.highres import STRENGTH, first_size
from sdapi.domain.joined_prompts import joined
from sdapi.domain.models_in_memory import film_entry, upscaler_entry
from sdapi.domain.windows import window_starts

_UNIT_FORWARDS: Final = 4
"""Forwards at 512 x 512 that make one unit of cost."""
_DECODE_STEPS: Final = 1.6
"""Decoding costs about as much as so many guided steps (SD 1.5: 2.5 TFLOP against 1.6)."""
_CONTROL_SHARE: Final = 0.35
"""A control net is a copy of the UNet's encoder: about so much of a forward."""
_HIGHRES_FIRST_PX: Final = 512
"""The side of the first drawing of the high-resolution fix, as most models have it."""
_UPSCALE_COST: Final = 2.75
"""Of 512 x 512 input pixels through the usual upscaler (17 million weights at every pixel: 8.8 TFLOP)."""
_FACE_COST: Final = 1.0
_TEMPORAL_FACTOR: Final = 1.3
"""Layers across frames, on top of the layers within each."""
_WINDOW_PX: Final = 512
"""The side of a panorama's windows, as most models have it; that of others costs about the same in all."""

_CONTEXT_TOKENS: Final = (77, 154, 231)
"""Of prompts of one, two and three pieces; longer ones are rare."""

_TWO_FORWARDS_A_STEP: Final = frozenset({SchedulerName.HEUN, SchedulerName.KDPM2, SchedulerName.KDPM2_ANCESTRAL, SchedulerName.KARRAS_VE})


@dataclass(frozen=True)
class Shape:
    """The work of a job as the drawing loop meets it: rows that step, then something at the end of each."""

    model: str
    """Whose weights it needs, and whose speed it has."""
    key: str
    """Jobs of one key share forwards."""
    rows: int
    steps: int
    step_cost: float
    """Of one step of one row."""
    end_cost: float
    """Of decoding, enlarging and so on, of one row."""
    area: float
    """Of one row, in units of 512 x 512."""
    shares: bool = True
    """Whether it is drawn step by step with others, or as a whole while all others wait."""
    row_samples: int = 2
    """What each row adds to a joint forward."""
    forwards: float = 1.0
    """How many forwards a step takes, with what control nets add to them."""
    steps_as: tuple[WorkSort, ...] = ()
    """What its steps may have been measured as: it depends on how many tokens the prompts come to, which nobody has counted here."""
    ends_as: WorkSort | None = None
    """The same of decoding; None where something else comes last, too."""

    @property
    def cost(self) -> float:
        """All of it."""
        return self.rows * (self.steps * self.step_cost + self.end_cost)


def shape_of(request: AnyRequest) -> Shape:
    """What drawing the request will consist of."""
    match request:
        case Txt2Img():
            return _drawing(request, steps=request.steps)
        case Img2Img() | Inpaint():
            return _drawing(request, steps=_steps_from(request.steps, request.strength))
        case ControlNet():
            steps = request.steps if request.init_image is None else _steps_from(request.steps, request.strength)
            nets = len(request.controlnet_models)
            return _drawing(request, steps=steps, factor=1 + _CONTROL_SHARE * nets, with_nets=request.controlnet_models)
        case Text2Video():
            return _drawing(request, steps=request.steps, factor=_TEMPORAL_FACTOR, frames=request.frames)
        case Upscale():
            area = area_of(request.width, request.height)
            cost = _UPSCALE_COST * area + (_FACE_COST if request.face_enhance else 0)
            return Shape(upscaler_entry(request.upscaler), f"upscale {request.upscaler}", 1, 1, cost, 0.0, area, shares=False)
        case _:
            assert_never(request)


def cost_of(request: AnyRequest) -> float:
    """UNet forwards times megapixels of 512 x 512, plus decoding: proportional to the FLOPs for one model."""
    return shape_of(request).cost


def forward_cost(area: float, samples: int) -> float:
    """Of a UNet forward with so many samples."""
    return area * samples / _UNIT_FORWARDS


def decode_cost(area: float) -> float:
    """Of one picture."""
    return area * 2 * _DECODE_STEPS / _UNIT_FORWARDS


def _drawing(
    request: Txt2Img | Img2Img | Inpaint | ControlNet | Text2Video,
    *,
    steps: int,
    factor: float = 1.0,
    frames: int = 1,
    with_nets: Sequence[str] = (),
) -> Shape:
    area = area_of(request.width, request.height)
    prompts = len(joined(request.prompt))
    halves = prompts + (request.guidance_scale > 1 or prompts > 1) + request.self_attention
    if request.scheduler in _TWO_FORWARDS_A_STEP:
        factor *= 2
    drawn_area = _area_of_windows(request.width, request.height) if request.panorama else area
    if request.highres_fix:
        first, second = steps, _steps_from(steps, STRENGTH)
        first_area = area_of(*first_size(request.width, request.height, native_px=_HIGHRES_FIRST_PX))
        steps = first + second
        drawn_area = (first * first_area + second * area) / steps
    model = film_entry(request.checkpoint, request.motion_adapter) if isinstance(request, Text2Video) else request.checkpoint
    shares = not isinstance(request, Text2Video)
    # What windows and first sizes a model has isn't known here.
    is_measured = shares and not request.panorama and not request.highres_fix
    sort = WorkSort(model, request.width, request.height, None, merges_tokens=request.token_merging)
    apart = ("panorama" * request.panorama, "merging" * request.token_merging, "" if shares else f"{request.kind} alone")
    key = " ".join((model, f"{request.width}x{request.height}", *with_nets, *filter(None, apart)))
    return Shape(
        model=model,
        key=key,
        rows=request.samples,
        steps=steps,
        step_cost=frames * forward_cost(drawn_area, halves) * factor,
        end_cost=frames * (decode_cost(area) + _UPSCALE_COST * area * (request.upscale > 0)),
        area=frames * area,
        shares=shares,
        row_samples=halves,
        forwards=factor,
        steps_as=tuple(replace(sort, tokens=tokens) for tokens in _CONTEXT_TOKENS) if is_measured else (),
        ends_as=sort if is_measured and not request.upscale else None,
    )


def area_of(width: int, height: int) -> float:
    """In units of 512 x 512 pixels."""
    return width * height / (512 * 512)


def _steps_from(steps: int, strength: float) -> int:
    return max(1, int(steps * strength))


def _area_of_windows(width: int, height: int) -> float:
    """Of all windows a panorama is drawn in, together."""
    across, down = min(width, _WINDOW_PX), min(height, _WINDOW_PX)
    return len(window_starts(width, across, wraps=True)) * len(window_starts(height, down, wraps=False)) * area_of(across, down)
