"""Models that left the device and came back draw what they drew before, to the bit, whatever was laid over them meanwhile."""

from __future__ import annotations

import copy
import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.domain.generation import ControlNet, Text2Video
from sdapi.pipelines.control.controlnets import ControlNetwork
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.families.film import open_film_model
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.families.whole import WholeModel
from sdapi.pipelines.forwards.joined_projections import joined_weight, lay_together
from sdapi.pipelines.loading.loader import load_checkpoint
from sdapi.pipelines.loading.whole_loader import load_whole
from sdapi.pipelines.memory.host_copy import weights_of
from sdapi.pipelines.memory.host_tier import CanReturn, HostTier, Packed
from sdapi.pipelines.scheduling.tickets import Pictures, Trouble
from sdapi.pipelines.upscalers.diffusion import DiffusionUpscaler
from sdapi.pipelines.upscalers.loading import load_upscaler
from sdapi.pipelines.upscalers.model import UpscalerModel

from . import control_nets, lora_files
from .control_nets import a_control_net
from .device import Device, Wish, open_device
from .drawing import a_request, demo_parts
from .leaving import Small, Watched, are_freed, storages
from .tiny_films import write_film_folder
from .tiny_upscalers import write_upscaling_folder
from .tiny_whole import write_whole_folder
from .upscaler_nets import compact_tensors

CPU = torch.device("cpu")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """Holds a copy of the embedded model, so that there are two, and things to add to them."""
    folder = embedded_model_dir()
    assert folder is not None
    shutil.copytree(folder, tmp_path / "checkpoints" / "copy", ignore=shutil.ignore_patterns("recipe", "assets", "*.md", "*.png"))
    lora_files.install(tmp_path, "moxin", lora_files.kohya(lora_files.a_lora(1)))
    control_nets.install(tmp_path, "net")
    (tmp_path / "embeddings").mkdir()
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(5))
    save_file({"emb_params": vectors}, tmp_path / "embeddings" / "moody.safetensors")
    vae = copy.deepcopy(demo_parts().vae)
    vae.decoder.conv_out.bias.data -= 0.3
    vae.save_pretrained(tmp_path / "vaes" / "dark")
    return tmp_path


@pytest.fixture
def host() -> HostTier:
    return HostTier(2**40, Watched())


@pytest.fixture
def room_for_one() -> int:
    return demo_parts().bytes * 3 // 2


def drawn(device: Device, **changes: object) -> bytes:
    wish = Wish(a_request(steps=2, **changes))
    device.draw(wish)
    assert isinstance(wish.result, Pictures), wish.result
    return wish.result.images[0].tobytes()


def loaded(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["model"] for record in caplog.records if record.getMessage() == "model loaded"]


def test_checkpoints_that_take_turns_are_read_once_and_draw_the_same_to_the_bit(
    models_dir: Path, room_for_one: int, host: HostTier, caplog: pytest.LogCaptureFixture
) -> None:
    with open_device(models_dir, cache_bytes=room_for_one) as device:
        expected = drawn(device), drawn(device, checkpoint="copy")
    caplog.clear()
    with caplog.at_level(logging.INFO), open_device(models_dir, cache_bytes=room_for_one, host=host) as device:
        for _ in range(3):
            assert (drawn(device), drawn(device, checkpoint="copy")) == expected
        assert (set(device.loop.models.resident), set(device.loop.models.on_host)) == ({"copy"}, {"demo"})
    assert loaded(caplog) == ["demo", "copy"]
    assert not [thread for thread in threading.enumerate() if thread.name == "sdapi-leaving"]


def test_on_a_cpu_nothing_waits_whatever_the_setting(models_dir: Path) -> None:
    options = DeviceOptions("cpu", "float32", threads=1, max_batch_rows=4, model_cache_bytes=2**30, host_cache_bytes=2**30)
    loop = open_loop(Catalog(models_dir, aliases={}, embedded=embedded_model_dir()), Assets(models_dir), options)
    assert loop._shelves.memory.host is None
    loop.stop()
    loop.run()


