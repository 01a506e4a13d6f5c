"""The odd spellings real clients send, as annotated types: numbers in strings, yes/no in words, null in many forms, comma lists.

Each type takes every spelling seen on the wire and refuses with the end of a sentence ("must be a whole number"), to which
`base.rejecting` puts the field's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sdapi.domain.generation import MAX_SEED, MAX_STEPS, MIN_SIDE_PX, AlgorithmType, SchedulerName
from sdapi.domain.picture_formats import DEFAULT_FORMAT, DEFAULT_QUALITY, FORMATS, PictureFormat
from sdapi.domain.safety import SAFETY_TYPES, SafetyType
from sdapi.domain.sampler_names import NamedSampler, sampler_named
from sdapi.domain.sent_file import SentFile

from .stray_files import refuse_stray_files

MAX_TEXT_CHARS = 20_000
"""Longest prompt or id: far above what anybody writes, far below what would keep the text encoder busy for minutes."""
MAX_LORA_STRENGTH = 2.0
MAX_CONDITIONING_SCALE = 20.0

REFUSED = "wire_refused"
"""The pydantic error type of every refusal made here."""

_LONGER_THAN_WORDS = 100
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}(?:\.0*)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?")
_MAX_SCALAR = 2**63
_ALGORITHMS: Mapping[str, AlgorithmType] = {
    "dpmsolver": "dpmsolver",
    "dpmsolver++": "dpmsolver++",
    "dpmsolver+++": "dpmsolver++",  # the documented spelling
    "sde-dpmsolver": "sde-dpmsolver",
    "sde-dpmsolver++": "sde-dpmsolver++",
    "sde-dpmsolver+++": "sde-dpmsolver++",
}
_YES = frozenset({"yes", "true", "1", "y", "on"})
_NO = frozenset({"no", "false", "0", "n", "off"})


def _whole_number(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.fullmatch(text := value.strip()):
        return int(text.split(".")[0])
    raise PydanticCustomError(REFUSED, "must be a whole number")


def _number(value: object) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf  # float() of a longer int raises OverflowError
    elif isinstance(value, str) and _DECIMAL.fullmatch(text := value.strip()):
        number = float(text)
    if not math.isfinite(number):
        raise PydanticCustomError(REFUSED, "must be a number")
    return number


def _yes_no(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise PydanticCustomError(REFUSED, "must be yes or no")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError(REFUSED, "must be a string")
    # PostgreSQL stores no NUL, and half of a cut surrogate pair can't be encoded at all. Base64 is megabytes long, so no loop here.
    if "\x00" in value or not (value.isascii() or _HALF_A_PAIR.search(value) is None):
        raise PydanticCustomError(REFUSED, "contains characters that are not text")
    return value


def _sent_picture(value: object) -> str | SentFile:
    return value if isinstance(value, SentFile) else _text(value).strip()


def _short(value: str) -> str:
    if len(value) > MAX_TEXT_CHARS:
        raise PydanticCustomError(REFUSED, "must not be longer than {limit} characters", {"limit": MAX_TEXT_CHARS})
    return value


def _parts(value: object) -> list[object]:
    """The items of a JSON list, of a comma list, or of a lone value; empty items are left out."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _text_list(value: object) -> tuple[str, ...]:
    return tuple(_short(_text(part).strip()) for part in _parts(value))


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise PydanticCustomError(REFUSED, "must name at least one")
    return value


def _number_list(value: object) -> tuple[float, ...]:
    return tuple(_number(part) for part in _parts(value))


def _scheduler(value: object) -> NamedSampler:
    named = sampler_named(value) if isinstance(value, str) else None
    if named is None:
        names = {"names": ", ".join(SchedulerName)}
        raise PydanticCustomError(REFUSED, "must be one of {names}, or a name of A1111's such as DPM++ 2M Karras", names)
    return named


def _known_sampler(value: object) -> NamedSampler | None:
    return sampler_named(value) if isinstance(value, str) else None


def _algorithm(value: object) -> AlgorithmType:
    algorithm = _ALGORITHMS.get(value.strip().lower()) if isinstance(value, str) else None
    if algorithm is None:
        raise PydanticCustomError(REFUSED, "must be one of none, dpmsolver, dpmsolver++, sde-dpmsolver, sde-dpmsolver++")
    return algorithm


def _safety_type(value: object) -> SafetyType:
    word = value.strip().lower() if isinstance(value, str) else ""
    for known in SAFETY_TYPES:
        if word == known:
            return known
    raise PydanticCustomError(REFUSED, "must be one of {names}", {"names": ", ".join(SAFETY_TYPES)})


def _picture_format(value: object) -> PictureFormat:
    known = FORMATS.get(value.strip().lower()) if isinstance(value, str) else None
    if known is None:
        raise PydanticCustomError(REFUSED, "must be one of {names}", {"names": ", ".join(FORMATS)})
    return known


def _times(value: object) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and (text := str(value).strip()) in ("1", "2", "3"):
        return text
    try:
        return "yes" if _yes_no(value) else "no"
    except PydanticCustomError:
        raise PydanticCustomError(REFUSED, "must be yes, no, 1, 2 or 3") from None


def _scalar(value: object) -> object:
    if isinstance(value, str):
        return _short(_text(value))
    # Larger numbers, and the infinity that JSON's 1e999 is read as, can't be told again in every database and every client.
    if isinstance(value, bool | int | float) and abs(value) < _MAX_SCALAR:
        return value
    raise PydanticCustomError(REFUSED, "must be a string or a number")


