"""Which model an operator means, and what one that comes from elsewhere will be called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdapi.console import fail

if TYPE_CHECKING:
    from sdapi.catalog.inventory import InstalledModel, Inventory, InventoryKind, ModelKind

BROKEN = 1
"""Exit code where a model is damaged, or could not be had."""


def known_kind(name: str | None) -> InventoryKind | None:
    """The kind of that name; the command ends where there is none."""
    from sdapi.catalog.inventory import INVENTORY_KINDS

    if name is not None and name not in INVENTORY_KINDS:
        fail(f"There is no kind {name!r}; the kinds are {', '.join(INVENTORY_KINDS)}.")
    return name


def installable_kind(name: str | None) -> ModelKind | None:
    """The kind of that name; the command ends where there is none that can be added or fetched."""
    kind = known_kind(name)
    if kind == "annotator" or kind == "translator":
        fail(f"{kind.capitalize()}s are put into their folders by hand: {kind}s/NAME in the models folder.")
    if kind == "safety":
        fail("Safety checkers are put into their folders by hand: safety/ID in the models folder.")
    if kind == "video":
        fail("Models for films are put into their folders by hand: video/ID in the models folder.")
    if kind == "face":
        fail("The network for faces is put into its folder by hand: faces/gfpgan in the models folder.")
    return kind


def the_one(inventory: Inventory, model_id: str, kind: InventoryKind | None) -> InstalledModel:
    """The model of that id or alias; the command ends where there is none, several, or one that can't be used."""
    found = inventory.named(model_id, kind)
    if len(found) > 1:
        fail(f"There are several models {model_id!r}; say which with --kind: {', '.join(model.kind for model in found)}.")
    if not found:
        for _, problem in inventory.problems(kind):
            if id_of_path(problem.path) == model_id:
                fail(f"{problem.path}: {problem.sentence}", code=BROKEN)
        ids = ", ".join(model.id for model in inventory.models(kind)) or "none at all"
        fail(f"There is no {kind or 'model'} {model_id!r}; there are {ids}.")
    return found[0]


def is_remote(source: str) -> bool:
    """Whether it is a URL or `org/name` of the hub, rather than a path that leads nowhere."""
    from sdapi.catalog.weights import PICKLED_SUFFIXES

    if "://" in source:
        return True
    parts = source.split("/")
    is_path = source.startswith((".", "/", "~")) or "\\" in source or Path(parts[0]).is_dir()
    # A file of the hub has two names before its own.
    return not is_path and (len(parts) > 2 or (len(parts) == 2 and Path(source).suffix not in (".safetensors", *PICKLED_SUFFIXES)))


def id_of_path(path: Path) -> str:
    """The name of a folder, or of a file without its suffix."""
    path = path if path.name else path.resolve()
    return path.name if path.is_dir() or not path.suffix else path.stem


def id_of_source(source: str) -> str:
    """`name` of `org/name@revision`, `file` of `.../file.safetensors?download=true`."""
    path = source.split("?")[0].split("#")[0].rstrip("/")
    page = path.partition("/tree/")[0]
    return page.rsplit("/", 1)[-1].partition("@")[0].removesuffix(".safetensors")
