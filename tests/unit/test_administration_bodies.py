"""What administration calls send is read in every spelling, refused in sentences, and told as documented."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdapi.dialects import administration as told
from sdapi.dialects.administration import DeleteImageBody, LoadModelBody, LoadVaeBody, ModelKind
from sdapi.dialects.base import rejecting
from sdapi.dialects.wire_types import WireBody
from sdapi.domain.errors import InvalidRequest
from sdapi.machine import Machine

GOLDEN = Path(__file__).parents[1] / "golden"

BODIES: dict[str, type[WireBody]] = {
    "enterprise/load_model": LoadModelBody,
    "enterprise/load_vae": LoadVaeBody,
    "enterprise/verify_model": told.ModelBody,
    "enterprise/delete_model": told.ModelBody,
    "enterprise/update_s3": told.S3Body,
    "enterprise/upload_image": told.UploadImageBody,
    "enterprise/delete_image": DeleteImageBody,
    "enterprise/nsfw_image_check": told.CheckImageBody,
    "v3/v3_base64_crop": told.CropBody,
    "v3/v3_delete_image": DeleteImageBody,
    "v3/v3_nsfw_image_check": told.CheckImageBody,
}
WORDS = st.sampled_from(["yes", "no", "null", "", "0", "lora", "png", "acme/x", "\x00", "\ud800", "http://[", "../x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@dataclass(frozen=True)
class Coming:
    """A download, as far as it is told."""

    kind: ModelKind = "checkpoint"
    model_id: str = "dreamy"
    status: str = "installed"
    bytes_done: int = 5
    bytes_total: int | None = 10
    sha256: str | None = "ab"
    error: str | None = None


@pytest.mark.parametrize("sample", BODIES)
def test_the_documented_request_is_read(sample: str) -> None:
    body = json.loads((GOLDEN / f"{sample}_request.json").read_text())
    with rejecting():
        BODIES[sample].model_validate(body)


@given(data=st.data())
def test_any_json_at_all_is_read_or_refused_in_sentences(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(sorted(BODIES)).map(BODIES.__getitem__))
    names = [*body.model_fields, "model_type", "model_category"]
    fields = data.draw(st.dictionaries(st.sampled_from(names), VALUES))
    problems: dict[str, list[str]] = {}
    try:
        with rejecting():
            read = body.model_validate(fields)
        if isinstance(read, DeleteImageBody | LoadModelBody | LoadVaeBody):
            read.asked()
    except InvalidRequest as refusal:
        problems = refusal.problems
    assert all(sentence.endswith(".") for sentences in problems.values() for sentence in sentences)


@pytest.mark.parametrize(
    ("spelt", "kind"),
    [
        ({}, "checkpoint"),
        ({"model_type": "huggingface"}, "checkpoint"),
        ({"model_type": "custom_ckpt"}, "checkpoint"),
        ({"model_type": "LoRA"}, "lora"),
        ({"model_type": "embeddings"}, "embedding"),
        ({"model_category": "stable_diffusion_xl"}, "checkpoint"),
        ({"model_category": "controlnet"}, "controlnet"),
        ({"model_type": None, "model_category": "lora"}, "lora"),
    ],
)
def test_every_kind_of_model_is_known_by_the_hosted_services_words(spelt: dict[str, object], kind: str) -> None:
    body: dict[str, Any] = {"url": " acme/x ", "model_id": " x ", "webhook": "0", **spelt}
    asked = LoadModelBody.model_validate(body).asked()
    assert (asked.kind, asked.url, asked.model_id, asked.webhook) == (kind, "acme/x", "x", None)


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ("http://here/images/generations/a-0.png", ("generations/a-0.png",)),
        ("https://b.s3.amazonaws.com/made/here/sd/0-a.png?x=1", ("sd/0-a.png",)),
        ("/images/temp/a.png", ("temp/a.png",)),
        ("a.png", ("generations/a.png", "sd/a.png", "temp/a.png")),
        ("http://here/images/inputs/a.png", ()),
        ("../../secret.key", ()),
        ("..", ()),
        ("http://[", ()),
        ("", ()),
    ],
)
def test_a_picture_is_meant_by_its_address_its_path_or_its_file_name(image: str, names: tuple[str, ...]) -> None:
    assert told.names_meant(image) == names


@pytest.mark.parametrize(("given_id", "asked"), [(5, 5), ("5", 5), ("5.0", 5), ("x", None), (0, None), (2**31, None), (True, None)])
def test_an_id_may_be_text_and_what_is_none_is_nobodys(given_id: object, asked: int | None) -> None:
    assert DeleteImageBody.model_validate({"request_id": given_id}).asked() == asked


def test_a_refusal_names_the_fields_as_the_call_spells_them() -> None:
    with pytest.raises(InvalidRequest) as refused, told.renaming({"url": "vae_url"}):
        raise InvalidRequest({"url": ["The url must be an https URL."], "webhook": ["The webhook is not a URL."]})
    assert refused.value.problems == {"vae_url": ["The vae_url must be an https URL."], "webhook": ["The webhook is not a URL."]}


def test_a_webhook_is_told_how_a_download_ended() -> None:
    loaded = told.download_webhook_body(Coming())
    assert loaded == {"status": "success", "model_id": "dreamy", "model_type": "checkpoint", "message": "model loaded", "sha256": "ab"}
    assert told.download_webhook_body(Coming(kind="vae"))["message"] == "VAE loaded"
    failed = told.download_webhook_body(Coming(status="failed", sha256=None, error="The source has no such file."))
    assert (failed["status"], failed["message"]) == ("failed", "The source has no such file.")


def test_a_model_that_is_not_there_yet_shows_how_far_it_has_come() -> None:
    answer = told.verified(exists=False, download=replace(Coming(), status="running"))
    assert answer.status == 404
    assert answer.body["status"] == "error"
    download = answer.body["download"]
    assert isinstance(download, dict)
    assert (download["state"], download["progress"]) == ("running", 0.5)
    unknown = told.verified(exists=False, download=replace(Coming(), status="running", bytes_total=None)).body["download"]
    assert isinstance(unknown, dict)
    assert unknown["progress"] is None


def test_the_machine_tells_of_disks_whose_folders_are_not_there_yet(tmp_path: Path) -> None:
    look = Machine("cpu", tmp_path / "models" / "x", tmp_path / "data", datetime(2030, 1, 1, tzinfo=UTC)).look()
    assert look.device == "cpu"
    assert (look.models_disk_free_bytes or 0) > 0
    assert (look.process_memory_bytes or 0) > 0
