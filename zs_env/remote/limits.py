"""How long, how often and how much: the bounds of everything that is asked of a server."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

MAX_RETRY_AFTER: Final = 3600.0
"""Seconds for which a server is left alone at most, however long it asks to be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a client; the defaults outlive a model server's restart of a minute or more.

    Attributes:
        max_concurrency: Requests under way at once.
        connect_timeout: Seconds until a connection must stand.
        probe_timeout: Seconds that a health check may take.
        try_timeout: Seconds that one request may take, from sending to the reply's last byte.
        deadline: Seconds that one batch may take, with all its tries and pauses.
        max_tries: Tries of one request.
        first_delay: Longest pause in seconds after a first failure; it doubles with every other.
        longest_delay: Bound in seconds of that doubling.
        cool_down: Seconds for which a server that failed is avoided while another is healthy.
        max_reply_bytes: Where a reply is cut off and counts as broken.

    Raises:
        ValueError: If one is not positive.
    """

    max_concurrency: int = 64
    connect_timeout: float = 5.0
    probe_timeout: float = 10.0
    try_timeout: float = 120.0
    deadline: float = 300.0
    max_tries: int = 20
    first_delay: float = 0.5
    longest_delay: float = 15.0
    cool_down: float = 10.0
    max_reply_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"`{field.name}` must be greater than 0, got {value!r}")

    def backoff(self, num_failures: int, draw: float) -> float:
        """Return the pause after a request's failure: exponential, with full jitter.

        Args:
            num_failures: Failures so far, at least 1.
            draw: Uniform in [0, 1); clients that failed together must not come back together.

        Returns:
            Seconds.

        Example:
            >>> [Limits().backoff(num, 1.0) for num in (1, 2, 3, 10)]
            [0.5, 1.0, 2.0, 15.0]
        """
        doublings = min(num_failures - 1, 60)  # more would overflow, and change nothing
        return draw * min(self.longest_delay, self.first_delay * 2.0**doublings)


def retry_after(value: str | None, now: datetime | None = None) -> float:
    """Return the seconds that a `Retry-After` header asks for; 0 without a readable one.

    Args:
        value: A number of seconds or an HTTP date.
        now: What a date is measured from; None means the clock.

    Example:
        >>> retry_after("7"), retry_after(None), retry_after("soon"), retry_after("-1")
        (7.0, 0.0, 0.0, 0.0)
        >>> retry_after("Wed, 21 Oct 2015 07:28:00 GMT", datetime(2015, 10, 21, 7, 27, tzinfo=UTC))
        60.0
    """
    if value is None:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value, now or datetime.now(UTC))
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else 0.0  # NaN is not readable either


def _seconds_until(date: str, now: datetime) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, OverflowError):
        return 0.0
    return ((then if then.tzinfo else then.replace(tzinfo=UTC)) - now).total_seconds()
