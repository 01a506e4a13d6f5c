"""On a CUDA device: half precision, the same loop, pictures that show what was asked."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from recipe.detector import detect

from sdapi.catalog import Assets, Catalog, embedded_model_dir
from sdapi.domain.device_options import DeviceOptions
from sdapi.pipelines.device_host import open_loop
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import load_checkpoint
from sdapi.pipelines.upscalers.architecture import network_of
from sdapi.pipelines.upscalers.model import UpscalerModel
from tests.pipelines.drawing import Studio, a_request, greatest_difference
from tests.pipelines.upscaler_nets import dense_tensors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def demo_on_cuda() -> UnetModel:
    folder = embedded_model_dir()
    assert folder is not None
    catalog = Catalog(folder.parent, aliases={}, embedded=folder)
    return UnetModel("demo", load_checkpoint(catalog.get("demo"), device=torch.device("cuda"), dtype=torch.float16))


def test_half_precision_rows_drawn_together_show_what_was_asked() -> None:
    studio = Studio({"demo": demo_on_cuda()})
    jobs = [studio.ask(a_request(seed=seed, width=128, height=128, steps=20)) for seed in range(8)]
    studio.draw()
    for job in jobs:
        found = detect(job.image)
        assert (found.background, found.colour, found.shape) == ("blue", "red", "circle")


def test_a_row_differs_little_from_the_same_row_alone() -> None:
    model = demo_on_cuda()
    together = Studio({"demo": model})
    first = together.ask(a_request(seed=1, width=128, height=128, steps=20))
    for seed in range(2, 6):
        together.ask(a_request(seed=seed, width=128, height=128, steps=20))
    together.draw()
    alone = Studio({"demo": model})
    lone = alone.ask(a_request(seed=1, width=128, height=128, steps=20))
    alone.draw()
    assert greatest_difference(first.image, lone.image) <= 24


def test_the_device_is_chosen_by_itself() -> None:
    folder = embedded_model_dir()
    assert folder is not None
    catalog = Catalog(folder.parent, aliases={}, embedded=folder)
    loop = open_loop(catalog, Assets(folder.parent), DeviceOptions("auto", "auto", 0, 16, 2**33))
    loop.stop()
    loop.run()


def test_an_upscaler_in_half_precision_makes_the_same_picture_as_on_the_cpu() -> None:
    picture = Image.effect_noise((300, 200), 60).convert("RGB")
    made = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        tensors = {name: tensor.to(device, dtype) for name, tensor in dense_tensors(blocks=3).items()}
        model = UpscalerModel("net", network_of(tensors))
        row = model.begin(picture.size, 4, picture)
        while not row.sampler.finished:
            model.advance(row, model.predict([row])[0])
        made.append(model.decode(row))
    assert greatest_difference(*made) <= 4
