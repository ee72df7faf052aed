"""A client that gets an answer to every request or says why not, within a bounded time.

A batch of requests goes out concurrently over reused connections. What a server may do better the
next time (refused and torn connections, time-outs, 429 and 5xx, replies that make no sense) is
tried again, at another server if there is a healthy one; what it refuses (other 4xx) is not. Every
reply is read whole and checked before it counts, so that a request has one answer or none, however
often it was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlencode, urljoin

from zs_env.remote.endpoints import Endpoint, Pool, check_base_urls, host_of, is_loopback
from zs_env.remote.failures import RemoteError, TryError
from zs_env.remote.keys import ApiKey, without_key
from zs_env.remote.limits import Limits, retry_after
from zs_env.remote.loop_thread import LoopThread

try:
    import httpx
except ImportError as error:
    raise ImportError("asking a server needs httpx: pip install 'zs-env[remote]'") from error

P = TypeVar("P")
T = TypeVar("T")

_log = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 2.0
"""Below the 5 s after which uvicorn closes idle connections: one of both has to be first."""

_RETRIED_STATUSES = frozenset({408, 409, 425, 429})
_NO_SUCH_PAGE = frozenset({404, 405, 501})
_EXCERPT_LENGTH = 200
_READ_LENGTH = 4000  # of what a message may quote a part of


@dataclass(frozen=True, slots=True)
class Codec:
    """How bodies are written and read.

    Attributes:
        name: What messages call it.
        content_type: Its media type.
        encode: From a body to its bytes.
        decode: From bytes to what they say; raises ValueError or RecursionError if that is nothing.
    """

    name: str
    content_type: str
    encode: Callable[[Mapping[str, Any]], bytes]
    decode: Callable[[bytes], Any]


# Escaped to ASCII, so that lone surrogates can be sent too.
JSON: Final = Codec("JSON", "application/json", lambda body: json.dumps(body).encode(), json.loads)


@dataclass(frozen=True, slots=True)
class Probe(Generic[P]):
    """A server's health check, which also tells what it is.

    Attributes:
        path: What to GET, relative to the base URL; None means that there is nothing to ask.
        read: From the JSON reply, or None where the server has no such page, to what is known of
            the server; raises like `Call.read`.
    """

    path: str | None
    read: Callable[[Any], P]


def _know_nothing(reply: Any) -> None:
    """Return what is known of a server that is not asked what it is."""


NO_PROBE: Final[Probe[None]] = Probe(None, _know_nothing)


@dataclass(frozen=True, slots=True)
class Call(Generic[P, T]):
    """One request.

    Attributes:
        path: Where to send it, relative to the base URL; empty means just there.
        body: From what the probe found to the body, or to the query if it is sent with GET; None
            means that nothing has to be asked.
        read: From the same and the reply (None if nothing was asked) to the answer. A reply
            that makes no sense raises ArithmeticError, LookupError, TypeError or ValueError and is
            asked for again.
    """

    path: str
    body: Callable[[P], Mapping[str, Any] | None]
    read: Callable[[P, Any], T]
    method: str = "POST"


class RemoteClient(Generic[P]):
    """Asks one server, or several that do the same.

    It may be used from any thread, from inside a running event loop, and after a fork.
    """

    def __init__(
        self,
        base_urls: str | Sequence[str],
        probe: Probe[P],
        limits: Limits,
        api_key: str | ApiKey | None = None,
        codec: Codec = JSON,
    ) -> None:
        """Set up the client; nothing is asked and no key is read before the first call.

        Args:
            base_urls: The servers; calls take those that are healthy in turn.
            probe: Their health check, made before a server's first call and after its failures.
            limits: Bounds in time, tries and size.
            api_key: What all of them get as key: the name of an environment variable with a bearer
                token, or another kind of key; None, or a variable that is not set, means none.
            codec: How bodies are written and read.

        Raises:
            ValueError: If a URL is none.
        """
        self.base_urls, self.limits = check_base_urls(base_urls), limits
        self._probe, self._codec = probe, codec
        self._api_key = ApiKey(api_key) if isinstance(api_key, str) else api_key
        self._lock = threading.Lock()
        self._running: _Running[P] | None = None

    def call_all(self, calls: Sequence[Call[P, T]]) -> list[T]:
        """Return the answer to each call, in order.

        Raises:
            RemoteError: If one was not answered, or another thread closed the client meanwhile;
                the others are then given up.
            ValueError: If the environment variable holds what cannot be an API key.
        """
        if not calls:
            return []
        running = self._start()
        try:
            return running.thread.run(running.connections.answer_all(calls))
        except CancelledError:
            reason = "the connections were closed meanwhile"
        raise RemoteError(", ".join(self.base_urls), 0, reason)

    def close(self) -> None:
        """Close all connections; a later call opens new ones."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.finalizer()

    def _start(self) -> _Running[P]:
        with self._lock:
            if self._running is None or self._running.pid != os.getpid():
                self._running = self._run()
            return self._running

    def _run(self) -> _Running[P]:
        settings = _Settings(self.base_urls, self._probe, self.limits, self._codec, self._api_key)
        connections = _Connections(settings, self._api_key.read() if self._api_key else "")
        thread = LoopThread(connections.close)
        finalizer = weakref.finalize(self, thread.stop)
        return _Running(os.getpid(), thread, connections, finalizer)


