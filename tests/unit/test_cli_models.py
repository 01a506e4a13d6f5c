"""`sdapi models`, as an operator types it: what is installed is whole, what is refused leaves nothing, and nothing is ever run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.catalog.checkpoint import read_sidecar
from sdapi.catalog.extents import extent_problems
from sdapi.catalog.inventory import Inventory
from sdapi.catalog.licences import licence_of_card
from sdapi.catalog.records import Origin, record_origin
from sdapi.cli import app
from sdapi.model_downloads import DownloadFailed, LocalModel, add_model
from tests.fixtures.translator import install

from .fake_model_source import COMMIT, ModelSource, model_source
from .test_assets import TENSORS
from .test_catalog import SD1, write_folder
from .test_model_downloads import LORA, NEEDED, VAE, migrated_file, staged, tensors

__all__ = ["migrated_file"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder, which does not exist yet; nothing comes from the developer's own settings."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SDAPI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SDAPI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SDAPI_MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
async def source(migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ModelSource]:
    """Where models can be fetched from, which is the hub as well; with a database that is migrated already."""
    (tmp_path / "data").mkdir()
    shutil.copy(migrated_file, tmp_path / "data" / "sdapi.sqlite3")
    async with model_source() as serving:
        monkeypatch.setenv("SDAPI_HUB_URL", f"{serving.base}/hub")
        monkeypatch.setenv("SDAPI_ALLOW_PRIVATE_URLS", "true")
        monkeypatch.setenv("SDAPI_HEARTBEAT_S", "0.1")
        monkeypatch.setenv("SDAPI_STALE_AFTER_S", "0.5")
        yield serving


def models(*arguments: object, **how: Any) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)], **how)


async def models_meanwhile(*arguments: object) -> Result:
    """Where the test itself serves what is fetched."""
    return await asyncio.to_thread(models, *arguments)


def done(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, words: str, *, code: int = 2) -> None:
    assert words in result.output
    assert result.exit_code == code
    assert result.exception is None or isinstance(result.exception, SystemExit)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file in the models folder, hidden and staged ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# -- what is there ------------------------------------------------------------------------------------------------------------------


def test_everything_in_the_folder_is_listed_with_its_kind_and_what_cannot_be_used_is_explained(folder: Path) -> None:
    put(folder / "checkpoints" / "dreamy.safetensors", tensors())
    put(folder / "checkpoints" / "dreamy.toml", b'title = "Dreamy 2"')
    put(folder / "loras" / "ink.safetensors", tensors(LORA))
    put(folder / "vaes" / "old.pt", pickle.dumps({}))

    listed = models("list")

    assert listed.exit_code == 0
    rows = [line.split(maxsplit=5) for line in listed.stdout.splitlines()]
    assert [row for row in rows if row[0] in ("dreamy", "ink")] == [
        ["dreamy", "checkpoint", "sd1", "15.1", "KiB", "Dreamy 2"],
        ["ink", "lora", "-", "1.2", "KiB"],
    ]
    assert "problem: vaes/old.pt: It is a pickle" in listed.stderr
    assert models("list").output == models().output
    assert "dreamy" not in done(models("list", "--kind", "lora"))


def test_the_list_can_be_read_by_programs(folder: Path) -> None:
    put(folder / "loras" / "ink.safetensors", tensors(LORA))
    put(folder / "loras" / "ink.toml", b'title = "Ink"')
    put(folder / "loras" / "wrong.safetensors", tensors(VAE))

    told = json.loads(done(models("list", "--kind", "lora", "--json")))

    size = len(tensors(LORA))
    assert {"id": "ink", "kind": "lora", "family": "", "size_bytes": size, "title": "Ink"} in told["models"]
    (problem,) = told["problems"]
    assert (problem["kind"], Path(problem["path"]).name) == ("lora", "wrong.safetensors")
    assert "It is a VAE, not a LoRA" in problem["problem"]


def test_what_ships_with_the_code_is_listed_as_embedded_and_its_namesake_in_the_folder_is_not(folder: Path, tmp_path: Path) -> None:
    for name in ("ink", "wash"):
        put(tmp_path / "embedded" / "loras" / f"{name}.safetensors", tensors(LORA))
    put(folder / "loras" / "ink.safetensors", tensors(LORA))
    catalog = Catalog(folder, aliases={}, embedded=embedded_model_dir())
    inventory = Inventory(catalog, Assets(folder, embedded=tmp_path / "embedded"), folder)
    assert [(model.id, model.is_embedded) for model in inventory.models()] == [("demo", True), ("ink", False), ("wash", True)]


def test_annotators_are_listed_checked_and_removed_but_not_added(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        put(folder / "annotators" / "depth" / name, b"{}")
    put(folder / "annotators" / "depth" / "model.safetensors", tensors(VAE))
    put(folder / "annotators" / "hed" / "a.safetensors", tensors(VAE))
    put(folder / "annotators" / "hats" / "a.safetensors", tensors(VAE))

    listed = models("list", "--kind", "annotator")

    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["depth", "hed"]
    assert "annotators/hats: No annotator is called so" in listed.stderr
    assert "ok   annotator depth" in done(models("verify", "depth"))
    done(models("remove", "depth", "--yes"))
    assert not (folder / "annotators" / "depth").exists()
    refused(models("add", put(tmp_path / "x.safetensors", tensors(VAE)), "--kind", "annotator"), "put into their folders by hand")


def test_translators_are_listed_checked_and_removed_but_not_added(folder: Path, tmp_path: Path) -> None:
    install(folder)
    put(folder / "translators" / "half" / "config.json", b'{"model_type": "mbart"}')

    listed = models("list", "--kind", "translator")

    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["tiny"]
    assert "translators/half: sentencepiece.bpe.model is missing" in listed.stderr
    assert "ok   translator tiny" in done(models("verify", "tiny"))
    done(models("remove", "tiny", "--yes"))
    assert not (folder / "translators" / "tiny").exists()
    refused(models("add", put(tmp_path / "x.safetensors", tensors(VAE)), "--kind", "translator"), "put into their folders by hand")


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    refused(models("list", "--kind", "hat"), "There is no kind 'hat'; the kinds are checkpoint, lora, embedding, controlnet, vae")


def test_a_model_is_shown_with_its_hash_licence_and_tensors_also_by_its_alias(folder: Path) -> None:
    put(folder / "checkpoints" / "dreamy.safetensors", tensors())
    put(
        folder / "checkpoints" / "dreamy.toml",
        b'aliases = ["misty"]\ntrigger = "drmy"\nlicence = "cc0-1.0"\nprediction_type = "v_prediction"',
    )

    shown = json.loads(done(models("show", "misty", "--json")))

    assert {name: shown[name] for name in ("id", "kind", "family", "layout", "sha256", "licence", "aliases", "trigger", "tensors")} == {
        "id": "dreamy",
        "kind": "checkpoint",
        "family": "sd1",
        "layout": "single_file",
        "sha256": sha256_of(tensors()),
        "licence": "cc0-1.0",
        "aliases": ["misty"],
        "trigger": "drmy",
        "tensors": {"F16": len(SD1)},
    }
    assert (shown["prediction_type"], shown["embedded"]) == ("v_prediction", False)
    text = done(models("show", "dreamy"))
    assert f"sha256           {sha256_of(tensors())}\n" in text
    assert f"tensors          {len(SD1)} F16\n" in text


def test_a_folders_licence_is_that_of_its_model_card(folder: Path) -> None:
    write_folder(folder / "checkpoints" / "painter")
    put(folder / "checkpoints" / "painter" / "README.md", b"---\nlicense: openrail++\ntags: [a]\n---\n# Painter\nlicense: mit\n")
    assert json.loads(done(models("show", "painter", "--json")))["licence"] == "openrail++"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ('---\r\nlicense: "cc-by-4.0"\r\n---\r\n', "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: stabilityai-community\n---\n", "stabilityai-community"),
        ("---\nlicense: other\n---\n", "other"),
        ("# No front matter\nlicense: mit\n", ""),
        ("---\nlicense: mit", ""),
        ("", ""),
    ],
)
def test_a_model_cards_licence_is_read_from_its_front_matter(card: str, licence: str) -> None:
    assert licence_of_card(card) == licence


def test_an_unknown_model_is_answered_with_those_there_are_and_an_unusable_one_with_what_is_wrong(folder: Path) -> None:
    put(folder / "checkpoints" / "cut.safetensors", tensors()[:-10])
    refused(models("show", "../demo"), "There is no model '../demo'; there are demo")
    refused(models("show", "cut"), "is cut short: 10 bytes are missing", code=1)


# -- adding -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "place"), [("lora", "loras"), ("vae", "vaes"), ("controlnet", "controlnets"), ("upscaler", "upscalers")])
def test_a_file_is_added_to_the_folder_its_tensors_say(kind: Any, place: str, folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "mine.safetensors", tensors(TENSORS[kind]))

    assert done(models("add", file)).startswith(f"{kind} mine is at ")

    assert set(everything(folder)) == {f"{place}/mine.safetensors", f"{place}/mine.toml"}
    assert (folder / place / "mine.safetensors").read_bytes() == file.read_bytes()
    sidecar = read_sidecar(folder / place / "mine.toml")
    assert (sidecar.source, sidecar.sha256) == (str(file), sha256_of(file.read_bytes()))
    assert f"ok   {kind} mine: hash as recorded" in done(models("verify", "mine"))


def test_of_a_folder_only_what_is_needed_is_copied(folder: Path, tmp_path: Path) -> None:
    painter = write_folder(tmp_path / "painter")
    for extra in ("unet/diffusion_pytorch_model.bin", "old.ckpt", "run.py", ".git/config", "safety_checker/model.safetensors"):
        put(painter / extra, b"pickle")
    put(painter / "tokenizer" / "merges.txt", b"#version: 0.2\n")
    put(painter / "tokenizer" / "vocab.json", b"{}")
    put(painter / "README.md", b"---\nlicense: openrail\n---\n")

    done(models("add", painter, "--id", "dreamy"))

    assert set(everything(folder)) == {"checkpoints/dreamy.toml", *(f"checkpoints/dreamy/{name}" for name in NEEDED)}
    assert read_sidecar(folder / "checkpoints" / "dreamy.toml").licence == "openrail"
    done(models("verify", "dreamy"))
    put(folder / "checkpoints" / "dreamy" / "unet" / "config.json", (painter / "unet" / "config.json").read_bytes() + b" ")
    assert "a file was changed, added or taken away" in models("verify", "dreamy").stdout


def test_a_link_costs_no_room_and_its_removal_leaves_what_it_leads_to(folder: Path, tmp_path: Path) -> None:
    painter = write_folder(tmp_path / "painter")
    done(models("add", painter, "--link"))
    assert (folder / "checkpoints" / "painter").readlink() == painter
    done(models("verify", "painter"))
    done(models("remove", "painter", "--yes"))
    assert everything(folder) == {}
    assert (painter / "model_index.json").is_file()


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """Writing more fails, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_copy_that_cannot_be_finished_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "ink.safetensors", tensors({**LORA, "lora_unet_y.lora_up.weight": (100_000,)}))
    with files_of_at_most(100_000):
        refused(models("add", file), "The models folder can't be written to: File too large.", code=1)
    assert (everything(folder), staged(folder)) == ({}, [])
    done(models("add", file))


