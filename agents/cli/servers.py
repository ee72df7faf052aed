"""Whether the servers that an engine's name leads to are there at all, before anything is begun."""

from __future__ import annotations

from typing import Final

from zs_env.remote.endpoints import is_loopback
from zs_env.search.names import read_place

_SECONDS: Final = 10.0


def check_servers(engine: str) -> None:
    """Check that one of an engine's servers can be reached; an engine without any passes.

    Any reply will do, also one that refuses; the request holds no key.

    Args:
        engine: The engine's name.

    Raises:
        ValueError: If none takes a connection.
    """
    scheme, colon, rest = engine.partition(":")
    urls = read_place(rest).urls if colon and rest.startswith(("http://", "https://")) else ()
    reasons = [reason for reason in map(_failure, urls) if reason]
    if urls and len(reasons) == len(urls):
        raise ValueError(
            f"`engine` must name a server that replies, got {scheme}:{','.join(urls)}: {reasons[0]}"
        )


def _failure(url: str) -> str:
    """Return why a server cannot be reached; empty if it can."""
    import httpx

    try:
        # A proxy of the environment cannot reach this machine's own loopback.
        httpx.get(url, timeout=_SECONDS, trust_env=not is_loopback(url))
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return f"{type(error).__name__}: {error}"
    except httpx.TransportError:
        pass  # it is there, and busy or odd: the engine's own client tells what is wrong
    return ""
