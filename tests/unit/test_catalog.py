"""The models folder: what is dropped in is listed, what can't be used is explained, and nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sdapi.catalog import Catalog, embedded_model_dir
from sdapi.domain.errors import ModelNotFound
from sdapi.domain.generation import SchedulerName

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
TO_K = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
SD1: Shapes = {
    UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
    TO_K: (8, 768),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
}
SD2: Shapes = {
    UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
    TO_K: (8, 1024),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "cond_stage_model.model.ln_final.weight": (1024,),
}
SDXL: Shapes = {
    UNET + "input_blocks.0.0.weight": (8, 4, 3, 3),
    TO_K: (8, 2048),
    "first_stage_model.decoder.conv_in.weight": (8, 4, 3, 3),
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (768,),
    "conditioner.embedders.1.model.ln_final.weight": (1280,),
}


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def catalog(folder: Path, aliases: Mapping[str, str] | None = None, **others: Any) -> Catalog:
    return Catalog(folder.parent, aliases=aliases or {}, **{"embedded": None, **others})


def write_safetensors(path: Path, shapes: Shapes = SD1, *, cut_bytes: int = 0) -> Path:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end - cut_bytes))
    return path


def write_folder(
    path: Path, *, pipeline: str = "StableDiffusionPipeline", weights: str = ".safetensors", is_xl: bool = False, **unet: Any
) -> Path:
    index = {"_class_name": pipeline, "text_encoder": ["transformers", "CLIPTextModel"]}
    jsons: dict[str, Any] = {
        "model_index.json": index,
        "unet/config.json": {"_class_name": "UNet2DConditionModel", "in_channels": 4, "cross_attention_dim": 64, **unet},
        "vae/config.json": {},
        "text_encoder/config.json": {},
        "scheduler/scheduler_config.json": {},
        "tokenizer/tokenizer_config.json": {},
    }
    names = ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]
    if is_xl:
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        jsons["unet/config.json"] = {"addition_embed_type": "text_time", **jsons["unet/config.json"]}
        jsons |= {"text_encoder_2/config.json": {}, "tokenizer_2/tokenizer_config.json": {}}
        names.append("text_encoder_2/model")
    for name, value in jsons.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(json.dumps(value))
    for name in names:
        write_safetensors(path / f"{name}{weights}", {"weight": (2, 2)})
    return path


def only_problem(listed: Catalog) -> str:
    assert listed.ids() == []
    (problem,) = listed.problems()
    return problem.sentence


def test_files_and_folders_are_listed_by_their_names(folder: Path) -> None:
    write_safetensors(folder / "v1-5-pruned.fp16.safetensors")
    write_folder(folder / "painter-1.2")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden.ckpt").write_bytes(b"")

    listed = catalog(folder)

    assert listed.ids() == ["painter-1.2", "v1-5-pruned.fp16"]
    assert listed.problems() == []
    file, diffusers = listed.get("v1-5-pruned.fp16"), listed.get("painter-1.2")
    assert (file.layout, file.family, file.in_channels) == ("single_file", "sd1", 4)
    assert file.size_bytes == (folder / "v1-5-pruned.fp16.safetensors").stat().st_size
    assert file.modified_at.timestamp() == pytest.approx((folder / "v1-5-pruned.fp16.safetensors").stat().st_mtime, abs=1e-3)
    assert (diffusers.layout, diffusers.family, diffusers.path, len(diffusers.weights)) == ("diffusers", "sd1", folder / "painter-1.2", 3)


def test_a_models_folder_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    listed = catalog(tmp_path / "nowhere" / "checkpoints")
    assert (listed.ids(), listed.problems()) == ([], [])


def test_an_unknown_id_is_answered_with_those_there_are(folder: Path) -> None:
    for name in ("b", "a"):
        write_safetensors(folder / f"{name}.safetensors")
    with pytest.raises(ModelNotFound) as refusal:
        catalog(folder).get("c")
    assert (refusal.value.model_id, refusal.value.available) == ("c", ("a", "b"))


@pytest.mark.parametrize("model_id", ["../secret", "/etc/passwd", "a/../../secret", "..", ".", "", "a\0b", "secret"])
def test_an_id_never_becomes_a_path(folder: Path, model_id: str) -> None:
    write_safetensors(folder.parent / "secret.safetensors")
    write_safetensors(folder / "a.safetensors")
    with pytest.raises(ModelNotFound):
        catalog(folder).get(model_id)


def test_links_to_places_outside_are_followed(folder: Path, tmp_path: Path) -> None:
    outside = write_safetensors(tmp_path / "blob-of-a-cache")
    (folder / "linked.safetensors").symlink_to(outside)
    (folder / "linked-folder").symlink_to(write_folder(tmp_path / "elsewhere"))
    assert catalog(folder).ids() == ["linked", "linked-folder"]


@pytest.mark.parametrize("name", ["my model", "über", "-rf", "a" * 101, "semi;colon"])
def test_a_name_that_can_not_be_an_id_is_a_problem(folder: Path, name: str) -> None:
    write_safetensors(folder / f"{name}.safetensors")
    assert "rename it" in only_problem(catalog(folder))


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT", ".safetensors", ".SafeTensors"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_are_refused_under_any_name_and_never_unpickled(folder: Path, tmp_path: Path, suffix: str, zipped: bool) -> None:
    path = folder / f"evil{suffix}"
    pickled = pickle.dumps({"state_dict": Trap(tmp_path / "trace")}, protocol=2)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
    else:
        path.write_bytes(pickled)

    sentence = only_problem(catalog(folder))

    assert "is a pickle" in sentence
    assert "Convert it to safetensors" in sentence
    assert not (tmp_path / "trace").exists()


def test_a_folder_that_holds_only_bin_weights_is_refused(folder: Path) -> None:
    write_folder(folder / "old", weights=".bin")
    sentence = only_problem(catalog(folder))
    assert "unet/ holds only pickled weights" in sentence
    assert "safetensors" in sentence


def test_half_precision_weights_are_found_by_their_names(folder: Path) -> None:
    write_folder(folder / "halved", weights=".fp16.safetensors")
    assert [file.name for file in catalog(folder).get("halved").weights] == [
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    ]


def test_a_file_that_is_cut_short_is_a_problem_until_it_is_whole(folder: Path) -> None:
    clock = Clock()
    listed = catalog(folder, clock=clock)
    write_safetensors(folder / "a.safetensors", cut_bytes=1000)
    assert "1,000 bytes are missing" in only_problem(listed)

    write_safetensors(folder / "a.safetensors")
    clock.now_s += 1
    assert (listed.ids(), listed.problems()) == (["a"], [])


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a safetensors file"),
        (b"abc", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (_header(b"no json"), "not a safetensors file"),
        (_header(b"[1, 2]"), "not a safetensors file"),
        (_header(b'{"a": 1}'), "not a safetensors file"),
        (_header(b'{"a": {"shape": "x", "data_offsets": []}}'), "not a safetensors file"),
        (_header(b"[" * 100_000), "not a safetensors file"),
        (_header(b"{}"), "not a model of a family"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_a_fake_safetensors_file_is_a_problem(folder: Path, content: bytes, words: str) -> None:
    (folder / "fake.safetensors").write_bytes(content)
    assert words in only_problem(catalog(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang_the_catalog(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    assert "not a regular file" in only_problem(catalog(folder))


def test_a_link_that_leads_nowhere_is_a_problem(folder: Path) -> None:
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    assert "can't be read" in only_problem(catalog(folder))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({**SD1, TO_K: (8, 1024)}, "no text encoder"),
        ({**SD1, TO_K: (8, 2048)}, "no text encoder"),
        ({name: shape for name, shape in SDXL.items() if "embedders.1" not in name}, "no text encoder"),
        ({**SDXL, TO_K: (8, 1280)}, "is the refiner"),
        ({**SD2, UNET + "input_blocks.0.0.weight": (8, 5, 3, 3)}, "takes 5 channels"),
        ({**SDXL, UNET + "input_blocks.0.0.weight": (8, 8, 3, 3)}, "takes 8 channels"),
        ({UNET + "joint_blocks.0.x_block.attn.qkv.weight": (8, 8)}, "(sd3)"),
        ({"double_blocks.0.img_attn.qkv.weight": (8, 8)}, "(flux)"),
        ({**SD1, TO_K: (8, 99)}, "not a model of a family"),
        ({**SD1, UNET + "input_blocks.0.0.weight": (8, 8, 3, 3)}, "takes 8 channels"),
        ({name: shape for name, shape in SD1.items() if "first_stage" not in name}, "no VAE"),
        ({name: shape for name, shape in SD1.items() if "cond_stage" not in name}, "no text encoder"),
        ({"lora_unet_down_blocks_0.lora_up.weight": (8, 8)}, "is a LoRA"),
        ({"decoder.up.0.block.0.conv1.weight": (8, 8)}, "is a VAE"),
        ({"control_model.input_blocks.0.0.weight": (8, 8)}, "is a ControlNet"),
        ({"emb_params": (2, 768)}, "is a textual inversion"),
    ],
)
def test_a_file_of_another_kind_is_named_and_refused(folder: Path, shapes: Shapes, words: str) -> None:
    write_safetensors(folder / "other.safetensors", shapes)
    assert words in only_problem(catalog(folder))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pipeline": "StableDiffusionXLPipeline"}, "no folder text_encoder_2/"),
        ({"pipeline": "StableDiffusionXLInstructPix2PixPipeline", "is_xl": True, "in_channels": 8}, "takes 8 channels"),
        ({"pipeline": "StableDiffusionXLPipeline", "is_xl": True, "addition_embed_type": None}, "not one of Stable Diffusion XL"),
        ({"pipeline": "StableDiffusion3Pipeline"}, "(sd3)"),
        ({"pipeline": "FluxPipeline"}, "(flux)"),
        ({"pipeline": "KandinskyPipeline"}, "not a model of a family"),
        ({"in_channels": 8}, "takes 8 channels"),
        ({"pipeline": "StableDiffusionInstructPix2PixPipeline", "in_channels": 8}, "takes 8 channels"),
        ({"_class_name": "UNet3DConditionModel"}, "not a model of a family"),
    ],
)
def test_a_folder_of_another_family_is_named_and_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    write_folder(folder / "other", **changes)
    assert words in only_problem(catalog(folder))


@pytest.mark.parametrize(("shapes", "family"), [(SD1, "sd1"), (SD2, "sd2"), (SDXL, "sdxl")])
def test_a_files_family_is_told_by_its_context_and_text_encoders(folder: Path, shapes: Shapes, family: str) -> None:
    write_safetensors(folder / "file.safetensors", shapes)
    assert catalog(folder).get("file").family == family


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({}, "sd1"),
        ({"cross_attention_dim": 768, "use_linear_projection": True}, "sd1"),
        ({"cross_attention_dim": 1024}, "sd2"),
        ({"use_linear_projection": True}, "sd2"),
        ({"pipeline": "StableDiffusionXLPipeline", "is_xl": True}, "sdxl"),
        ({"pipeline": "StableDiffusionXLInpaintPipeline", "is_xl": True, "in_channels": 9}, "sdxl"),
    ],
)
def test_a_folders_family_is_told_by_its_components_whatever_their_size(folder: Path, changes: dict[str, Any], family: str) -> None:
    write_folder(folder / "tiny", **changes)
    found = catalog(folder).get("tiny")
    assert (found.family, len(found.weights)) == (family, 4 if family == "sdxl" else 3)


def test_the_refiner_is_refused_by_name(folder: Path) -> None:
    write_folder(folder / "refiner", pipeline="StableDiffusionXLImg2ImgPipeline", is_xl=True)
    (folder / "refiner" / "text_encoder").rename(folder / "refiner" / "elsewhere")
    assert "is the refiner" in only_problem(catalog(folder))


def test_inpainting_models_are_told_by_their_nine_channels(folder: Path) -> None:
    write_safetensors(folder / "file.safetensors", {**SD1, UNET + "input_blocks.0.0.weight": (8, 9, 3, 3)})
    write_folder(folder / "folder", pipeline="StableDiffusionInpaintPipeline", in_channels=9)
    assert [(found.id, found.in_channels) for found in catalog(folder).all()] == [("file", 9), ("folder", 9)]


@pytest.mark.parametrize(
    "lost", ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
)
def test_a_folder_that_lacks_a_file_is_a_problem(folder: Path, lost: str) -> None:
    (write_folder(folder / "holed") / lost).unlink()
    assert only_problem(catalog(folder))


def test_the_sidecar_describes_the_checkpoint(folder: Path) -> None:
    write_safetensors(folder / "painter-1.2.safetensors")
    (folder / "painter-1.2.toml").write_text(
        'title = "Painter"\ntrigger = "pntr style"\nenhance = "detailed"\nnegative = "blurry"\nsteps = 25\nguidance_scale = 6\n'
        'prediction_type = "v_prediction"\nscheduler = "DDIMScheduler"\naliases = ["someone/painter"]\ndescription = "Oil."\n'
    )
    found = catalog(folder).get("someone/painter")
    assert (found.id, found.title, found.trigger, found.enhance, found.negative) == (
        "painter-1.2",
        "Painter",
        "pntr style",
        "detailed",
        "blurry",
    )
    assert (found.steps, found.guidance_scale, found.prediction_type, found.scheduler) == (25, 6.0, "v_prediction", SchedulerName.DDIM)
    assert (found.aliases, found.description) == (("someone/painter",), "Oil.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"steps = 500", "steps"),
        (b'steps = "many"', "steps"),
        (b"stps = 20", "stps: there is no such setting"),
        (b'scheduler = "Magic"', "scheduler"),
        (b'prediction_type = "sample"', "prediction_type"),
        (b'aliases = ["*"]', "aliases"),
        (b"title = ", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"#" * 70_000, "longer than"),
    ],
)
def test_a_bad_sidecar_makes_its_entry_a_problem_and_no_other(folder: Path, text: bytes, words: str) -> None:
    for name in ("good", "bad"):
        write_safetensors(folder / f"{name}.safetensors")
    (folder / "bad.toml").write_bytes(text)

    listed = catalog(folder)

    assert listed.ids() == ["good"]
    (problem,) = listed.problems()
    assert "bad.toml" in problem.sentence
    assert words in problem.sentence


def test_a_sidecar_without_its_checkpoint_is_a_problem(folder: Path) -> None:
    (folder / "lost.toml").write_text("")
    assert "no checkpoint 'lost'" in only_problem(catalog(folder))


def test_names_are_resolved_ids_first_then_settings_then_sidecars_then_the_catch_all(folder: Path) -> None:
    for name, aliases in (("one", ["uno", "both"]), ("two", ["dos"]), ("rest", [])):
        write_safetensors(folder / f"{name}.safetensors")
        (folder / f"{name}.toml").write_text(f"aliases = {json.dumps(aliases)}")
    listed = catalog(folder, {"one": "two", "midjourney": "dos", "nowhere": "gone", "*": "rest"})

    names = ("one", "uno", "midjourney", "nowhere", "anything at all")
    assert [listed.get(name).id for name in names] == ["one", "one", "two", "rest", "rest"]


def test_aliases_that_lead_nowhere_or_to_two_are_problems(folder: Path) -> None:
    for name in ("one", "two"):
        write_safetensors(folder / f"{name}.safetensors")
        (folder / f"{name}.toml").write_text('aliases = ["both", "one"]')
    listed = catalog(folder, {"midjourney": "gone"})

    assert listed.get("both").id == "one"
    sentences = [problem.sentence for problem in listed.problems()]
    assert sentences == [
        "Its alias 'both' already belongs to 'one'.",
        "Its alias 'one' already belongs to 'one'.",
        "The alias 'midjourney' leads to 'gone', which is not there.",
    ]
    with pytest.raises(ModelNotFound):
        listed.get("midjourney")


def test_of_two_entries_with_one_id_the_folder_counts_and_the_file_is_a_problem(folder: Path) -> None:
    write_folder(folder / "twice")
    write_safetensors(folder / "twice.safetensors")
    listed = catalog(folder)
    assert listed.get("twice").layout == "diffusers"
    assert [(problem.path.name, "already belongs to" in problem.sentence) for problem in listed.problems()] == [("twice.safetensors", True)]


def test_the_embedded_model_is_demo_with_its_own_sidecar(folder: Path, tmp_path: Path) -> None:
    embedded = write_folder(tmp_path / "embedded")
    (embedded / "sidecar.toml").write_text('title = "Shapes"\nsteps = 20\n')
    write_safetensors(folder / "demo.safetensors")

    listed = catalog(folder, embedded=embedded)

    assert listed.ids() == ["demo"]
    assert (listed.get("demo").path, listed.get("demo").title, listed.get("demo").steps) == (embedded, "Shapes", 20)
    assert "embedded model" in listed.problems()[0].sentence


def test_the_embedded_folder_is_one_with_a_model_index_or_none() -> None:
    found = embedded_model_dir()
    assert found is None or (found.name == "demo" and (found / "model_index.json").is_file())


def test_dropping_a_file_in_and_taking_it_out_shows_within_a_second(folder: Path) -> None:
    clock = Clock()
    listed = catalog(folder, clock=clock)
    assert listed.ids() == []

    write_safetensors(folder / "late.safetensors")
    assert listed.ids() == []
    clock.now_s += 1
    assert listed.get("late").title == ""

    (folder / "late.toml").write_text('title = "Late"')
    clock.now_s += 1
    assert listed.get("late").title == "Late"

    (folder / "late.safetensors").unlink()
    clock.now_s += 1
    assert listed.ids() == []


def test_headers_are_read_again_only_when_files_changed(folder: Path) -> None:
    clock = Clock()
    listed = catalog(folder, clock=clock)
    write_safetensors(folder / "a.safetensors")
    write_folder(folder / "b")
    before = listed.all()

    clock.now_s += 1
    assert all(new is old for new, old in zip(listed.all(), before, strict=True))

    write_safetensors(folder / "b" / "unet" / "diffusion_pytorch_model.safetensors", {"weight": (4, 4)})
    clock.now_s += 1
    assert [new is old for new, old in zip(listed.all(), before, strict=True)] == [True, False]


def test_the_hash_is_the_one_a1111_shows_and_follows_the_file(folder: Path) -> None:
    clock = Clock()
    listed = catalog(folder, clock=clock)
    path = write_safetensors(folder / "a.safetensors")
    first = listed.get("a")
    assert listed.hash_of(first) == hashlib.sha256(path.read_bytes()).hexdigest()[:10]

    write_safetensors(path, {**SD1, "extra": (3,)})
    clock.now_s += 1
    assert listed.hash_of(listed.get("a")) == hashlib.sha256(path.read_bytes()).hexdigest()[:10] != listed.hash_of(first)


def test_the_hash_of_a_folder_covers_all_its_weights(folder: Path) -> None:
    write_folder(folder / "a")
    listed = catalog(folder)
    found = listed.get("a")
    assert listed.hash_of(found) == hashlib.sha256(b"".join(path.read_bytes() for path in found.weights)).hexdigest()[:10]


def test_many_threads_may_ask_while_files_come_and_go(folder: Path) -> None:
    clock = Clock()
    listed = catalog(folder, clock=clock)
    write_safetensors(folder / "stays.safetensors")
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(50):
                clock.now_s += 1
                assert listed.get("stays").id == "stays"
        except BaseException as failure:  # noqa: BLE001 a thread's failure must reach the test
            failures.append(failure)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        write_safetensors(folder / "comes.safetensors")
        (folder / "comes.safetensors").unlink()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_catalog_needs_no_model_library() -> None:
    code = "import sys, sdapi.catalog; sys.exit(bool({'torch', 'diffusers', 'transformers', 'safetensors'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