def test_a_disk_without_room_is_noticed_before_anything_is_copied(folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "ink.safetensors", tensors(LORA))
    with pytest.raises(DownloadFailed, match="has 1,000 bytes free"):
        add_model(folder, LocalModel(file, "ink"), free_bytes=lambda _: 1000)
    assert (everything(folder), staged(folder)) == ({}, [])


class Trap:
    """Makes a file where it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("name", ["ink.safetensors", "ink.ckpt", "ink.pt"])
def test_a_pickle_is_refused_with_the_way_out_and_not_run(name: str, folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / name, pickle.dumps(Trap(tmp_path / "ran")))
    refused(models("add", file), "`sdapi models convert IN.ckpt OUT.safetensors`", code=1)
    assert not (tmp_path / "ran").exists()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("--sha256", "0" * 64), "but 0000", 1),
        (("--sha256", "nonsense"), "must be 64 hexadecimal digits", 2),
        (("--id", "../evil"), "must be 1 to 100 letters", 2),
        (("--id", "demo"), "belongs to the embedded model", 2),
        (("--kind", "vae"), "It is a LoRA, not a VAE", 1),
    ],
)
def test_what_is_not_as_asked_is_not_added(arguments: tuple[str, ...], words: str, code: int, folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "ink.safetensors", tensors(LORA))
    refused(models("add", file, *arguments), words, code=code)
    assert not folder.exists() or (everything(folder), staged(folder)) == ({}, [])


@pytest.mark.parametrize("name", ["nothing.safetensors", "nothing", "loras/nothing.safetensors"])
def test_what_is_not_there_is_told_without_asking_the_hub(name: str) -> None:
    refused(models("add", name), "can't be read: There is no such file or folder.", code=1)


def test_a_model_is_replaced_only_when_asked_and_what_its_owner_wrote_stays(folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "ink.safetensors", tensors(LORA))
    done(models("add", file))
    sidecar = folder / "loras" / "ink.toml"
    sidecar.write_text(sidecar.read_text() + '# mine\ntitle = "Ink"\nlicence = "my own"\n')
    put(file, tensors(LORA, fill=b"\x09"))

    refused(models("add", file), "is there already; delete it first, or choose another id. --replace puts the new one in its place.")
    assert (folder / "loras" / "ink.safetensors").read_bytes() == tensors(LORA)
    done(models("add", file, "--replace"))

    assert (folder / "loras" / "ink.safetensors").read_bytes() == tensors(LORA, fill=b"\x09")
    assert sidecar.read_text().endswith('# mine\ntitle = "Ink"\nlicence = "my own"\n')
    read = read_sidecar(sidecar)
    assert (read.title, read.licence, read.sha256) == ("Ink", "my own", sha256_of(file.read_bytes()))


@pytest.mark.parametrize("own", ["", 'title = "T"  # ""\n', "[table]\nx = 1\n", 'description = """\nmany\nlines"""\nsource = "me"\n'])
def test_recording_changes_no_field_of_the_owner_and_can_be_repeated(own: str, tmp_path: Path) -> None:
    sidecar = put(tmp_path / "x.toml", own.encode())
    for number in range(2):
        assert record_origin(sidecar, Origin(f'https://x/"{number}"\n\\ä', f"{number}" * 64))
    recorded = {"source": 'https://x/"1"\\ä', "sha256": "1" * 64}
    assert tomllib.loads(sidecar.read_text(encoding="utf-8")) == recorded | tomllib.loads(own)
    assert sidecar.read_text(encoding="utf-8").endswith(own)


def test_a_sidecar_that_is_no_toml_is_left_alone(tmp_path: Path) -> None:
    sidecar = put(tmp_path / "x.toml", b"title = ")
    assert not record_origin(sidecar, Origin("here", "1" * 64))
    assert [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()] == [b"title = "]


# -- checking -----------------------------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_found_by_the_recorded_hash(folder: Path, tmp_path: Path) -> None:
    done(models("add", put(tmp_path / "ink.safetensors", tensors(LORA))))
    assert "ok   lora ink: hash as recorded" in done(models("verify"))
    place = folder / "loras" / "ink.safetensors"
    place.write_bytes(place.read_bytes()[:-1] + b"!")
    refused(models("verify"), "FAIL lora ink: Its SHA-256 is", code=1)
    refused(models("verify", "ink"), f"but {sha256_of(tensors(LORA))} is recorded in its sidecar: its file was changed.", code=1)


def test_what_cannot_be_used_at_all_fails_the_check(folder: Path) -> None:
    put(folder / "loras" / "cut.safetensors", tensors(LORA)[:-10])
    refused(models("verify"), "FAIL loras/cut.safetensors: cut.safetensors is cut short", code=1)
    refused(models("verify", "cut"), "cut short", code=1)
    refused(models("verify", "nope"), "There is no model 'nope'")
    assert models("verify", "demo").exit_code == 0


def altered(name: str, **changes: Any) -> bytes:
    """The LoRA's file with another header, which is as long."""
    whole = tensors(LORA)
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header[name].update(changes)
    return whole[:8] + json.dumps(header).encode().ljust(length)[:length] + whole[8 + length :]


