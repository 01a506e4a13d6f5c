"""What of a hub repository is needed: its list of files, and the choice among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from sdapi.catalog.inventory import ModelKind
from sdapi.catalog.weights import PICKLED_SUFFIXES, choose_weights, how_to_convert

from .download import DownloadFailed
from .http_source import HttpSource
from .interrupt import Interrupt
from .sources import HubFile, HubRepository

_MAX_NAMED = 10
_MAX_LICENCE_CHARS = 200
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}")

# Everything a pipeline of a known family reads. Safety checkers, ONNX and Flax exports, training leftovers stay where they are.
_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_TOKENIZER_FILES = frozenset({"merges.txt", "vocab.txt", "spiece.model", "tokenizer.model", "chat_template.jinja"})
_USUAL_NAMES: Mapping[ModelKind, str] = {"lora": "pytorch_lora_weights.safetensors", "embedding": "learned_embeds.safetensors"}


class _Lfs(BaseModel):
    model_config = ConfigDict(frozen=True)

    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class _Sibling(BaseModel):
    model_config = ConfigDict(frozen=True)

    rfilename: str
    size: int | None = Field(default=None, ge=0)
    lfs: _Lfs | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)

    sha: str | None = None
    siblings: tuple[_Sibling, ...] = ()
    cardData: JsonValue = None  # noqa: N815 - the hub's spelling


@dataclass(frozen=True)
class ListedFile:
    """A file of a repository as the hub describes it."""

    size_bytes: int | None
    sha256: str | None
    """None for small files, which the hub keeps in git itself."""


@dataclass(frozen=True)
class HubListing:
    """A repository at one commit."""

    revision: str
    """The commit where the hub tells it, so that a push in the middle of a download can't mix two versions."""
    files: Mapping[str, ListedFile]
    licence: str = ""
    """As its model card names it."""


@dataclass(frozen=True)
class Choice:
    """What to fetch: paths in the repository, by the path each has in the installed folder. A single file has the path ""."""

    is_folder: bool
    files: Mapping[str, str]


async def list_repository(http: HttpSource, hub_url: str, source: HubRepository | HubFile, interrupt: Interrupt) -> HubListing:
    """Ask the hub what there is. Raises Transient, DownloadFailed and Interrupted."""
    revision = quote(source.revision, safe="")
    answer = await http.json(f"{hub_url.rstrip('/')}/api/models/{source.repository}/revision/{revision}?blobs=true", interrupt)
    try:
        read = _Answer.model_validate(answer)
    except ValidationError as malformed:
        raise DownloadFailed("The hub's list of files can't be read.") from malformed
    commit = read.sha if read.sha is not None and _COMMIT.fullmatch(read.sha) else source.revision
    files = {one.rfilename: ListedFile(one.size, one.lfs.sha256 if one.lfs else None) for one in read.siblings if is_plain(one.rfilename)}
    return HubListing(commit, files, _licence(read.cardData))


def _licence(card: JsonValue) -> str:
    """`license` of a card's front matter; where that is "other", its `license_name`. Empty where it is no plain word."""
    said = card if isinstance(card, dict) else {}
    licence, name = said.get("license"), said.get("license_name")
    chosen = name if licence == "other" and name else licence
    return chosen[:_MAX_LICENCE_CHARS] if isinstance(chosen, str) else ""


def is_plain(path: str) -> bool:
    """Whether it is safe as a path of ours; every ordinary one is."""
    return all(_NAME.fullmatch(part) and ".." not in part for part in path.split("/"))


def choose_files(listing: HubListing, kind: ModelKind, *, prefer_fp16: bool) -> Choice:
    """The files a model of that kind needs, in one precision, never a pickle or code. Raises DownloadFailed, saying what to do."""
    names = sorted(listing.files)
    if kind in ("checkpoint", "upscaler") and "model_index.json" in listing.files:
        return _pipeline(names, prefer_fp16=prefer_fp16)
    if kind in ("controlnet", "vae"):
        for folder in ("", "vae/") if kind == "vae" else ("",):
            inside = {name.removeprefix(folder) for name in names if name.startswith(folder)}
            _, weights = choose_weights(sorted(inside), prefer_fp16=prefer_fp16)
            if "config.json" in inside and weights:
                return Choice(is_folder=True, files={name: folder + name for name in ("config.json", *_with_index(weights, inside))})
    return Choice(is_folder=False, files={"": _only_file(names, kind)})


def only_weights(listing: HubListing) -> str:
    """The file that tells what a repository without model_index.json holds. Raises DownloadFailed where there is none, or several."""
    _, weights = choose_weights(sorted(listing.files), prefer_fp16=False)
    return weights[0] if weights else _only_file(sorted(listing.files), _kind_of_usual_name(listing))


def _kind_of_usual_name(listing: HubListing) -> ModelKind:
    return next((kind for kind, name in _USUAL_NAMES.items() if name in listing.files), "checkpoint")


def _pipeline(names: list[str], *, prefer_fp16: bool) -> Choice:
    chosen = ["model_index.json"]
    for folder in (*_NETWORKS, *_TOKENIZERS, "scheduler", "low_res_scheduler"):
        inside = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
        wanted = [name for name in inside if _is_config(name) or (folder in _TOKENIZERS and name in _TOKENIZER_FILES)]
        if folder in _NETWORKS and inside:
            _, weights = choose_weights(inside, prefer_fp16=prefer_fp16)
            if not weights:
                raise DownloadFailed(_no_weights(folder + "/", inside))
            wanted += _with_index(weights, inside)
        chosen += [f"{folder}/{name}" for name in dict.fromkeys(wanted)]
    return Choice(is_folder=True, files={name: name for name in chosen})


def _is_config(name: str) -> bool:
    return "/" not in name and name.endswith(".json") and ".index." not in name


def _with_index(weights: tuple[str, ...], inside: list[str] | set[str]) -> list[str]:
    """The weights, and where they are several files of one network, the tables of what is in which."""
    if len(weights) == 1:
        return list(weights)
    return [*weights, *sorted(name for name in inside if "/" not in name and ".safetensors.index" in name and name.endswith(".json"))]


def _only_file(names: list[str], kind: ModelKind) -> str:
    files = [name for name in names if "/" not in name and name.endswith(".safetensors")]
    usual = _USUAL_NAMES.get(kind)
    if usual is not None and usual in files:
        return usual
    if len(files) == 1:
        return files[0]
    if not files:
        raise DownloadFailed(_no_weights("The repository", names))
    more = f" and {len(files) - _MAX_NAMED} more" if len(files) > _MAX_NAMED else ""
    raise DownloadFailed(f"The repository holds several models; name one of them, as org/name/file: {', '.join(files[:_MAX_NAMED])}{more}.")


def _no_weights(where: str, names: list[str]) -> str:
    pickles = [name for name in names if PurePosixPath(name).suffix.lower() in PICKLED_SUFFIXES]
    return f"{where} holds only pickled weights: {how_to_convert('each')}" if pickles else f"{where} holds no .safetensors weights."
