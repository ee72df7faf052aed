"""Several servers that do the same: whose turn it is, and who is to be left alone for now.

Times are seconds of one monotonic clock, which the caller reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Generic, TypeVar
from urllib.parse import urlsplit

P = TypeVar("P")


def check_base_urls(urls: str | Sequence[str]) -> tuple[str, ...]:
    """Return base URLs, without a slash at the end.

    Args:
        urls: One or more, http or https, with nothing secret in them.

    Raises:
        ValueError: If there is none, or one is more or less than scheme, host, port and path.

    Example:
        >>> check_base_urls("http://localhost:8000/v1/")
        ('http://localhost:8000/v1',)
    """
    found = tuple(_check_base_url(url) for url in ([urls] if isinstance(urls, str) else urls))
    if not found:
        raise ValueError("`base_urls` must name at least one server, got none")
    return found


def _check_base_url(url: str) -> str:
    wanted = "`base_urls` must be like http://host:port/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Neither the URL nor the reason is repeated: what is left out below may be a secret, and a
        # password with a slash in it is taken for a port.
        raise ValueError(f"{wanted}, got one that cannot be read") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{wanted}, without user, password, query or fragment")
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not url.isprintable()
        or " " in parts.netloc
    ):
        raise ValueError(f"{wanted}, got {url!r}")
    return url.rstrip("/")


def host_of(url: str) -> str:
    """Return the host in a base URL, with the brackets of an IPv6 address.

    Example:
        >>> host_of("http://[::1]:8000/v1")
        '[::1]'
    """
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def is_loopback(url: str) -> bool:
    """Return whether a base URL leads to this machine, by its name alone.

    Example:
        >>> [
        ...     is_loopback(f"http://{host}:80")
        ...     for host in ("127.8.0.1", "[::1]", "a.localhost", "a")
        ... ]
        [True, True, True, False]
    """
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@dataclass(slots=True, eq=False)
class Endpoint(Generic[P]):
    """One server.

    Attributes:
        url: Its base URL.
        check: The health check that says what the server is; None means that one is due.
        rests_until: It failed, so that it is avoided until then while another is healthy.
        closed_until: It asked not to be called before then.
        last_failure: What went wrong last; empty once it answers again.
    """

    url: str
    check: asyncio.Task[P] | None = None
    rests_until: float = 0.0
    closed_until: float = 0.0
    last_failure: str = ""

    def is_healthy(self, now: float) -> bool:
        """Return whether it neither failed lately nor asked to be left alone."""
        return max(self.rests_until, self.closed_until) <= now


class Pool(Generic[P]):
    """The servers, taken in turn."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Begin with all of them healthy."""
        self._endpoints = deque(Endpoint[P](url) for url in urls)

    def __len__(self) -> int:
        """Return the number of servers."""
        return len(self._endpoints)

    @property
    def urls(self) -> str:
        """All base URLs, as one text."""
        return ", ".join(sorted(endpoint.url for endpoint in self._endpoints))

    @property
    def last_failure(self) -> str:
        """What went wrong last, at any server that has not answered since; may be empty."""
        return next((e.last_failure for e in self._endpoints if e.last_failure), "")

    def choose(self, now: float) -> Endpoint[P]:
        """Return the next healthy server in turn; if there is none, the first to be one again."""
        for _ in range(len(self._endpoints)):
            endpoint = self._endpoints[0]
            self._endpoints.rotate(-1)
            if endpoint.is_healthy(now):
                return endpoint
        return min(self._endpoints, key=lambda e: (max(e.closed_until, now), e.rests_until))

    def cancel_checks(self) -> None:
        """Cancel all health checks."""
        for endpoint in self._endpoints:
            if endpoint.check is not None:
                endpoint.check.cancel()

    def has_healthy(self, now: float) -> bool:
        """Return whether any server is healthy."""
        return any(endpoint.is_healthy(now) for endpoint in self._endpoints)

    def opens_in(self, now: float) -> float:
        """Return the seconds until some server may be called at all; 0 if one may be now."""
        return max(0.0, min(endpoint.closed_until for endpoint in self._endpoints) - now)
