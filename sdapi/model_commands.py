"""`sdapi models`: what lies in the models folder, told, fetched, added, checked, converted and removed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from sdapi.console import ProgressLine, fail, settings_or_exit, size_words
from sdapi.model_names import BROKEN, id_of_path, id_of_source, installable_kind, is_remote, known_kind, the_one

if TYPE_CHECKING:
    from sdapi.catalog.inventory import InstalledModel, Inventory, InventoryKind
    from sdapi.settings import Settings

app = typer.Typer(invoke_without_command=True)

Kind = Annotated[
    str | None,
    typer.Option("--kind", help="checkpoint, lora, embedding, controlnet, vae, upscaler, annotator, safety, translator, video or face."),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Id = Annotated[str, typer.Argument(help="The model's id, as `models list` shows it.")]
NewId = Annotated[str | None, typer.Option("--id", help="What it will be called; left out: its own name.")]
Sha256 = Annotated[str, typer.Option("--sha256", help="The hash it must have, 64 hexadecimal digits.")]
Replace = Annotated[bool, typer.Option("--replace", help="Put it in the place of the model of that id, once it is whole.")]
Revision = Annotated[str, typer.Option("--revision", help="Of a hub repository: a branch, tag or commit, or fp16 for its smaller files.")]


@app.callback()
def models(context: typer.Context) -> None:
    """The models folder: list, add, fetch, check, convert and remove models. Without a command, it is listed."""
    if context.invoked_subcommand is None:
        models_list()


@app.command("list")
def models_list(kind: Kind = None, as_json: AsJson = False) -> None:
    """List the models that can be used, and what is wrong with the rest of the folder."""
    inventory = _inventory(settings_or_exit())
    chosen = known_kind(kind)
    models, problems = inventory.models(chosen), inventory.problems(chosen)
    if as_json:
        told = [{"kind": kind, "path": str(problem.path), "problem": problem.sentence} for kind, problem in problems]
        _echo_json({"models": [_summary(model) for model in models], "problems": told})
        return
    rows = [(model.id, model.kind, model.family or "-", size_words(model.size_bytes), model.sidecar.title) for model in models]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    for row in rows:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for _, problem in problems:
        typer.echo(f"problem: {problem.path.parent.name}/{problem.path.name}: {problem.sentence}", err=True)


@app.command("show")
def models_show(model_id: Id, kind: Kind = None, as_json: AsJson = False) -> None:
    """Show what is known of a model. Its hash is computed, which reads all of it."""
    from sdapi.catalog import Refused
    from sdapi.catalog.extents import count_dtypes
    from sdapi.catalog.hashes import model_sha256

    model = the_one(_inventory(settings_or_exit()), model_id, known_kind(kind))
    try:
        dtypes = count_dtypes(model.weights)
        sha256 = _with_progress(model, lambda on_bytes: model_sha256(model.path, model.layout, on_bytes))
    except (Refused, OSError) as failure:
        fail(f"{model.path}: {failure}", code=BROKEN)
    facts: dict[str, Any] = {
        **_summary(model),
        "path": str(model.path),
        "layout": model.layout,
        "sha256": sha256,
        "licence": model.licence,
        "source": model.sidecar.source,
        "aliases": list(model.sidecar.aliases),
        "trigger": model.sidecar.trigger,
        "prediction_type": model.sidecar.prediction_type or "",
        "tensors": dict(sorted(dtypes.items())),
        "modified": model.modified_at.isoformat(),
        "embedded": model.is_embedded,
    }
    if as_json:
        _echo_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in ("", [], False):
            typer.echo(f"{name:<{width}}  {_words(name, value)}")


@app.command("add")
def models_add(
    source: Annotated[str, typer.Argument(help="A .safetensors file or a model's folder on this machine; or what `models pull` takes.")],
    kind: Kind = None,
    model_id: NewId = None,
    sha256: Sha256 = "",
    replace: Replace = False,
    link: Annotated[bool, typer.Option("--link", help="Make a symbolic link instead of a copy.")] = False,
) -> None:
    """Install a model that is on this machine, or fetch it. What kind it is, its tensors say."""
    if not Path(source).exists() and is_remote(source):
        if link:
            fail("Only what is on this machine can be linked to.")
        models_pull(source, kind=kind, model_id=model_id, sha256=sha256, replace=replace)
        return
    from sdapi.domain.errors import InvalidRequest
    from sdapi.model_downloads import DownloadFailed, LocalModel, add_model

    path = Path(source)
    model = LocalModel(path, model_id or id_of_path(path), installable_kind(kind), sha256, replace, link)
    line = ProgressLine(f"adding {model.model_id}")
    try:
        added = add_model(settings_or_exit().models_dir, model, on_bytes=line.show)
    except InvalidRequest as refusal:
        fail(_sentence(refusal))
    except DownloadFailed as failure:
        fail(str(failure), code=BROKEN)
    finally:
        line.end()
    typer.echo(f"{added.kind} {model.model_id} is at {added.place}, sha256 {added.sha256}")


@app.command("pull")
def models_pull(
    source: Annotated[
        str, typer.Argument(help="An https URL of a .safetensors file, or org/name of the hub, also with @revision or /file.")
    ],
    kind: Kind = None,
    model_id: NewId = None,
    sha256: Sha256 = "",
    replace: Replace = False,
    revision: Revision = "",
) -> None:
    """Fetch a model from the hosts of SDAPI_MODEL_HOSTS. Asked again after an interruption, it goes on where it broke off."""
    from sdapi.domain.errors import InvalidRequest
    from sdapi.model_downloads import DownloadFailed
    from sdapi.pulling import Wanted, pull

    settings = settings_or_exit()
    wanted = Wanted(model_id or id_of_source(source), source, installable_kind(kind), revision, sha256, replace)
    line = ProgressLine(f"fetching {wanted.model_id}")
    try:
        ended = pull(settings, wanted, line.show)
    except InvalidRequest as refusal:
        fail(_sentence(refusal))
    except DownloadFailed as failure:
        fail(str(failure), code=BROKEN)
    finally:
        line.end()
    if ended.status != "installed":
        fail(ended.error or "It was not fetched.", code=BROKEN)
    typer.echo(f"{ended.kind} {ended.model_id} is in {settings.models_dir}, {size_words(ended.bytes_done)}, sha256 {ended.sha256}")


@app.command("remove")
def models_remove(
    model_id: Id, kind: Kind = None, yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether that is meant.")] = False
) -> None:
    """Remove a model and its sidecar. Of a link, only the link goes."""
    from sdapi.domain.errors import SdapiError
    from sdapi.pulling import remove

    settings = settings_or_exit()
    inventory = _inventory(settings)
    chosen = known_kind(kind)
    usable = [model for model in inventory.named(model_id, chosen) if model.id == model_id]
    unusable = [found for found, problem in inventory.problems(chosen) if found and id_of_path(problem.path) == model_id]
    kinds = sorted({*(model.kind for model in usable), *unusable})
    if any(model.is_embedded for model in usable):
        fail(f"{model_id!r} is embedded in sdapi and can't be removed.")
    if len(kinds) > 1:
        fail(f"There are several models {model_id!r}; say which with --kind: {', '.join(kinds)}.")
    if not kinds:
        the_one(inventory, model_id, chosen)
        fail(f"{model_id!r} is an alias; remove the model by its id.")
    if not yes and not typer.confirm(f"Remove the {kinds[0]} {model_id}?"):
        fail("Nothing was removed.", code=BROKEN)
    try:
        remove(settings, model_id, cast("InventoryKind", kinds[0]))
    except SdapiError as refusal:
        fail(_sentence(refusal))
    typer.echo(f"{kinds[0]} {model_id} is removed")


@app.command("verify")
def models_verify(
    model_id: Annotated[str | None, typer.Argument(help="The model's id; left out: every model.")] = None, kind: Kind = None
) -> None:
    """Read models again, byte by byte: headers, where each tensor lies, and the recorded hash. Exit code 1 where one is damaged."""
    from sdapi.catalog.inventory import damage

    inventory = _inventory(settings_or_exit())
    chosen = known_kind(kind)
    unusable = [problem for _, problem in inventory.problems(chosen) if model_id is None or id_of_path(problem.path) == model_id]
    models = inventory.models(chosen) if model_id is None else inventory.named(model_id, chosen)
    if model_id is not None and not models and not unusable:
        the_one(inventory, model_id, chosen)
    is_damaged = bool(unusable)
    for model in models:
        problems = _with_progress(model, lambda on_bytes, model=model: damage(model, on_bytes))  # type: ignore[misc]
        is_damaged = is_damaged or bool(problems)
        hashed = "hash as recorded" if model.sidecar.sha256 else "no hash recorded"
        typer.echo(f"{'FAIL' if problems else 'ok  '} {model.kind} {model.id}: {' '.join(problems) or hashed}")
    for problem in unusable:
        typer.echo(f"FAIL {problem.path.parent.name}/{problem.path.name}: {problem.sentence}")
    raise typer.Exit(BROKEN if is_damaged else 0)


@app.command("convert")
def models_convert(
    source: Annotated[Path, typer.Argument(help="A .ckpt, .pt, .pth or .bin file.")],
    target: Annotated[Path | None, typer.Argument(help="The .safetensors file to write; left out: beside it.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a target that is there.")] = False,
) -> None:
    """Write the tensors of a pickle into a safetensors file. Nothing in the pickle is run; in a process of its own, with limits."""
    from sdapi.catalog import Refused
    from sdapi.catalog.extents import count_dtypes
    from sdapi.model_downloads.conversion import ConversionFailed, convert

    target = target or source.with_suffix(".safetensors")
    if target.suffix.lower() != ".safetensors":
        fail(f"The target {target.name} must end in .safetensors.")
    if target.exists() and not replace:
        fail(f"{target} is there already; --replace writes over it.")
    try:
        convert(source, target)
        tensors = sum(count_dtypes([target]).values())
    except (ConversionFailed, Refused, OSError) as failure:
        fail(str(failure), code=BROKEN)
    typer.echo(f"{target} holds {tensors} tensors, {size_words(target.stat().st_size)}; `sdapi models add {target}` installs it")


def _inventory(settings: Settings) -> Inventory:
    from sdapi.services import open_inventory

    return open_inventory(settings)


def _with_progress(model: InstalledModel, work: Callable[[Callable[[int], None]], Any]) -> Any:
    from sdapi.catalog.hashes import files_of

    line = ProgressLine(f"reading {model.id}")
    total_bytes = sum(file.stat().st_size for file in (files_of(model.path) if model.path.is_dir() else (model.path,)))
    done_bytes = 0

    def count(read_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += read_bytes
        line.show(done_bytes, total_bytes)

    try:
        return work(count)
    finally:
        line.end()


def _summary(model: InstalledModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "kind": model.kind,
        "family": model.family,
        "size_bytes": model.size_bytes,
        "title": model.sidecar.title,
    }


def _words(name: str, value: Any) -> str:
    match name, value:
        case "size_bytes", int():
            return f"{value} ({size_words(value)})"
        case "tensors", dict():
            return ", ".join(f"{count} {dtype}" for dtype, count in value.items())
        case "modified", str():
            return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S} UTC"
        case _, list():
            return ", ".join(map(str, value))
    return str(value)


def _echo_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf")))


def _sentence(refusal: Exception) -> str:
    from sdapi.domain.errors import InvalidRequest

    if not isinstance(refusal, InvalidRequest):
        return str(refusal)
    told = " ".join(sentence for sentences in refusal.problems.values() for sentence in sentences)
    return f"{told} --replace puts the new one in its place." if "is there already" in told else told
