from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sdapi.catalog import WHOLE_FAMILIES, Assets, Catalog, ModelBroken, Refused
from sdapi.domain.generation import Upscale
from sdapi.domain.progress import Progress
from sdapi.pipelines.families.whole import WholeModel
from sdapi.pipelines.loading.whole_loader import load_whole
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped
from sdapi.pipelines.upscalers.architecture import network_of
from sdapi.pipelines.upscalers.loading import load_upscaler
from sdapi.pipelines.upscalers.model import UpscalerModel
from sdapi.pipelines.upscalers.networks import CompactNetwork, DenseNetwork
from sdapi.pipelines.upscalers.tiles import tiles_of

from .drawing import Studio, a_request, an_img2img_request, an_inpaint_request, draw_alone, greatest_difference
from .tiny_whole import write_whole_folder
from .upscaler_nets import (
    Tensors,
    compact_forward,
    compact_tensors,
    dense_forward,
    dense_tensors,
    in_first_layout,
    in_second_layout,
)


def a_picture(width: int = 40, height: int = 28, seed: int = 3) -> Image.Image:
    """Soft clouds with sharp bars, so that position, colour and detail all matter."""
    random = np.random.default_rng(seed)
    clouds = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.array(clouds)
    pixels[:, width // 3 : width // 3 + 2] = (250, 20, 30)
    pixels[height // 2 : height // 2 + 1] = (10, 200, 40)
    return Image.fromarray(pixels)


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def as_picture(tensor: torch.Tensor) -> Image.Image:
    return Image.fromarray(tensor[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy())


def upscaled(tensors: Tensors, picture: Image.Image, scale: float, *, tile_pixels: int | None = None) -> Image.Image:
    model = UpscalerModel("net", network_of(tensors), tile_pixels=tile_pixels)
    row = model.begin(picture.size, scale, picture)
    while not row.sampler.finished:
        (predicted,) = model.predict([row])
        model.advance(row, predicted)
    return model.decode(row)


@pytest.mark.parametrize("layout", [dict, in_first_layout, in_second_layout, lambda t: {f"params_ema.{name}": x for name, x in t.items()}])
def test_esrgan_in_every_layout_equals_its_equations(layout: type[Tensors]) -> None:
    tensors = dense_tensors(blocks=2)
    network = network_of(layout(tensors))
    assert isinstance(network, DenseNetwork)
    assert (network.shape.blocks, network.shape.features, network.shape.growth, network.shape.scale) == (2, 8, 4, 4)

    picture = as_tensor(a_picture())
    with torch.inference_mode():
        assert torch.allclose(network(picture), dense_forward(tensors, picture), atol=1e-5)


def test_an_averaged_set_of_weights_wins_over_the_plain_one() -> None:
    averaged, plain = compact_tensors(seed=1), compact_tensors(seed=2)
    both = {f"params.{name}": x for name, x in plain.items()} | {f"params_ema.{name}": x for name, x in averaged.items()}
    assert all(torch.equal(x, averaged[name]) for name, x in network_of(both).state_dict().items())


@pytest.mark.parametrize(("channels", "fold", "scale"), [(12, 2, 2), (48, 4, 1)])
def test_a_folded_input_makes_the_network_one_of_a_smaller_scale(channels: int, fold: int, scale: int) -> None:
    tensors = dense_tensors(channels=channels)
    network = network_of(tensors)
    picture = as_tensor(a_picture(40, 28))
    with torch.inference_mode():
        enlarged = network(picture)
        odd = network(picture[..., :27, :39])

    assert enlarged.shape == (1, 3, 28 * scale, 40 * scale)
    assert torch.allclose(enlarged, dense_forward(tensors, picture, unshuffle=fold), atol=1e-5)
    assert odd.shape == (1, 3, 27 * scale, 39 * scale)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_compact_network_equals_its_description(scale: int) -> None:
    tensors = compact_tensors(scale=scale, convolutions=4)
    network = network_of(tensors)
    assert isinstance(network, CompactNetwork)
    assert (network.shape.features, network.shape.convolutions, network.shape.scale) == (8, 4, scale)

    picture = as_tensor(a_picture())
    with torch.inference_mode():
        assert torch.allclose(network(picture), compact_forward(tensors, picture, convolutions=4, scale=scale), atol=1e-5)


def test_the_published_networks_are_told_from_their_shapes() -> None:
    for blocks, channels, scale in ((23, 3, 4), (23, 12, 2), (6, 3, 4)):
        tensors = dense_tensors_of_full_size(blocks, channels)
        shape = network_of(tensors).shape
        assert (shape.scale, getattr(shape, "blocks", None)) == (scale, blocks)


def dense_tensors_of_full_size(blocks: int, channels: int) -> Tensors:
    sizes = {"conv_first": (64, channels), "conv_body": (64, 64), "conv_up1": (64, 64), "conv_up2": (64, 64), "conv_hr": (64, 64)}
    sizes["conv_last"] = (3, 64)
    for block in range(blocks):
        for dense in (1, 2, 3):
            sizes |= {f"body.{block}.rdb{dense}.conv{n}": (64 if n == 5 else 32, 64 + 32 * (n - 1)) for n in range(1, 6)}
    tensors = {f"{name}.weight": torch.empty(after, before, 3, 3, device="meta") for name, (after, before) in sizes.items()}
    return tensors | {f"{name}.bias": torch.empty(after, device="meta") for name, (after, _) in sizes.items()}


@pytest.mark.parametrize(
    "tensors",
    [
        {"layers.0.weight": torch.zeros(4, 4, 3, 3)},
        {name: x for name, x in dense_tensors().items() if name != "body.0.rdb2.conv3.weight"},
        {**dense_tensors(), "body.0.attention.weight": torch.zeros(8, 8)},
        {"body.0.weight": torch.zeros(8, 3, 3, 3)},
        {"model.0.weight": torch.zeros(8, 3, 3, 3)},
    ],
    ids=["unknown", "a tensor missing", "one too many", "cut off", "nothing but the first layer"],
)
def test_an_unknown_network_is_refused_with_the_known_ones_named(tensors: Tensors) -> None:
    with pytest.raises(Refused, match="RealESRGAN_x4plus"):
        network_of(tensors)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100, 257])
def test_tiles_cover_every_pixel_once_and_show_their_surroundings(length: int) -> None:
    covered = np.zeros((length, 45), dtype=int)
    for tile in tiles_of(45, length, reach_px=7, step_px=2, max_pixels=60 * 60):
        covered[tile.down.start : tile.down.end, tile.across.start : tile.across.end] += 1
        assert tile.down.read_start == max(0, tile.down.start - 12)
        assert tile.down.read_end == min(length, tile.down.end + 12)
        assert tile.down.read_start % 2 == tile.across.read_start % 2 == 0
        assert tile.read_pixels <= 64 * 64
    assert (covered == 1).all()


@pytest.mark.parametrize("scale", [1, 1.7, 2, 3, 4])
@pytest.mark.parametrize(
    "tensors", [dense_tensors(), dense_tensors(channels=12), compact_tensors(scale=2)], ids=["x4", "folded x2", "compact x2"]
)
def test_no_seam_shows_between_tiles(tensors: Tensors, scale: float) -> None:
    picture = a_picture(150, 110)
    whole = upscaled(tensors, picture, scale, tile_pixels=10**6)
    tiled = upscaled(tensors, picture, scale, tile_pixels=75 * 75)

    assert whole.size == tiled.size == (round(150 * scale), round(110 * scale))
    # Enlarging by a filter that overshoots makes two of a difference of one.
    assert greatest_difference(whole, tiled) <= (1 if scale <= network_of(tensors).shape.scale else 2)


@pytest.mark.parametrize("scale", [1, 1.5, 2, 3, 4])
def test_any_scale_is_the_networks_own_picture_resized(scale: float) -> None:
    tensors, picture = compact_tensors(scale=2), a_picture()
    own = as_picture(compact_forward(tensors, as_tensor(picture), convolutions=3, scale=2))
    wanted = own.resize((round(40 * scale), round(28 * scale)), Image.Resampling.LANCZOS)

    assert greatest_difference(upscaled(tensors, picture, scale), wanted) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (3, 2), (200, 1)])