@dataclass(frozen=True, slots=True)
class _Running(Generic[P]):
    """What a process holds while it uses a client."""

    pid: int
    thread: LoopThread
    connections: _Connections[P]
    finalizer: weakref.finalize[..., Any]


@dataclass(frozen=True, slots=True)
class _Settings(Generic[P]):
    """What a client was made from."""

    urls: Sequence[str]
    probe: Probe[P]
    limits: Limits
    codec: Codec
    api_key: ApiKey | None


@dataclass(slots=True)
class _Progress:
    """One call on its way: how often it was tried, and what went wrong last."""

    deadline: float
    num_tries: int = 0
    reason: str = ""


class _Connections(Generic[P]):
    """The asynchronous half of a client; everything here runs in its loop's thread."""

    def __init__(self, settings: _Settings[P], key: str) -> None:
        self._settings, self._key = settings, key
        self._key_query = settings.api_key.query(key) if settings.api_key else ""
        self._limits = limits = settings.limits
        self._pool = Pool[P](settings.urls)
        self._slots = asyncio.Semaphore(limits.max_concurrency)
        self._random = random.Random()  # jitter has to differ between processes: no seed
        self._http = httpx.AsyncClient(
            headers=_headers(settings, key),
            verify=_tls_context(),
            timeout=httpx.Timeout(None, connect=limits.connect_timeout),
            limits=httpx.Limits(
                max_connections=limits.max_concurrency
                + len(settings.urls),  # a probe needs no slot
                keepalive_expiry=_KEEP_ALIVE_SECONDS,
            ),
            # A proxy of the environment cannot reach this machine's own loopback, and one that
            # nobody needs must not even be looked at: it may need what is not installed.
            trust_env=not all(map(is_loopback, settings.urls)),
            mounts={f"all://{host_of(url)}": None for url in settings.urls if is_loopback(url)},
        )

    async def close(self) -> None:
        """Close all connections, once the calls that were cancelled have let go of them."""
        self._pool.cancel_checks()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
        await self._http.aclose()

    async def answer_all(self, calls: Sequence[Call[P, T]]) -> list[T]:
        deadline = _now() + self._limits.deadline
        tasks = [asyncio.create_task(self._answer(call, _Progress(deadline))) for call in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, call: Call[P, T], progress: _Progress) -> T:
        try:
            async with asyncio.timeout_at(progress.deadline):
                return await self._until_answered(call, progress)
        except TimeoutError:
            reason = progress.reason or self._pool.last_failure or "no reply"
        late = f"the deadline of {self._limits.deadline:g} s passed; last: {reason}"
        raise RemoteError(self._pool.urls, progress.num_tries, late)

    async def _until_answered(self, call: Call[P, T], progress: _Progress) -> T:
        while True:
            try:
                async with self._slots:
                    return await self._try(call, progress)
            except TryError as error:
                failure = error
            # Not in the clause above: as context of the last error it would show what was replied.
            await asyncio.sleep(self._pause(failure, progress))

    async def _try(self, call: Call[P, T], progress: _Progress) -> T:
        """Ask the server whose turn it is once, unless all have asked to be left alone."""
        # Chosen only now that there is a slot: since the last choice a server may have closed.
        endpoint = self._pool.choose(_now())
        if endpoint.closed_until > _now():
            raise TryError(endpoint.last_failure)
        progress.num_tries += 1
        try:
            answer = await self._ask(endpoint, call)
        except TryError as failure:
            progress.reason = f"{endpoint.url}: {self._without_key(failure.reason)}"
            self._note_failure(endpoint, failure, progress.reason)
            raise
        self._note_success(endpoint)
        return answer

    async def _ask(self, endpoint: Endpoint[P], call: Call[P, T]) -> T:
        facts = await self._check(endpoint)
        body = call.body(facts)
        if body is None:
            return call.read(facts, None)
        url = urljoin(f"{endpoint.url}/", call.path) if call.path else endpoint.url
        content = None if call.method == "GET" else self._settings.codec.encode(body)
        if content is None:
            url = f"{url}?{urlencode(body, errors='replace')}"
        timeout = self._limits.try_timeout
        response, received = await self._exchange(call.method, url, content, timeout)
        reply = _read_reply(self._settings.codec, response, received)
        return _understood(lambda: call.read(facts, reply))

    async def _check(self, endpoint: Endpoint[P]) -> P:
        """Return what the server is, from a health check that all who wait for it share."""
        if endpoint.check is None:
            endpoint.check = asyncio.create_task(self._probe_once(endpoint.url))
            endpoint.check.add_done_callback(_retrieve)
        return await asyncio.shield(endpoint.check)

    async def _probe_once(self, base_url: str) -> P:
        probe = self._settings.probe
        if probe.path is None:
            return _understood(lambda: probe.read(None))
        url, timeout = urljoin(f"{base_url}/", probe.path), self._limits.probe_timeout
        response, content = await self._exchange("GET", url, None, timeout)
        missing = response.status_code in _NO_SUCH_PAGE
        reply = None if missing else _read_reply(JSON, response, content)
        return _understood(lambda: probe.read(reply))

    async def _exchange(
        self, method: str, url: str, content: bytes | None, timeout: float
    ) -> tuple[httpx.Response, bytes]:
        """Send one request and read the whole reply.

        Raises:
            TryError: If there is no whole reply in time, or it is too long.
        """
        is_final = False
        try:
            request = self._http.build_request(method, url, content=content)
            request.url = _KeyedURL(request.url, self._key_query)
            async with asyncio.timeout(timeout):
                response = await self._http.send(request, stream=True)
                async with aclosing(response):
                    return response, await self._read_body(response)
        except TimeoutError:
            reason = f"no whole reply within {timeout:g} s"
        except (httpx.HTTPError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"
        except (httpx.InvalidURL, UnicodeError) as error:  # no such host can be, and never will
            reason, is_final = f"{type(error).__name__}: {error}", True
        raise TryError(reason, is_final=is_final)

    async def _read_body(self, response: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._limits.max_reply_bytes:
                size = self._limits.max_reply_bytes
                raise TryError(f"a reply of more than {size} bytes")
        return bytes(content)

    def _note_failure(self, endpoint: Endpoint[P], failure: TryError, reason: str) -> None:
        if endpoint.check is not None and endpoint.check.done():
            endpoint.check = None  # it may come back as another model
        if failure.is_final:
            return
        now = _now()
        if not endpoint.last_failure:
            _log.warning("%s; trying again", reason)
        endpoint.last_failure = reason
        endpoint.rests_until = now + self._limits.cool_down
        endpoint.closed_until = max(endpoint.closed_until, now + failure.retry_after)

    def _note_success(self, endpoint: Endpoint[P]) -> None:
        if endpoint.last_failure:
            _log.info("%s answers again", endpoint.url)
        endpoint.rests_until, endpoint.last_failure = 0.0, ""

    def _pause(self, failure: TryError, progress: _Progress) -> float:
        """Return the seconds to wait before the next try.

        Raises:
            RemoteError: If there is to be none.
        """
        now, limits = _now(), self._limits
        if failure.is_final or progress.num_tries >= limits.max_tries:
            status = failure.status if failure.is_final else 0
            raise RemoteError(self._pool.urls, progress.num_tries, progress.reason, status)
        closed = self._pool.opens_in(now)
        if closed and now + closed > progress.deadline:
            reason = progress.reason or failure.reason
            late = f"{reason}; it asks to wait {closed:.0f} s, beyond the deadline"
            raise RemoteError(self._pool.urls, progress.num_tries, late)
        if closed:
            return closed + limits.first_delay * self._random.random()
        if progress.num_tries % len(self._pool) and self._pool.has_healthy(now):
            return 0.0  # to another server at once, but not round and round without a pause
        return limits.backoff(max(progress.num_tries, 1), self._random.random())

    def _without_key(self, text: str) -> str:
        """Return a text in one short line, without the API key, which a server may repeat.

        What could act on a terminal, or cannot be written, is left out too.
        """
        clipped = without_key(text[:_READ_LENGTH], self._key)
        if len(text) > _READ_LENGTH:
            clipped = clipped[: -3 * len(self._key) or None]  # it may end with a part of the key
        line = " ".join("".join(c if c.isprintable() else " " for c in clipped).split())
        return line if len(line) <= _EXCERPT_LENGTH else f"{line[:_EXCERPT_LENGTH]}…"


class _KeyedURL(httpx.URL):
    """A URL that is sent with a key in its query, and written, as in the library's log, without.

    (The library's own way, the extension `target`, would send path and key to a proxy in the clear
    in place of the host that it is to connect to.)
    """

    def __init__(self, url: httpx.URL, key_query: str) -> None:
        super().__init__(url)
        mark = "&" if url.query else "?"
        self._key_part = f"{mark}{key_query}".encode() if key_query else b""

    @property
    def raw_path(self) -> bytes:
        """What a request's first line says."""
        return super().raw_path + self._key_part


def _now() -> float:
    return asyncio.get_running_loop().time()


@cache
def _tls_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reads all certificates, which takes a while


def _headers(settings: _Settings[Any], key: str) -> dict[str, str]:
    # Uncompressed, so that the bound on a reply's size holds for what it unpacks to.
    headers = {"Content-Type": settings.codec.content_type, "Accept-Encoding": "identity"}
    return headers | (settings.api_key.headers(key) if settings.api_key else {})


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at a task's error, which asyncio else logs if everybody who waited has gone."""
    if not task.cancelled():
        task.exception()


def _read_reply(codec: Codec, response: httpx.Response, content: bytes) -> Any:
    """Return what a reply says.

    Raises:
        TryError: If its status is an error, or it is not what the codec reads.
    """
    status = response.status_code
    if not 200 <= status < 300:
        raise TryError(
            f"HTTP {status}: {content.decode(errors='replace')}",
            is_final=status < 500 and status not in _RETRIED_STATUSES,
            retry_after=retry_after(response.headers.get("Retry-After")),
            status=status,
        )
    try:
        return codec.decode(content)
    except (ValueError, RecursionError):
        said = content.decode(errors="replace")
        raise TryError(f"a reply that is not {codec.name}: {said}") from None


def _understood(read: Callable[[], T]) -> T:
    """Return what `read` makes of a reply.

    Raises:
        TryError: If that is nothing.
    """
    try:
        return read()
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise TryError(f"a reply that makes no sense: {type(error).__name__}: {error}") from None