def _check_range(value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise PydanticCustomError(REFUSED, "must be between {low} and {high}", {"low": f"{low:g}", "high": f"{high:g}"})


def between(low: float, high: float) -> AfterValidator:
    """Refuse a number outside low..high, both allowed, naming them."""

    def check(value: float) -> float:
        _check_range(value, low, high)
        return value

    return AfterValidator(check)


def each_between(low: float, high: float) -> AfterValidator:
    """Refuse a list with a number outside low..high, both allowed, naming them."""

    def check(values: tuple[float, ...]) -> tuple[float, ...]:
        for value in values:
            _check_range(value, low, high)
        return values

    return AfterValidator(check)


def _side_px(value: int, info: ValidationInfo) -> int:
    _check_range(value, MIN_SIDE_PX, info.context["max_side_px"] if info.context else math.inf)
    return value // 8 * 8


def _seed(value: int) -> int | None:
    if value == -1:
        return None
    if not 0 <= value <= MAX_SEED:
        raise PydanticCustomError(REFUSED, "must be between 0 and {high}, or -1 for a random one", {"high": str(MAX_SEED)})
    return value


def _steps(value: int) -> int:
    if value < 1:
        raise PydanticCustomError(REFUSED, "must be at least 1")
    return min(value, MAX_STEPS)  # the hosted services never refused more: `meta.steps` tells what was used


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
Number = Annotated[float, BeforeValidator(_number)]
YesNo = Annotated[bool, BeforeValidator(_yes_no)]
LongText = Annotated[str, BeforeValidator(_text)]
"""Text of any length."""
Text = Annotated[LongText, AfterValidator(_short)]
SentPicture = Annotated[str | InstanceOf[SentFile], BeforeValidator(_sent_picture), WithJsonSchema({"type": "string"})]
"""Where a picture is, or the picture itself: a link, a data: URL, base64, or a file of a multipart form."""
TextList = Annotated[tuple[str, ...], BeforeValidator(_text_list)]
Names = Annotated[TextList, AfterValidator(_some)]
"""A list that names at least one thing."""
NumberList = Annotated[tuple[float, ...], BeforeValidator(_number_list)]

SidePx = Annotated[WholeNumber, AfterValidator(_side_px)]
"""64 to the validation context's `max_side_px`, rounded down to a multiple of 8."""
Seed = Annotated[int | None, AfterValidator(_seed), BeforeValidator(_whole_number)]
"""None stands for a random one, which clients spell -1."""
Steps = Annotated[WholeNumber, AfterValidator(_steps)]
Strengths = Annotated[NumberList, each_between(0, MAX_LORA_STRENGTH)]
Scales = Annotated[NumberList, each_between(0, MAX_CONDITIONING_SCALE)]
"""How strongly control nets lead: one for all, or one each."""
Scheduler = Annotated[NamedSampler, BeforeValidator(_scheduler), WithJsonSchema({"type": "string"})]
"""A class of diffusers, or a name of A1111's, which may say more than that."""
LooseScheduler = Annotated[NamedSampler | None, BeforeValidator(_known_sampler), WithJsonSchema({"type": "string"})]
"""The same; None for what is no sampler's name."""
Algorithm = Annotated[AlgorithmType, BeforeValidator(_algorithm)]
FormatOfPicture = Annotated[PictureFormat, BeforeValidator(_picture_format)]
CoveringType = Annotated[SafetyType, BeforeValidator(_safety_type)]
Times = Annotated[Literal["no", "yes", "1", "2", "3"], BeforeValidator(_times)]
"""What pictures are enlarged by at the end: yes means twice, and the number 1 leaves them as they are."""
Scalar = Annotated[Any, BeforeValidator(_scalar)]
"""Text, a number or a boolean, kept in the type it came in."""


class WireBody(BaseModel):
    """A request body as clients send it: unknown keys are ignored, and null, "", blanks and "null" mean that a field isn't given."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    null_is_a_word_in: ClassVar[frozenset[str]] = frozenset({"prompt"})
    """Fields in which the string "null" is taken as written."""
    absent_words: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Further spellings of "not given", in lower case, by field."""
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Fields of a parent's that mean nothing here, and are never looked at."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_is_not_given(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        refuse_stray_files(body, cls.model_fields)
        return {name: value for name, value in body.items() if not cls._is_absent(name, value)}

    @classmethod
    def _is_absent(cls, name: object, value: object) -> bool:
        if name in cls.ignored:
            return True
        if isinstance(value, str):
            word = value.strip()[:_LONGER_THAN_WORDS].lower()  # not a copy of a picture's megabytes
            return not word or (word == "null" and name not in cls.null_is_a_word_in) or word in cls.absent_words.get(str(name), ())
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value is None or (is_number and value == 0 and "0" in cls.absent_words.get(str(name), ()))


class PictureBody(WireBody):
    """A body of what makes pictures: ours in every dialect."""

    output_format: FormatOfPicture = Field(default=DEFAULT_FORMAT, description="png, jpeg (or jpg) or webp; the file's name ends in it")
    output_quality: Annotated[WholeNumber, between(1, 100)] = Field(default=DEFAULT_QUALITY, description="1 to 100, of jpeg and webp")
