"""A retrieval server as the search engine: whatever answers in one of the usual contracts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from zs_env.checks import check_count
from zs_env.remote.client import JSON, NO_PROBE, Call, Codec, RemoteClient
from zs_env.remote.failures import RemoteError
from zs_env.remote.limits import Limits
from zs_env.search.batches import QueryBatch, put_together, split_by_top_k
from zs_env.search.contracts import CONTRACTS, read_reply, request_body
from zs_env.search.engine import Document, SearchEngineError, SearchRequest

API_KEY_VARIABLE: Final = "ZS_RETRIEVER_API_KEY"


class RetrieverSearchEngine:
    """Ask a retrieval server, or several with the same passages.

    What fails is tried again, at another server if there is one, within the limits. The engine can
    be pickled, copied, used from several threads and inside a running event loop.
    """

    makes_noise: Final = False

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        contract: str = "search-r1",
        max_batch: int = 64,
        api_key_variable: str | None = API_KEY_VARIABLE,
        limits: Limits | None = None,
    ) -> None:
        """Set up the engine; nothing is asked before the first search.

        Args:
            urls: Where requests are sent, like "http://localhost:8000/retrieve". Of several, the
                healthy ones take turns.
            contract: How the servers are asked: "search-r1", "skyrl", "gem" or "zerosearch".
            max_batch: Queries of one request at most, where the contract allows for many.
            api_key_variable: Environment variable that holds a bearer token; None means none.
            limits: Bounds in time, tries and size; None means `Limits()`.

        Raises:
            ValueError: If a URL is none, or a parameter is out of range.
            ImportError: If a library is missing that the contract needs.
        """
        if contract not in CONTRACTS:
            known = ", ".join(CONTRACTS)
            raise ValueError(f"`contract` must be one of {known}, got {contract!r}")
        self._name, self._contract = contract, CONTRACTS[contract]
        self._max_batch = check_count("max_batch", max_batch, 1)
        self._api_key_variable = api_key_variable
        codec = _msgpack() if self._contract.is_msgpack else JSON
        # No contract has a health check.
        self._client = RemoteClient(urls, NO_PROBE, limits or Limits(), api_key_variable, codec)

    def __repr__(self) -> str:
        """Return where the servers are, and nothing that could be secret."""
        urls = list(self._client.base_urls)
        return f"{type(self).__name__}({urls}, contract={self._name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the engine was made from; a copy opens its own connections."""
        settings: dict[str, Any] = {
            "contract": self._name,
            "max_batch": self._max_batch,
            "api_key_variable": self._api_key_variable,
            "limits": self._client.limits,
        }
        return partial(type(self), **settings), (self._client.base_urls,)

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on, as far as that is known: who is asked, and how."""
        urls = list(self._client.base_urls)
        return {"engine": "retriever", "urls": urls, "contract": self._name}

    def close(self) -> None:
        """Close the connections; a later search opens new ones."""
        self._client.close()

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return what the servers find: at most `top_k` documents a request.

        Raises:
            SearchEngineError: If no server answers within the limits, or one refuses.
        """
        batches = split_by_top_k(requests, self._max_batch if self._contract.is_batched else 1)
        try:
            found = self._client.call_all([self._call(batch) for batch in batches])
        except RemoteError as error:
            raise SearchEngineError(f"the retriever at {error}") from error
        return put_together(batches, found)

    def _call(self, batch: QueryBatch) -> Call[None, list[list[Document]]]:
        return Call(
            "",
            lambda _: request_body(self._contract, batch.queries, batch.top_k),
            lambda _, reply: read_reply(self._contract, reply, len(batch.queries), batch.top_k),
        )


def _msgpack() -> Codec:
    try:
        import msgpack
    except ImportError as error:
        raise ImportError("contract='gem' needs msgpack: pip install 'zs-env[remote]'") from error
    return Codec("MessagePack", "application/msgpack", msgpack.packb, msgpack.unpackb)