def test_the_smallest_pictures_are_enlarged_too(size: tuple[int, int]) -> None:
    for tensors in (dense_tensors(channels=12), compact_tensors(scale=4)):
        assert upscaled(tensors, a_picture(40, 28).resize(size), 3, tile_pixels=900).size == (3 * size[0], 3 * size[1])


def installed(folder: Path, **files: Tensors) -> Assets:
    (folder / "upscalers").mkdir()
    for name, tensors in files.items():
        save_file(tensors, folder / "upscalers" / f"{name}.safetensors")
    return Assets(folder)


def test_a_file_in_half_precision_is_loaded_in_the_asked_one(tmp_path: Path) -> None:
    assets = installed(tmp_path, small={name: x.half() for name, x in dense_tensors().items()})
    model = load_upscaler(assets.get("upscaler", "small"), device=torch.device("cpu"), dtype=torch.float32)

    assert model.size_bytes == 4 * sum(x.numel() for x in dense_tensors().values())


def test_what_is_no_known_network_is_told_at_load(tmp_path: Path) -> None:
    assets = installed(tmp_path, strange={"layers.0.weight": torch.zeros(4, 4, 3, 3)})
    with pytest.raises(ModelBroken, match="'strange' can't be used"):
        load_upscaler(assets.get("upscaler", "strange"), device=torch.device("cpu"), dtype=torch.float32)


def a_studio(*, tile_pixels: int | None = None) -> Studio:
    return Studio(upscalers={"net": UpscalerModel("net", network_of(compact_tensors(scale=2)), tile_pixels=tile_pixels)})


def an_upscale(picture: Image.Image, **changes: object) -> Upscale:
    values = {"init_image": "inputs/x.png", "width": picture.width, "height": picture.height, "scale": 2, "upscaler": "net"}
    return Upscale.model_validate({**values, **changes})