def test_what_requests_laid_over_a_model_does_not_come_back_with_it(models_dir: Path, room_for_one: int, host: HostTier) -> None:
    net = {"controlnet_models": ["net"], "controlnet_type": "canny", "control_image": "x", "conditioning_scales": [1.0]}
    led = ControlNet.model_validate({**a_request(steps=2).model_dump(exclude={"kind"}), **net})
    mixed: tuple[dict[str, object], ...] = (
        {"loras": [{"id": "moxin"}], "embeddings": ["moody"]},
        {"self_attention": True, "clip_skip": 2},
        {"token_merging": True, "vae": "dark"},
    )
    with open_device(models_dir, cache_bytes=room_for_one, host=host) as device:
        before = drawn(device)
        first_led = Wish(led)
        device.draw(first_led)
        asked = [drawn(device, **changes) for changes in mixed]
        drawn(device, checkpoint="copy")
        assert device.loop.models.on_host == {"demo"}
        assert drawn(device) == before
        assert [drawn(device, **changes) for changes in mixed] == asked
        again = Wish(led)
        device.draw(again)
    assert isinstance(first_led.result, Pictures)
    assert isinstance(again.result, Pictures)
    assert first_led.result.images[0].tobytes() == again.result.images[0].tobytes() != before


def test_a_checkpoint_that_was_replaced_while_it_waited_is_read_anew(models_dir: Path, room_for_one: int, host: HostTier) -> None:
    weights = models_dir / "checkpoints" / "copy" / "vae" / "diffusion_pytorch_model.safetensors"
    with open_device(models_dir, cache_bytes=room_for_one, host=host) as device:
        before = drawn(device, checkpoint="copy")
        drawn(device)
        assert device.loop.models.on_host == {"copy"}
        tensors = load_file(weights)
        tensors["decoder.conv_out.bias"] = tensors["decoder.conv_out.bias"] - 0.3
        save_file(tensors, weights, {"format": "pt"})
        assert drawn(device, checkpoint="copy") != before


def test_a_checkpoint_that_was_removed_while_it_waited_is_not_drawn_with(models_dir: Path, room_for_one: int, host: HostTier) -> None:
    with open_device(models_dir, cache_bytes=room_for_one, host=host) as device:
        drawn(device, checkpoint="copy")
        before = drawn(device)
        shutil.rmtree(models_dir / "checkpoints" / "copy")
        gone = Wish(a_request(checkpoint="copy"))
        device.draw(gone)
        assert isinstance(gone.result, Trouble)
        assert drawn(device) == before


def test_clearing_the_caches_empties_host_memory_too(models_dir: Path, room_for_one: int, host: HostTier) -> None:
    with open_device(models_dir, cache_bytes=room_for_one, host=host) as device:
        drawn(device)
        drawn(device, checkpoint="copy")
        host.wait_until_left()
        freed: list[int] = []
        cleared = threading.Event()

        def done(freed_bytes: int) -> None:
            freed.append(freed_bytes)
            cleared.set()

        device.loop.clear_caches(done)
        assert cleared.wait(20)
        assert (device.loop.models.on_host, host.size_bytes) == (frozenset(), 0)
        assert freed[0] > 2 * demo_parts().bytes
        drawn(device)


def test_a_device_that_is_stopped_while_a_model_leaves_ends(models_dir: Path, room_for_one: int) -> None:
    transfers = Watched()
    with open_device(models_dir, cache_bytes=room_for_one, host=HostTier(2**40, transfers)) as device:
        drawn(device)
        transfers.gate.clear()
        wish = Wish(a_request(checkpoint="copy"))
        threading.Thread(target=device.draw, args=(wish,)).start()
        assert transfers.begun.wait(20)
        device.loop.stop()
        transfers.gate.set()
    assert not [thread for thread in threading.enumerate() if thread.name in ("sdapi-leaving", "sdapi-loader")]


def test_nothing_of_a_checkpoint_stays_on_the_device_while_it_waits(host: HostTier) -> None:
    folder = embedded_model_dir()
    assert folder is not None
    parts = load_checkpoint(Catalog(folder.parent, aliases={}, embedded=folder).get("demo"), device=CPU, dtype=torch.float32)
    pristine = {name: type(processor) for name, processor in parts.unet.attn_processors.items()}
    model = UnetModel("demo", parts)
    gone = storages(*parts.networks)
    assert host.take((0, "demo"), model, "1", lambda: None)
    host.wait_until_left()
    assert are_freed(gone), "though the model is still held here"
    assert {name: type(processor) for name, processor in parts.unet.attn_processors.items()} == pristine
    assert all(weight.numel() == 0 for weight in weights_of(parts.networks))
    again = host.bring((0, "demo"), "1")
    assert isinstance(again, UnetModel)
    assert again is not model
    assert parts.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    host.close()


def _returned(model: CanReturn) -> CanReturn:
    """The same after it has left and come back."""
    host = HostTier(2**40, Watched())
    gone = storages(*model.packed().networks)
    assert host.take((0, "it"), model, "1", lambda: None)
    host.wait_until_left()
    assert are_freed(gone)
    again = host.bring((0, "it"), "1")
    assert isinstance(again, type(model))
    host.close()
    return again


