"""What requests add to a model is read beside the drawing, and shares one budget with the models."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from pathlib import Path

import pytest

from sdapi.catalog import Assets
from sdapi.domain.progress import Progress
from sdapi.pipelines.families.unet import UnetModel
from sdapi.pipelines.loading.loader import quiet_loading
from sdapi.pipelines.memory.budget import Memory
from sdapi.pipelines.scheduling.tickets import Pictures, Stopped

from .drawing import Studio, a_request, demo_parts, draw_alone, greatest_difference
from .lora_files import a_lora, install, kohya


@pytest.fixture
def assets(tmp_path: Path) -> Assets:
    install(tmp_path, "moxin", kohya(a_lora(1)))
    install(tmp_path, "sharp", kohya(a_lora(2)))
    vae = copy.deepcopy(demo_parts().vae)
    vae.decoder.conv_out.bias.data -= 0.3
    vae.save_pretrained(tmp_path / "vaes" / "dark")
    return Assets(tmp_path)


def test_neighbours_are_drawn_while_a_file_is_read(assets: Assets) -> None:
    studio = Studio({"demo": UnetModel("demo", demo_parts(), assets)})
    held = ExitStack()

    def let_it_be_read(progress: Progress) -> None:
        if progress.step == 5:
            held.close()

    slow = studio.ask(a_request(vae="dark"))
    neighbour = studio.ask(a_request(seed=2, steps=8), on_step=let_it_be_read)
    held.enter_context(quiet_loading())  # as if another model were being built: no VAE can be read meanwhile
    studio.draw()
    assert studio.order[:5] == ["step 1"] * 5
    assert isinstance(slow.results[0], Pictures)
    assert greatest_difference(slow.image, draw_alone(a_request())) > 20, "it was drawn with the VAE in the end"
    assert greatest_difference(neighbour.image, draw_alone(a_request(seed=2, steps=8))) <= 2


def test_a_job_that_is_cancelled_while_a_file_is_read_ends_at_once(assets: Assets) -> None:
    studio = Studio({"demo": UnetModel("demo", demo_parts(), assets)})
    waiting = studio.ask(a_request(vae="dark"))
    studio.ask(a_request(seed=2), on_step=lambda _: waiting.ticket.cancelled.set())
    with quiet_loading():
        studio.draw()
    assert isinstance(waiting.results[0], Stopped)


def reads(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The files that were read, by their first two words."""
    return [
        " ".join(vars(record)["model"].split()[:2])
        for record in caplog.records
        if record.message == "model loaded" and "model" in vars(record)
    ]


@pytest.mark.parametrize(
    ("budget_bytes", "expected"), [(2**40, ["lora moxin", "lora sharp"]), (1, ["lora moxin", "lora sharp", "lora moxin"])]
)
def test_what_is_added_leaves_when_the_one_budget_is_spent(
    assets: Assets, caplog: pytest.LogCaptureFixture, budget_bytes: int, expected: list[str]
) -> None:
    caplog.set_level("INFO", "sdapi.pipelines.memory.residency")
    model = UnetModel("demo", demo_parts(), assets, Memory(budget_bytes))
    pictures = []
    for name in ("moxin", "sharp", "moxin"):
        studio = Studio({"demo": model})
        job = studio.ask(a_request(loras=[{"id": name}], steps=2))
        studio.draw()
        pictures.append(job.image)
    assert [read for read in reads(caplog) if read.startswith("lora")] == expected
    assert pictures[0].tobytes() == pictures[2].tobytes() != pictures[1].tobytes()


def test_what_several_jobs_ask_for_is_read_once(assets: Assets, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sdapi.pipelines.memory.residency")
    studio = Studio({"demo": UnetModel("demo", demo_parts(), assets, Memory(1))})
    for seed in range(3):
        studio.ask(a_request(loras=[{"id": "moxin"}], seed=seed))
    studio.draw()
    assert [read for read in reads(caplog) if read.startswith("lora")] == ["lora moxin"]