def test_an_upscale_reports_each_tile_and_ends_as_the_network_made_it() -> None:
    studio, picture = a_studio(tile_pixels=75 * 75), a_picture(150, 110)
    asked = studio.ask(an_upscale(picture), picture)
    studio.draw()

    assert greatest_difference(asked.image, upscaled(compact_tensors(scale=2), picture, 2)) <= 1
    assert asked.progress[-1].step == asked.progress[-1].steps > 4
    assert [p.step for p in asked.progress] == list(range(1, asked.progress[-1].steps + 1))


def test_drawing_goes_on_between_two_tiles() -> None:
    studio, picture = a_studio(tile_pixels=60 * 60), a_picture(300, 200)
    studio.ask(an_upscale(picture), picture)
    studio.ask(a_request(steps=4))
    studio.draw()

    assert studio.order.index("done 1") < studio.order.index("done 0")
    assert "step 0" in studio.order[: studio.order.index("done 1")]


def test_a_cancelled_upscale_stops_before_its_next_tile() -> None:
    studio, picture = a_studio(tile_pixels=60 * 60), a_picture(300, 200)

    def cancel_at_the_second(progress: Progress) -> None:
        if progress.step == 2:
            asked.ticket.cancelled.set()

    asked = studio.ask(an_upscale(picture), picture, on_step=cancel_at_the_second)
    neighbour = studio.ask(a_request(steps=2))
    studio.draw()

    assert asked.results == [Stopped()]
    assert len(asked.progress) == 2
    assert greatest_difference(neighbour.image, draw_alone(a_request(steps=2))) == 0


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_drawing_that_is_enlarged_is_the_plain_drawing_enlarged(times: int) -> None:
    studio = a_studio()
    asked = studio.ask(a_request(steps=3, samples=2, upscale=times, upscaler="net"))
    studio.draw()

    (result,) = asked.results
    assert isinstance(result, Pictures)
    for seed, image in zip((7, 8), result.images, strict=True):
        plain = draw_alone(a_request(steps=3, seed=seed))
        assert greatest_difference(image, upscaled(compact_tensors(scale=2), plain, times)) <= 2 * 2
    assert asked.progress[-1] == Progress(3 * 2 + 2, 3 * 2 + 2)
    assert all(p.steps == 8 for p in asked.progress)
    assert result.scheduler == "DPMSolverMultistepScheduler"


def test_pictures_from_pictures_are_enlarged_too() -> None:
    studio, picture, mask = a_studio(), a_picture(64, 64), Image.new("L", (64, 64), 0)
    redrawn = studio.ask(an_img2img_request(upscale=2, upscaler="net"), picture)
    kept = studio.ask(an_inpaint_request(upscale=3, upscaler="net"), picture, mask)
    studio.draw()

    assert (redrawn.image.size, kept.image.size) == ((128, 128), (192, 192))
    assert greatest_difference(kept.image, upscaled(compact_tensors(scale=2), picture, 3)) <= 1


def test_who_is_enlarged_leaves_the_neighbours_in_the_batch_as_they_are() -> None:
    studio = a_studio()
    studio.ask(a_request(seed=1, upscale=2, upscaler="net"))
    neighbour = studio.ask(a_request(seed=7))
    studio.draw()

    assert greatest_difference(neighbour.image, draw_alone(a_request(seed=7))) <= 2


def test_an_upscaler_that_is_gone_fails_its_own_job_only() -> None:
    studio, picture = a_studio(), a_picture()
    gone = studio.ask(an_upscale(picture, upscaler="other"), picture)
    there = studio.ask(an_upscale(picture), picture)
    studio.draw()

    assert not isinstance(gone.results[0], Pictures)
    assert there.image.size == (80, 56)


def test_a_stopped_loop_gives_up_what_is_being_enlarged() -> None:
    studio, picture = a_studio(tile_pixels=60 * 60), a_picture(300, 200)
    asked = studio.ask(an_upscale(picture), picture, on_step=lambda _: studio.loop.stop())
    thread = threading.Thread(target=studio.draw)
    thread.start()
    thread.join(30)

    assert asked.results == [Stopped()]
    assert not thread.is_alive()


def test_what_a_whole_pipeline_draws_is_enlarged_too(tmp_path: Path) -> None:
    write_whole_folder(tmp_path / "checkpoints" / "sd3", "sd3")
    (checkpoint,) = Catalog(tmp_path, aliases={}, embedded=None).all()
    assert checkpoint.family in WHOLE_FAMILIES
    parts = load_whole(checkpoint, device=torch.device("cpu"), dtype=torch.float32, is_dtype_chosen=False)
    model = WholeModel("sd3", checkpoint.family, parts)
    studio = Studio({"sd3": model}, upscalers={"net": UpscalerModel("net", network_of(compact_tensors(scale=2)))})
    asked = studio.ask(a_request(checkpoint="sd3", steps=2, upscale=2, upscaler="net"))
    plain = studio.ask(a_request(checkpoint="sd3", steps=2))
    studio.draw()

    assert greatest_difference(asked.image, upscaled(compact_tensors(scale=2), plain.image, 2)) <= 4
