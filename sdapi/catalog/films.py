"""The models that draw films: diffusers folders below `video/`, by id and alias."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from .checkpoint import Layout
from .film_inspection import inspect_film_model
from .inspection import Inspected
from .listing import Catalog
from .weights import Refused

FILMS_FOLDER: Final = "video"
"""Where in the models folder they live."""


def open_films(models_dir: Path, *, clock: Callable[[], float] = time.monotonic) -> Catalog:
    """A catalog of its own: one id may belong to a checkpoint and to a model for films, and no alias leads from one to the other."""
    return Catalog(models_dir, aliases={}, embedded=None, clock=clock, folder=FILMS_FOLDER, look=_inspect, what="model for films")


def _inspect(path: Path, layout: Layout) -> Inspected:
    if layout == "single_file":
        raise Refused("It is a single file; films are drawn with diffusers folders.")
    found = inspect_film_model(path)
    return Inspected(found.family, 0, found.weights, found.longest_frames, found.is_motion_adapter)
