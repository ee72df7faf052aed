"""A server's life: it takes a port, says that it is ready, and ends in good order."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


def bind(host: str, port: int) -> socket.socket:
    """Return a socket with an address, which does not listen yet.

    Args:
        host: A name or an address of this machine.
        port: 0 means any that is free.

    Raises:
        OSError: If there is no such host, or the port is taken.
        ValueError: If it cannot be a port.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"`port` must be in [0, 65535], got {port!r}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OSError(
            f"`host` must be an address of this machine, got {host!r}: {error}"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot serve at {host}, port {port}: {error.strerror or error}") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the base URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Return whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    app: Any,
    bound: socket.socket,
    on_ready: Callable[[], None] = lambda: None,
    drain_seconds: int | None = None,
) -> None:
    """Serve an ASGI application until SIGTERM or SIGINT.

    New connections are then refused, and what was asked before is answered. A second SIGINT ends
    that too.

    Args:
        app: The application.
        bound: Where to listen; it is closed in the end.
        on_ready: Called once clients can connect.
        drain_seconds: Seconds that answering may take in the end; None means any.
    """
    config = uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
    )
    _Server(config, on_ready).run([bound])


class _Server(uvicorn.Server):
    """uvicorn's server, which would end a process by the signal that stopped it, not with 0."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        stops = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in stops}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
