"""For the tests of the hosted dialects: the samples, jobs made from what was asked, and what differs between two JSON shapes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdapi.dialects.base import Asked, Dialect, Endpoint, ReadLimits
from sdapi.domain.generation import GENERATION_JSON
from sdapi.domain.job import Job, JobStatus

GOLDEN = Path(__file__).parents[1] / "golden"
NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
LIMITS = ReadLimits(max_side_px=1024)
TOKEN = "05c3260d-6a2e-4aa5-82f0-e952f2a5fa10"
PENDING = [JobStatus.QUEUED, JobStatus.RUNNING]
ABSENT = "absent"


def golden(dialect: str, stem: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads((GOLDEN / dialect / f"{stem}.json").read_text())
    return sample


def endpoint_at(dialect: Dialect, path: str) -> Endpoint:
    return next(endpoint for endpoint in dialect.ENDPOINTS if endpoint.path == path)


def parse(dialect: Dialect, path: str, body: dict[str, Any]) -> Asked:
    return endpoint_at(dialect, path).parse(body, LIMITS)


def job_of(dialect: Dialect, asked: Asked, **changes: Any) -> Job:
    """A succeeded job as the queue would have made it of `asked`; say only what the test is about."""
    job = Job(
        id=12202888,
        client_id=7,
        dialect=dialect.NAME,
        request=GENERATION_JSON.validate_python({"kind": asked.kind, **_values(asked)}),
        status=JobStatus.SUCCEEDED,
        cost=1.0,
        output_names=dialect.output_names(asked, TOKEN, NOW),
        public_url="http://here",
        echo={**asked.echo, "endpoint": asked.endpoint, "model_id": asked.model_id or "demo", "file_prefix": TOKEN},
        attempts=1,
        cancel_requested=False,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
        generation_time_s=6.53,
        error=None,
        files_removed=False,
        is_temporary=asked.temp,
    )
    return replace(job, **changes)


def sample_job(dialect: Dialect, path: str, **changes: Any) -> Job:
    """The job of the sample request of that path."""
    endpoint = endpoint_at(dialect, path)
    return job_of(dialect, endpoint.parse(golden(dialect.NAME, f"{endpoint.sample}_request"), LIMITS), **changes)


def differences(sample: Any, told: Any, at: str = "") -> dict[str, tuple[str, str]]:
    """Where keys or types differ, with the type in the sample and the type told; whole and broken numbers are told apart."""
    if isinstance(sample, dict) and isinstance(told, dict):
        found: dict[str, tuple[str, str]] = {}
        for key in sample.keys() | told.keys():
            inner = f"{at}.{key}" if at else key
            if key in sample and key in told:
                found |= differences(sample[key], told[key], inner)
            else:
                found[inner] = (_type(sample[key]), ABSENT) if key in sample else (ABSENT, _type(told[key]))
        return found
    if isinstance(sample, list) and isinstance(told, list) and sample and told:
        return differences(sample[0], told[0], f"{at}[]")
    return {} if type(sample) is type(told) else {at: (_type(sample), _type(told))}


def _type(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _values(asked: Asked) -> dict[str, Any]:
    stored: dict[str, Any] = {picture.role: f"inputs/{picture.role}.png" for picture in asked.pictures}
    stored |= {"output_format": asked.output_format, "output_quality": asked.output_quality}
    if asked.kind == "upscale":
        size = {"width": 64, "height": 64}
        return stored | size | {"scale": asked.scale, "upscaler": asked.model_id or "esrgan", "face_enhance": asked.face_enhance}
    same = "prompt negative_prompt width height samples scheduler use_karras_sigmas clip_skip panorama self_attention highres_fix upscale"
    values = stored | {name: getattr(asked, name) for name in same.split()}
    values |= {"token_merging": bool(asked.token_merging)}
    values |= {"checkpoint": "demo", "multi_lingual": bool(asked.multi_lingual), "seed": 1793745243 if asked.seed is None else asked.seed}
    values |= {"steps": asked.steps or asked.default_steps, "guidance_scale": asked.guidance_scale or 7.5}
    if asked.kind == "text2video":
        return values | {"seconds": asked.seconds}
    if asked.kind == "controlnet":
        led = "controlnet_models controlnet_type auto_hint guess_mode conditioning_scales"
        values |= {name: getattr(asked, name) for name in led.split()}
    return values | ({} if asked.kind == "txt2img" else {"strength": asked.strength})