FIRST, SECOND = LORA


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (altered(FIRST, shape=[4, 65]), "has 512 bytes, which does not fit F16 numbers of shape [4, 65]."),
        (altered(FIRST, dtype="F8"), "has numbers of the unknown kind 'F8'."),
        (altered(SECOND, data_offsets=[0, 512]), "begins at byte 0 of the data instead of 512."),
        (tensors(LORA) + b"more", "4 bytes follow the last tensor."),
        (tensors(LORA)[:-1], "is cut short: 1 bytes are missing"),
    ],
)
def test_tensors_that_do_not_lie_as_the_header_says_are_found(content: bytes, words: str, tmp_path: Path) -> None:
    assert extent_problems(put(tmp_path / "good.safetensors", tensors(LORA))) == []
    assert words in " ".join(extent_problems(put(tmp_path / "bad.safetensors", content)))


# -- removing -----------------------------------------------------------------------------------------------------------------------


def test_a_model_is_removed_after_asking_with_its_sidecar(folder: Path, tmp_path: Path) -> None:
    done(models("add", put(tmp_path / "ink.safetensors", tensors(LORA))))
    refused(models("remove", "ink", input="n\n"), "Nothing was removed.", code=1)
    assert len(everything(folder)) == 2
    assert "lora ink is removed" in done(models("remove", "ink", input="y\n"))
    assert everything(folder) == {}


