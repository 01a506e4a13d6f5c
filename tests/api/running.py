"""The real application with its real lifespan and the embedded model, in this process, on a database and folder of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import httpx
from PIL import Image

from sdapi.app import create_app
from sdapi.domain.progress import Progress
from sdapi.services import Services
from sdapi.settings import Settings

T = TypeVar("T")

HOST = "http://sdapi.test"


async def eventually(look: Callable[[], Awaitable[T]]) -> T:
    """What `look` returns once that is true; a test that waits in vain fails after a minute instead of hanging."""
    async with asyncio.timeout(60):
        while not (seen := await look()):
            await asyncio.sleep(0.02)
    return seen


@dataclass
class Running:
    """A running server: a client with a valid key, one without, and the services for looking behind the scenes."""

    client: httpx.AsyncClient
    stranger: httpx.AsyncClient
    services: Services
    settings: Settings

    async def picture(self, url: str) -> Image.Image:
        """The picture at a URL an answer gave."""
        response = await self.stranger.get(url)
        assert response.status_code == 200, response.text
        return Image.open(BytesIO(response.content))

    async def drawn(self, path: str = "/sd/txt2img", **body: object) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        response = await self.client.post(path, json={"prompt": "a red circle on a blue background", "width": "64", "height": "64", **body})
        answer: dict[str, Any] = response.json()
        if answer["status"] == "processing":  # a busy machine took longer than the call was held
            answer = await self.until(answer["id"])
        assert answer["status"] == "success", answer
        return answer

    async def drawn_eventually(self, body: dict[str, Any]) -> int:
        """The id of a job that has succeeded, on a server that doesn't hold calls."""
        job_id: int = (await self.client.post("/sd/txt2img", json=body)).json()["id"]
        await self.until(job_id)
        return job_id

    async def drawing(self, job_id: int) -> Progress:
        """How far the job is, once its first step is done. It must be long enough to be caught at it."""

        async def look() -> Progress | None:
            job = await self.services.jobs.fetch(job_id, client_id=None)
            assert not job.status.is_final, "it ended before anybody looked"
            return self.services.jobs.progress(job_id)

        progress = await eventually(look)
        assert progress is not None
        return progress

    async def until(self, job_id: int, *, statuses: tuple[str, ...] = ("success",)) -> dict[str, Any]:
        """Poll fetch, as clients do, until the status is one of these."""
        for _ in range(1200):
            answer: dict[str, Any] = (await self.stranger.post("/sd/fetch", json={"id": job_id})).json()
            if answer["status"] in statuses:
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(answer)


def settings_for(data_dir: Path, **changes: object) -> Settings:
    """Settings of a test server: nothing from the environment or a .env file, quick housekeeping."""
    values: dict[str, Any] = {
        "data_dir": data_dir,
        "models_dir": data_dir / "models",
        "allow_private_urls": True,
        "heartbeat_s": 0.2,
        "stale_after_s": 1.0,
        "torch_threads": 1,
        **changes,
    }
    return Settings(_env_file=None, **values)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """The application from lifespan start to lifespan end."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        services: Services = app.state.services
        _, key = await services.api_keys.create("test", "user")
        transport = httpx.ASGITransport(app=app)
        async with (
            httpx.AsyncClient(transport=transport, base_url=HOST, headers={"X-API-KEY": key}, timeout=60) as client,
            httpx.AsyncClient(transport=transport, base_url=HOST, timeout=60) as stranger,
        ):
            yield Running(client, stranger, services, settings)
