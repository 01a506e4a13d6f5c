"""What this process counts, for Prometheus."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector, generate_latest

from sdapi.domain.job import JobStatus
from sdapi.domain.models_in_memory import ModelsInMemory

_ANSWER_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)
"""Fine for look-ups, and up to a minute for calls that are held for their picture."""
_DRAWING_BUCKETS_S = (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
"""Stands for every route and method that is none of ours: strangers must not be able to make new time series."""


class Metrics:
    """One per process, with a registry of its own. Not thread-safe in `render`: to be called on the event loop only."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._requests = Counter("sdapi_http_requests", "Requests answered", ("route", "method", "status"), registry=self._registry)
        self._answer_seconds = Histogram(
            "sdapi_http_request_seconds",
            "Time to the last byte of the answer; calls that wait for their picture included",
            ("route", "method"),
            buckets=_ANSWER_BUCKETS_S,
            registry=self._registry,
        )
        self._jobs = Counter("sdapi_jobs", "Jobs that ended in this process", ("state",), registry=self._registry)
        for status in JobStatus:
            if status.is_final:
                self._jobs.labels(status.value)  # there from the start, so that a rate over the first failure is seen
        self._drawing_seconds = Histogram(
            "sdapi_drawing_seconds", "Time a succeeded job was drawn", buckets=_DRAWING_BUCKETS_S, registry=self._registry
        )
        self._queued = Gauge("sdapi_jobs_queued", "Jobs that wait, of all processes on the database", registry=self._registry)
        self._running = Gauge("sdapi_jobs_running", "Jobs being drawn, of all processes on the database", registry=self._registry)
        self._resident = Gauge("sdapi_models_in_memory", "Checkpoints and upscalers in this process's memory", registry=self._registry)
        self._resident_bytes = Gauge("sdapi_models_in_memory_bytes", "What they take", registry=self._registry)
        self._quantized = Gauge("sdapi_models_quantized", "Those of them whose weights are in eight bits", registry=self._registry)
        self._waiting = Gauge("sdapi_models_on_host", "Those that left the device and wait in host memory", registry=self._registry)
        self._waiting_bytes = Gauge("sdapi_models_on_host_bytes", "What they take there", registry=self._registry)
        self._loading = Gauge("sdapi_models_loading", "Checkpoints and upscalers on their way into memory", registry=self._registry)
        self._database_up = Gauge("sdapi_database_up", "Whether the database answered just now", registry=self._registry)

    def request_ended(self, *, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` is a template such as `/jobs/{job_id}`, or OTHER."""
        method = method if method in _METHODS else OTHER
        self._requests.labels(route, method, str(status)).inc()
        self._answer_seconds.labels(route, method).observe(seconds)

    def job_ended(self, status: JobStatus, *, drawing_s: float | None = None) -> None:
        """Count a job that became final, with the time it was drawn where it succeeded."""
        self._jobs.labels(status.value).inc()
        if drawing_s is not None:
            self._drawing_seconds.observe(drawing_s)

    def render(self, *, queued: int | None, running: int | None, models: ModelsInMemory | None = None) -> bytes:
        """Everything, in Prometheus's text format. None for both numbers when the database did not answer."""
        models = models or ModelsInMemory()
        self._resident.set(len(models.resident))
        self._resident_bytes.set(models.resident_bytes)
        self._quantized.set(len(models.quantized))
        self._waiting.set(len(models.on_host))
        self._waiting_bytes.set(models.host_bytes)
        self._loading.set(len(models.loading))
        self._database_up.set(queued is not None)
        self._queued.set(math.nan if queued is None else queued)
        self._running.set(math.nan if running is None else running)
        return generate_latest(self._registry)