def test_what_is_embedded_unknown_or_ambiguous_is_not_removed(folder: Path) -> None:
    put(folder / "loras" / "ink.safetensors", tensors(LORA))
    put(folder / "vaes" / "ink.safetensors", tensors(VAE))
    refused(models("remove", "demo", "--yes"), "embedded in sdapi and can't be removed")
    refused(models("remove", "../loras/ink", "--yes"), "There is no model")
    refused(models("remove", "ink", "--yes"), "say which with --kind: lora, vae")
    done(models("remove", "ink", "--kind", "vae", "--yes"))
    assert set(everything(folder)) == {"loras/ink.safetensors"}


def test_what_cannot_be_used_can_be_removed(folder: Path) -> None:
    put(folder / "loras" / "cut.safetensors", tensors(LORA)[:-10])
    done(models("remove", "cut", "--yes"))
    assert everything(folder) == {}


# -- fetching -----------------------------------------------------------------------------------------------------------------------


async def test_a_pulled_repository_is_whole_and_its_origin_recorded(folder: Path, tmp_path: Path, source: ModelSource) -> None:
    files = {**dict.fromkeys(NEEDED, b"{}"), **everything(write_folder(tmp_path / "painter"))}
    source.publish("org/painter", files, card={"license": "openrail++"})

    told = done(await models_meanwhile("pull", "org/painter"))

    assert set(everything(folder)) == {"checkpoints/painter.toml", *(f"checkpoints/painter/{name}" for name in NEEDED)}
    sidecar = read_sidecar(folder / "checkpoints" / "painter.toml")
    assert (sidecar.licence, sidecar.source) == ("openrail++", f"{source.base}/hub/org/painter/tree/{COMMIT}")
    assert sidecar.sha256 in told
    assert "hash as recorded" in done(models("verify", "painter"))