def test_a_control_net_says_the_same() -> None:
    net = a_control_net(1)
    hint = torch.rand(64, 64, 3).numpy()
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, 64)

    def said(by: ControlNetwork) -> list[torch.Tensor]:
        with torch.inference_mode():
            return by.residuals(*inputs, by.encoded(hint))

    before = said(net)
    again = _returned(net)
    assert isinstance(again, ControlNetwork)
    assert again is not net
    assert all(torch.equal(one, other) for one, other in zip(said(again), before, strict=True))


def test_projections_that_lie_together_come_back_together_and_leave_again_without_a_copy() -> None:
    parts = copy.deepcopy(demo_parts())
    attention = parts.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    lay_together(attention)
    joined = joined_weight(attention)
    assert joined is not None
    before = joined.clone()
    del joined
    transfers = Watched()
    host = HostTier(2**40, transfers)
    model: UnetModel | None = UnetModel("demo", parts)
    for _ in range(2):
        assert host.take((0, "demo"), model, "1", lambda: None)
        host.wait_until_left()
        copied_bytes = transfers.copied_bytes
        model = host.bring((0, "demo"), "1")
        again = joined_weight(attention)
        assert again is not None
        assert torch.equal(again, before)
    assert transfers.copied_bytes - copied_bytes == copied_bytes // 2, "the second time it only came back"
    host.close()


def test_weights_in_eight_bits_return_too() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    layer = torch.nn.Linear(64, 64).requires_grad_(requires_grad=False)
    quantization.quantize_(layer, quantization.Int8WeightOnlyConfig(set_inductor_config=False))
    told = torch.randn(3, 64)
    before = layer(told)

    class Eight(Small):
        def packed(self) -> Packed[Small]:
            return Packed((self.layer,), lambda: self)

    _returned(Eight("eight", layer))
    assert torch.equal(layer(told), before)


def test_an_upscaler_makes_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "upscalers").mkdir()
    save_file(compact_tensors(scale=2), tmp_path / "upscalers" / "small.safetensors")
    model = load_upscaler(Assets(tmp_path).get("upscaler", "small"), device=CPU, dtype=torch.float32)
    assert isinstance(model, UpscalerModel)
    picture = Image.effect_noise((40, 28), 60).convert("RGB")

    _makes_the_same_again(model, lambda: model.begin(picture.size, 2, picture))


def test_a_whole_pipeline_draws_the_same_picture(tmp_path: Path) -> None:
    write_whole_folder(tmp_path / "checkpoints" / "tiny", "sd3")
    checkpoint = Catalog(tmp_path, aliases={}, embedded=None).get("tiny")
    model = WholeModel("tiny", "sd3", load_whole(checkpoint, device=CPU, dtype=torch.float32, is_dtype_chosen=False))

    _makes_the_same_again(model, lambda: model.prepare(a_request(checkpoint="tiny", steps=2), None)[0])


def _makes_the_same_again(model: Any, begin: Callable[[], Any]) -> None:
    """`begin` makes a row of it."""

    def made() -> bytes:
        row = begin()
        while not row.sampler.finished:
            model.advance(row, model.predict([row])[0])
        picture: bytes = model.decode(row).tobytes()
        return picture

    before = made()
    assert _returned(model) is model
    assert made() == before


def test_a_film_is_the_same(tmp_path: Path) -> None:
    write_film_folder(tmp_path / "video" / "tiny", "modelscope")
    films = Assets(tmp_path).films
    model = open_film_model(
        "video/tiny", films, Catalog(tmp_path, aliases={}, embedded=None), device=CPU, dtype=torch.float32, is_dtype_chosen=False
    )

    def made() -> list[bytes]:
        row = model.prepare_film(Text2Video(checkpoint="tiny", prompt="a boat", seed=1, frames=2, steps=2, width=64, height=64))
        while not row.sampler.finished:
            model.advance(row, model.predict([row])[0])
        model.decode(row)
        assert row.film is not None
        return [frame.tobytes() for frame in row.film.frames]

    before = made()
    assert _returned(model) is model
    assert made() == before


def test_a_diffusion_upscaler_keeps_nothing_but_its_networks(tmp_path: Path) -> None:
    write_upscaling_folder(tmp_path / "upscalers" / "tiny", "latent")
    model = load_upscaler(Assets(tmp_path).get("upscaler", "tiny"), device=CPU, dtype=torch.float32)
    assert isinstance(model, DiffusionUpscaler)
    before = [weight.clone() for weight in weights_of(model.packed().networks)]
    assert _returned(model) is model
    assert all(torch.equal(one, other) for one, other in zip(weights_of(model.packed().networks), before, strict=True))
