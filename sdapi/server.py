"""uvicorn's server, told to wind down in our order on SIGTERM."""

from __future__ import annotations

from types import FrameType

import uvicorn


class Server(uvicorn.Server):
    """On the first signal the services stop claiming and held calls answer `processing`; only then uvicorn waits for connections."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn.Server."""
        services = getattr(getattr(self.config.app, "state", None), "services", None)
        if services is not None:
            services.begin_stop()
        super().handle_exit(sig, frame)