async def test_a_url_is_pulled_by_its_own_name_and_what_is_secret_in_it_is_not_recorded(folder: Path, source: ModelSource) -> None:
    url = source.put("/ink.safetensors?token=secret", tensors(LORA))

    done(await models_meanwhile("add", url, "--kind", "lora", "--sha256", sha256_of(tensors(LORA))))

    assert set(everything(folder)) == {"loras/ink.safetensors", "loras/ink.toml"}
    assert read_sidecar(folder / "loras" / "ink.toml").source == f"{source.base}/ink.safetensors"


@pytest.mark.parametrize(
    ("address", "arguments", "words", "code"),
    [
        ("{base}/ink.safetensors", ("--sha256", "0" * 64), "was expected", 1),
        ("{base}/ink.safetensors", ("--id", "../evil"), "must be 1 to 100 letters", 2),
        ("{base}/ink.safetensors", ("--id", "demo"), "belongs to the embedded model", 2),
        ("{base}/huge.safetensors", (), "which is more than the 5,000 bytes a download may have", 1),
        ("{base}/trap.safetensors", (), "is not safetensors whatever its name says", 1),
        ("{base}/old.ckpt", (), "`sdapi models convert", 2),
        ("{base}/none.safetensors", (), "no such model or file", 1),
        ("https://evil.example/ink.safetensors", (), "is on the host evil.example, from which models may not be fetched", 2),
        ("org/evil", (), "no .safetensors weights", 1),
    ],
)
async def test_what_may_not_be_pulled_leaves_nothing_and_runs_nothing(
    address: str,
    arguments: tuple[str, ...],
    words: str,
    code: int,
    folder: Path,
    tmp_path: Path,
    source: ModelSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SDAPI_MODEL_DOWNLOAD_MAX_BYTES", "5000")
    source.put("/ink.safetensors", tensors(LORA))
    source.put("/huge.safetensors", tensors(), declared_bytes=10_000)
    source.put("/trap.safetensors", pickle.dumps(Trap(tmp_path / "ran")))
    source.publish("org/evil", {"../../../evil.safetensors": tensors(LORA)})
    refused(await models_meanwhile("pull", address.format(base=source.base), "--kind", "lora", *arguments), words, code=code)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "evil.safetensors").exists()
    assert (everything(folder), staged(folder)) == ({}, [])


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("{base}/ink.safetensors", "loras/ink.safetensors"),
        ("{base}/dreamy.safetensors", "checkpoints/dreamy.safetensors"),
        ("org/soft", "vaes/soft/diffusion_pytorch_model.safetensors"),
        ("org/wash", "loras/wash.safetensors"),
        ("org/many/second.safetensors", "controlnets/second.safetensors"),
    ],
)
async def test_a_pulled_model_goes_where_its_tensors_say(address: str, place: str, folder: Path, source: ModelSource) -> None:
    source.put("/ink.safetensors", tensors(LORA))
    source.put("/dreamy.safetensors", tensors())
    source.publish("org/soft", {"config.json": b'{"_class_name": "AutoencoderKL"}', "diffusion_pytorch_model.safetensors": tensors(VAE)})
    source.publish("org/wash", {"pytorch_lora_weights.safetensors": tensors(LORA), "other.safetensors": b""})
    source.publish("org/many", {"first.safetensors": tensors(), "second.safetensors": tensors(TENSORS["controlnet"])})

    done(await models_meanwhile("pull", address.format(base=source.base)))

    assert place in everything(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trap", "is not safetensors whatever its name says"),
        ("text", "is no model of a kind that is known here"),
        ("long", "Its header has 50,000,000 bytes"),
        ("none", "no such model or file"),
    ],
)
async def test_what_is_no_model_is_refused_by_its_first_bytes(name: str, words: str, folder: Path, source: ModelSource) -> None:
    source.put("/trap.safetensors", pickle.dumps(bytes(1_000_000)))
    source.put("/text.safetensors", tensors({"text_model.embeddings.weight": (500_000, 2), "x": (3,)}))
    source.put("/long.safetensors", (50_000_000).to_bytes(8, "little") + bytes(1_000_000))
    refused(await models_meanwhile("pull", f"{source.base}/{name}.safetensors"), words, code=1)
    assert (everything(folder), len(source.asked)) == ({}, 1)


