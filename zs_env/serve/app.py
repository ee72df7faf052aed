"""The HTTP shell: who may ask, how much, and what an error looks like.

Every error is `{"error": …}`, with `"field"` where one is to blame. An engine's failure is status
503 and never a document.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from zs_env.checks import check_count
from zs_env.search.engine import Document, SearchEngine, SearchEngineError, SearchRequest
from zs_env.search.neutralise import neutralise_documents
from zs_env.search.registry import search_all
from zs_env.serve.batcher import Batcher, BatchLimits, Documents, QueueFullError, is_unanswerable
from zs_env.serve.contracts import (
    Asked,
    ContractError,
    Rules,
    is_msgpack,
    read_request,
    write_reply,
)
from zs_env.serve.metrics import MEDIA_TYPE, Metrics

_log = logging.getLogger(__name__)

TOKEN_VARIABLE: Final = "ZS_SERVE_TOKEN"
PATH: Final = "/retrieve"

_URL: Final = re.compile(r"https?://[^\s,;'\"<>()]+(?<![.:])")
_CLIENT_GONE: Final = 499  # nobody reads it; the metrics tell it from an answer
_RETRY_SECONDS: Final = 1
_BODY_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 5.0
_UNBOUNDED: Final = 1 << 62
_HANG_UP: Final = {"Connection": "close"}
"""For answers to a request that is not read to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Everything about a server but its address.

    Attributes:
        name: What the engine is called in `/health`.
        rules: What a request may hold.
        batches: How requests are gathered.
        max_body_bytes: Bytes of a request's body at most.
        neutralise: Whether what could act on an agent or its environment is taken out of documents.
        token: What clients must send as bearer token; empty means that all may ask.

    Raises:
        ValueError: If `max_body_bytes` is less than 1.
    """

    name: str = ""
    rules: Rules = field(default_factory=Rules)
    batches: BatchLimits = field(default_factory=BatchLimits)
    max_body_bytes: int = 8 << 20
    neutralise: bool = True
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_count("max_body_bytes", self.max_body_bytes, minimum=1)


def read_token(environ: Mapping[str, str] = os.environ) -> str:
    """Return the bearer token that `ZS_SERVE_TOKEN` holds; an empty text if it is not set.

    Raises:
        ValueError: If it is set to what cannot be a token. An empty one would let everybody in
            where somebody meant to keep them out.
    """
    token = environ.get(TOKEN_VARIABLE)
    if token is None:
        return ""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"`{TOKEN_VARIABLE}` must be printable ASCII without spaces, or not set")
    return token


def make_app(engine: SearchEngine, config: ServeConfig | None = None) -> FastAPI:
    """Return the server as an ASGI application; its engine's thread lives as long as its lifespan.

    Args:
        engine: What answers; called from one thread only.
        config: Everything else.
    """
    service = Service(engine, config or ServeConfig())
    app = FastAPI(
        lifespan=service.lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers={HTTPException: _http_error},
    )
    app.add_route("/health", service.health, methods=["GET"])
    app.add_route("/metrics", service.metrics, methods=["GET"])
    # GEM takes whatever URL it is given.
    app.add_route("/{path:path}", service.retrieve, methods=["POST"])
    return app


class RefusalError(Exception):
    """A request that gets an error instead of documents."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """Return what the client gets."""
        where = {} if self.field is None else {"field": self.field}
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"error": message, **where}, self.status, self.headers)


async def _http_error(http: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class Service:
    """One engine and its clients."""

    def __init__(self, engine: SearchEngine, config: ServeConfig) -> None:
        """Set up everything but the thread, which `lifespan` starts and ends."""
        self._engine, self._config = engine, config
        self._batcher: Batcher | None = None
        self._metrics = Metrics(lambda: len(self._batcher or ()))

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Hold the thread that calls the engine."""
        batcher = Batcher(self._search, self._config.batches, self._metrics.note_call)
        self._batcher = batcher
        try:
            yield
        finally:
            self._batcher = None
            # All clients have been answered or are gone, so that there is nothing to wait for but
            # an engine that hangs.
            await asyncio.to_thread(batcher.close, _CLOSE_SECONDS)

    async def health(self, http: Request) -> Response:
        """Say that the engine is there: nothing listens before it is loaded."""
        if self._batcher is None:
            return JSONResponse({"status": "starting"}, HTTPStatus.SERVICE_UNAVAILABLE)
        return JSONResponse({"status": "ok", "engine": self._config.name})

    async def metrics(self, http: Request) -> Response:
        """Return the metrics to those who may ask."""
        try:
            self._authorise(http)
        except RefusalError as refusal:
            return refusal.response()
        return Response(self._metrics.text(), media_type=MEDIA_TYPE)

    async def retrieve(self, http: Request) -> Response:
        """Answer a request in its own contract, or say why not."""
        start, contract = time.perf_counter(), "unknown"
        try:
            asked = await self._read(http)
            contract = asked.contract
            reply = write_reply(asked, await self._found(http, asked))
            response = Response(reply.content, media_type=reply.media_type)
        except ContractError as error:
            contract = error.contract or contract
            response = _refused(error).response()
        except RefusalError as refusal:
            response = refusal.response()
        self._metrics.note_request(contract, response.status_code, time.perf_counter() - start)
        return response

    def _search(self, requests: Sequence[SearchRequest]) -> Sequence[Documents]:
        found = search_all(self._engine, requests)
        return [_neutralised(each) for each in found] if self._config.neutralise else found

    def _authorise(self, http: Request) -> None:
        token = self._config.token
        if not token:
            return
        scheme, _, given = http.headers.get("authorization", "").partition(" ")
        # Bytes, for a text beyond ASCII cannot be compared in constant time.
        is_right = hmac.compare_digest(given.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not is_right:
            headers = {"WWW-Authenticate": "Bearer", **_HANG_UP}
            raise RefusalError(HTTPStatus.UNAUTHORIZED, "a bearer token is needed", headers=headers)

    async def _read(self, http: Request) -> Asked:
        self._authorise(http)
        if http.headers.get("content-encoding", "identity").lower() != "identity":
            message = "the body must not be compressed"
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            raise RefusalError(status, message, headers=_HANG_UP)
        body = await _read_body(http, self._config.max_body_bytes)
        content_type = http.headers.get("content-type", "")
        if http.url.path != PATH and not is_msgpack(body, content_type):
            raise RefusalError(HTTPStatus.NOT_FOUND, f"JSON requests go to {PATH}")
        return read_request(body, content_type, self._config.rules)

    async def _found(self, http: Request, asked: Asked) -> Sequence[Documents]:
        if self._batcher is None:
            raise _unavailable("the server is not up")
        try:
            return await _answers(self._batcher, http, asked.requests)
        except RefusalError:
            raise
        except QueueFullError as error:
            raise _unavailable(f"too much to do: {error}") from error
        except SearchEngineError as error:
            if is_unanswerable(error):
                raise RefusalError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error
            _log.error("the search engine failed: %s", error)
            raise _unavailable(without_urls(str(error))) from error
        except asyncio.CancelledError as error:  # it took longer than the server had left to live
            raise _unavailable("the server is shutting down") from error
        except (Exception, SystemExit) as error:  # a mistake in the engine; the batcher logged it
            raise _unavailable(f"the search engine failed: {type(error).__name__}") from error


def without_urls(text: str) -> str:
    """Return `text` without the servers in it, which are nobody's business but this one's.

    Example:
        >>> without_urls("http://gpu7:8000/v1 did not answer after 3 tries")
        'an upstream server did not answer after 3 tries'
    """
    return _URL.sub("an upstream server", text)


def _unavailable(message: str) -> RefusalError:
    headers = {"Retry-After": str(_RETRY_SECONDS)}
    return RefusalError(HTTPStatus.SERVICE_UNAVAILABLE, message, headers=headers)


def _neutralised(documents: Sequence[Document]) -> Sequence[Document]:
    return neutralise_documents(documents, _UNBOUNDED, _UNBOUNDED)


def _refused(error: ContractError) -> RefusalError:
    unreadable = error.field is None
    status = HTTPStatus.BAD_REQUEST if unreadable else HTTPStatus.UNPROCESSABLE_ENTITY
    return RefusalError(status, str(error), field=error.field)


async def _read_body(http: Request, max_bytes: int) -> bytes:
    """Return the whole body, however long the client says that it is.

    Raises:
        RefusalError: If it is too long, takes too long, or does not end.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in http.stream():
                body += chunk
                if len(body) > max_bytes:
                    message = f"the body must have at most {max_bytes} bytes"
                    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
                    raise RefusalError(status, message, headers=_HANG_UP)
    except TimeoutError:
        message = f"the body must arrive within {_BODY_SECONDS:g} s"
        raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, message, headers=_HANG_UP) from None
    except ClientDisconnect:
        raise RefusalError(_CLIENT_GONE, "the client went away") from None
    return bytes(body)


async def _answers(
    batcher: Batcher, http: Request, requests: Sequence[SearchRequest]
) -> Sequence[Documents]:
    """Return the documents of each request; a client that goes away is waited for no longer.

    Raises:
        QueueFullError: If there is no room for the requests.
        RefusalError: If the client went away.
        Exception: Whatever the engine raised.
    """
    futures = batcher.submit(requests)
    found = asyncio.gather(*map(asyncio.wrap_future, futures))
    found.add_done_callback(_look_at)
    gone = asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait((found, gone), return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            raise RefusalError(_CLIENT_GONE, "the client went away")
        return found.result()
    finally:
        gone.cancel()
        found.cancel()
        for future in futures:
            future.cancel()  # what still waits, if one of them failed


def _look_at(found: asyncio.Future[Any]) -> None:
    """Look at the error of what nobody waits for any more, which asyncio else logs."""
    if not found.cancelled():
        found.exception()


async def _disconnected(http: Request) -> None:
    """Wait until the client goes away."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
