"""What a server counts and times, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from zs_env.serve.batcher import EngineCall

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self, queue_depth: Callable[[], float]) -> None:
        """Begin at zero; `queue_depth` returns the number of queries that wait."""
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "zerosearch_requests",
            "Requests, by contract and HTTP status; 499 is a client that went away.",
            ["contract", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "zerosearch_request_seconds",
            "Time from a request's head to its reply.",
            ["contract"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "zerosearch_batch_size", "Queries in a call of the engine.", buckets=_SIZES,
            registry=registry,
        )  # fmt: skip
        self._engine_seconds = Histogram(
            "zerosearch_engine_seconds", "Time of a call of the engine.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._engine_failures = Counter(
            "zerosearch_engine_failures", "Calls of the engine that raised.", registry=registry
        )
        depth = Gauge("zerosearch_queue_depth", "Queries that wait.", registry=registry)
        depth.set_function(queue_depth)

    def note_request(self, contract: str, status: int, seconds: float) -> None:
        """Count a request that is over."""
        self._requests.labels(contract, str(status)).inc()
        self._request_seconds.labels(contract).observe(seconds)

    def note_call(self, call: EngineCall) -> None:
        """Count a call of the engine that is over."""
        self._batch_size.observe(call.num_requests)
        self._engine_seconds.observe(call.seconds)
        if call.failed:
            self._engine_failures.inc()

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self._registry)