async def test_what_is_there_is_not_pulled_over_unless_asked(folder: Path, source: ModelSource) -> None:
    put(folder / "loras" / "ink.safetensors", tensors(LORA, fill=b"\x09"))
    url = source.put("/ink.safetensors", tensors(LORA))
    refused(await models_meanwhile("pull", url, "--kind", "lora"), "--replace puts the new one in its place")
    done(await models_meanwhile("pull", url, "--kind", "lora", "--replace"))
    assert (folder / "loras" / "ink.safetensors").read_bytes() == tensors(LORA)


async def test_an_interrupted_pull_goes_on_where_it_broke_off(folder: Path, source: ModelSource) -> None:
    url = source.put("/ink.safetensors", tensors(LORA), hold_after=500)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sdapi.cli", "models", "pull", url, "--kind", "lora"),
        env=environment,
        stderr=subprocess.PIPE,
        # Tests that run in the background of a shell were told to ignore it, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    await source.held.wait()
    await asyncio.sleep(0.3)  # so that the bytes are through the connection
    first.send_signal(signal.SIGINT)
    assert first.stderr is not None
    complaint = await first.stderr.read()
    assert await first.wait() != 0
    assert b"Traceback" not in complaint
    assert [name for name in everything(folder) if not name.startswith(".downloading")] == []

    source.files["/ink.safetensors"].hold_after = None
    done(await models_meanwhile("pull", url, "--kind", "lora"))

    assert (folder / "loras" / "ink.safetensors").read_bytes() == tensors(LORA)
    assert source.asked[-1].headers["range"] == "bytes=500-"
    assert staged(folder) == []


