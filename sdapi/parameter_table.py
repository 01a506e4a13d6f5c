"""The README's table of parameters: which calls of which dialect read each, and which families of models honour it.

Made from the dialects' bodies and from `domain/families.py`, so that it says what the code does. `python -m sdapi.parameter_table`
prints it; with a file's name it is put between that file's markers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import AliasChoices

from sdapi.dialects.base import Dialect, Endpoint, Kind
from sdapi.dialects.hosted_fields import DrawingBody, UpscaleBody, VideoBody
from sdapi.domain.families import ALL_FAMILIES, FILM_FAMILIES, GOES_WITH, PARAMETERS
from sdapi.domain.generation import Txt2Img, Upscale
from sdapi.engine.availability import missing
from sdapi.services import DIALECTS

BEGIN = "<!-- parameters:begin -->"
END = "<!-- parameters:end -->"

_TITLES = {"goapi": "GoAPI", "v3": "v3, v4, v5"}
_LETTERS: Mapping[Kind, str] = {"txt2img": "t", "img2img": "i", "inpaint": "p", "controlnet": "c", "text2video": "v", "upscale": "u"}
_KINDS: Mapping[str, Kind] = {"text2img": "txt2img", "dreambooth": "txt2img", "super_resolution": "upscale"}
"""Of calls that are called otherwise than what they make, by the last part of their names."""
_NEVER = "·"
_WITHOUT_EFFECT = frozenset({"loadbalancer"})
_NOT_ABOUT_DRAWING = frozenset({"webhook", "track_id", "base64", "output_format", "output_quality", "temp", "instant_response"})
_SWITCHES: Mapping[str, Mapping[str, object]] = {
    **{name: {name: True} for name in ("multi_lingual", "panorama", "self_attention", "highres_fix")},
    "tomesd": {"token_merging": True},
    "upscale": {"upscale": 2},
}
"""What turns each on; not everything that can be asked for can be drawn."""
_READ_BEFORE = frozenset({"key"})
"""Looked for in every body, whatever its dialect reads."""
_OTHERWISE = {"yes": "", "own": "; the others keep their own", "no effect": "; no effect in the others", "refused": ""}
_INTRODUCTION = (
    "t: text2img, i: img2img, p: inpaint, c: controlnet, v: text2video, u: upscale; · is not read. Families: those that honour it; "
    "the others refuse a request with it by name, unless it says something else."
)


def table() -> str:
    """In Markdown, without the markers."""
    rows = [_row(field) for field in _fields()]
    titles = ("parameter", *(_TITLES.get(dialect.NAME, dialect.NAME) for dialect in DIALECTS), "families")
    lines = [_line(titles), "|" + "---|" * len(titles), *(_line(row) for row in rows)]
    notes = [f"`{parameter.field}`: {parameter.note}" for parameter in PARAMETERS if parameter.note]
    return "\n".join([_INTRODUCTION, "", *lines, "", " ".join(notes)])


def placed(document: str) -> str:
    """The document with the table between its markers. Raises ValueError where it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"There are no lines {BEGIN} and {END} in it.")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _fields() -> list[str]:
    """Every field of every body: what the drawing is asked first, what the job is told last."""
    known = list(DrawingBody.model_fields)
    for _, endpoint in _endpoints():
        known += [field for field in endpoint.body.model_fields if field not in known]
    return sorted((field for field in known if field not in _READ_BEFORE), key=lambda field: field in _NOT_ABOUT_DRAWING)


def _endpoints() -> Iterable[tuple[Dialect, Endpoint]]:
    return ((dialect, endpoint) for dialect in DIALECTS for endpoint in dialect.ENDPOINTS if not endpoint.is_alias)


def _row(field: str) -> tuple[str, ...]:
    spellings = {dialect.NAME: _spellings(field, dialect) for dialect in DIALECTS}
    every = list(dict.fromkeys(name for names in spellings.values() for name in names))
    cells = [
        _cell(field, dialect, few=spellings[dialect.NAME] if len(spellings[dialect.NAME]) < len(every) else []) for dialect in DIALECTS
    ]
    return _code(every), *cells, _families(field)


def _cell(field: str, dialect: Dialect, *, few: Sequence[str]) -> str:
    """The letters of the dialect's calls that read the field; `few` are its spellings where others know more."""
    readers = {
        _kind(endpoint)
        for one, endpoint in _endpoints()
        if one is dialect and field in endpoint.body.model_fields.keys() - endpoint.body.ignored
    }
    letters = "".join(letter for kind, letter in _LETTERS.items() if kind in readers)
    if not letters:
        return _NEVER
    return f"{letters}, as {_code(few)}" if few else letters


def _kind(endpoint: Endpoint) -> Kind:
    name = endpoint.name.rpartition("/")[2]
    (kind,) = (kind for kind in _LETTERS if kind == _KINDS.get(name, name))
    return kind


def _spellings(field: str, dialect: Dialect) -> list[str]:
    names: dict[str, None] = {}
    for one, endpoint in _endpoints():
        if one is dialect and (info := endpoint.body.model_fields.get(field)) is not None:
            alias = info.validation_alias
            names |= dict.fromkeys(map(str, alias.choices) if isinstance(alias, AliasChoices) else (field,))
    return list(names)


def _families(field: str) -> str:
    """Raises LookupError for a field of which nobody has said what families make of it."""
    if field in _NOT_ABOUT_DRAWING:
        return "all"
    if field in _WITHOUT_EFFECT:
        return "no effect"
    if field in VideoBody.model_fields and field not in DrawingBody.model_fields:
        return " ".join(FILM_FAMILIES)
    if _is_lacking(field):
        return "none yet"
    if field not in DrawingBody.model_fields and field in UpscaleBody.model_fields:
        return "all upscalers"
    known = {parameter.field: parameter for parameter in PARAMETERS}
    parameter = known[GOES_WITH.get(field, field)]
    if len(parameter.families) == len(ALL_FAMILIES):
        return "all"
    return " ".join(parameter.families) + _OTHERWISE[parameter.otherwise]


def _is_lacking(field: str) -> bool:
    """Whether no request with the field can be drawn here."""
    asked: dict[str, object] = {"checkpoint": "any", "prompt": "", "seed": 0}
    if field in UpscaleBody.model_fields and field not in DrawingBody.model_fields:
        return missing(Upscale(init_image="", width=8, height=8, upscaler="any", face_enhance=field == "face_enhance")) is not None
    if field in _SWITCHES:
        return missing(Txt2Img.model_validate({**asked, **_SWITCHES[field]})) is not None
    return False


def _code(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> None:
    """Print the table, or put it into the document."""
    if not arguments:
        sys.stdout.write(f"{table()}\n")
        return
    document = Path(arguments[0])
    document.write_text(placed(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