async def test_a_model_that_is_being_fetched_is_not_removed(folder: Path, source: ModelSource) -> None:
    put(folder / "loras" / "ink.safetensors", tensors(LORA))
    url = source.put("/ink.safetensors", tensors(LORA), hold_after=100)
    pulling = asyncio.create_task(models_meanwhile("pull", url, "--kind", "lora", "--replace"))
    await source.held.wait()
    refused(await models_meanwhile("remove", "ink", "--yes"), "is just being fetched")
    source.go_on.set()
    done(await pulling)


# -- converting ---------------------------------------------------------------------------------------------------------------------


def test_a_pickle_becomes_a_model_that_can_be_added(folder: Path, tmp_path: Path) -> None:
    import torch

    weight = torch.arange(64 * 27, dtype=torch.float32).reshape(64, 3, 3, 3)
    state = {"conv_first.weight": weight, "body.0.weight": weight, "steps": 3}
    torch.save({"params_ema": state, "optimizer": {"lr": 0.1}}, tmp_path / "sharper.pth")

    told = done(models("convert", tmp_path / "sharper.pth"))

    assert "holds 2 tensors" in told
    assert extent_problems(tmp_path / "sharper.safetensors") == []
    assert done(models("add", tmp_path / "sharper.safetensors")).startswith("upscaler sharper")
    refused(models("convert", tmp_path / "sharper.pth"), "is there already; --replace writes over it")
    refused(models("convert", tmp_path / "sharper.pth", "x.bin"), "must end in .safetensors")


def test_an_old_embedding_becomes_one_that_can_be_used(tmp_path: Path) -> None:
    import torch

    from sdapi.pipelines.loading.pickle_conversion import convert_to_safetensors

    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(2, 768)}, "name": "calm"}, tmp_path / "calm.pt")
    convert_to_safetensors(tmp_path / "calm.pt", tmp_path / "calm.safetensors")
    assert done(models("add", tmp_path / "calm.safetensors")).startswith("embedding calm")


def test_a_pickle_that_wants_code_to_be_run_is_refused_and_runs_none(tmp_path: Path) -> None:
    import torch

    torch.save({"w": torch.zeros(3), "trap": Trap(tmp_path / "ran")}, tmp_path / "trap.ckpt")
    put(tmp_path / "torch.py", b"open('ran', 'w')")  # in the current folder
    refused(models("convert", tmp_path / "trap.ckpt"), "nothing of it was run", code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"trap.ckpt", "torch.py"}


def test_a_pickle_that_would_take_more_than_its_size_allows_is_given_up(tmp_path: Path) -> None:
    import torch

    # The same number again and again is four bytes in the file and eight gigabytes as a tensor.
    torch.save({"bomb": torch.zeros(1).expand(2 * 10**9)}, tmp_path / "bomb.ckpt")
    refused(models("convert", tmp_path / "bomb.ckpt"), "take far more memory than its size allows", code=1)
    assert {path.name for path in tmp_path.iterdir()} == {"bomb.ckpt"}
