"""Google as the search engine, through a service that sells its results: SerpAPI or Serper.

Documents are the organic results, title and snippet. Answer boxes are left out: they would hand
the agent what it is to find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from zs_env.remote.client import NO_PROBE, Call, RemoteClient
from zs_env.remote.failures import RemoteError
from zs_env.remote.keys import ApiKey
from zs_env.remote.limits import Limits
from zs_env.search.engine import Document, SearchEngineError, SearchRequest

_DEFAULT_LIMITS: Final = Limits(
    max_concurrency=16, try_timeout=60.0, max_tries=8, max_reply_bytes=4 << 20
)
_LONGEST_QUERY: Final = 2048
"""Characters; what is longer is refused, and a policy's long query must not end a run."""


@dataclass(frozen=True, slots=True)
class GoogleService:
    """One seller of Google's results.

    Attributes:
        base_url: Where it is.
        path: Where searches are sent.
        method: How.
        api_key: How it wants its key.
        fields: What a request says beside query, number, country and language.
        read: From a reply to its organic results; raises as `Call.read`.
    """

    base_url: str
    path: str
    method: str
    api_key: ApiKey
    fields: Mapping[str, str]
    read: Callable[[Any], Any]


def _serpapi_results(reply: Any) -> Any:
    if "organic_results" in reply:
        return reply["organic_results"]
    # Nothing found is an error to SerpAPI too, but in a search that succeeded.
    if reply["search_metadata"]["status"] != "Success":
        raise ValueError(f"no search that succeeded: {reply.get('error')}")
    return []


SERVICES: Final[Mapping[str, GoogleService]] = {
    "serpapi": GoogleService(
        "https://serpapi.com",
        "search.json",
        "GET",
        # It takes the key nowhere else (serpapi/public-roadmap, issue 784).
        ApiKey("SERPAPI_API_KEY", header=None, parameter="api_key", is_required=True),
        {"engine": "google"},
        _serpapi_results,
    ),
    "serper": GoogleService(
        "https://google.serper.dev",
        "search",
        "POST",
        ApiKey("SERPER_API_KEY", header="X-API-KEY", prefix="", is_required=True),
        {},
        lambda reply: reply["organic"],
    ),
}


class GoogleSearchEngine:
    """Ask Google through `SERVICES`; equal requests of one call are asked, and paid, once.

    The key is read from the environment and never shown. The engine can be pickled, copied, used
    from several threads and inside a running event loop.
    """

    makes_noise: Final = False

    def __init__(
        self,
        service: str = "serpapi",
        *,
        base_url: str | None = None,
        country: str | None = None,
        language: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Set up the engine; nothing is asked before the first search.

        Args:
            service: "serpapi" (its key is in `SERPAPI_API_KEY`) or "serper" (`SERPER_API_KEY`).
            base_url: Who is asked, and gets the key, in the service's place: a proxy.
            country: Google's two-letter code of where one searches from; None leaves it open.
            language: The same of the language of its pages.
            limits: Bounds in time, tries and size; None means 8 tries and 16 requests at once.

        Raises:
            ValueError: If there is no such service, its key is not in the environment, or the URL
                is none.
        """
        if service not in SERVICES:
            known = ", ".join(SERVICES)
            raise ValueError(f"`service` must be one of {known}, got {service!r}")
        self._name, self._service = service, SERVICES[service]
        self._service.api_key.read()
        self._country, self._language = country, language
        self._client = RemoteClient(
            base_url or self._service.base_url,
            NO_PROBE,  # every request costs
            limits or _DEFAULT_LIMITS,
            self._service.api_key,
        )

    def __repr__(self) -> str:
        """Return who is asked, and nothing that could be secret."""
        return f"{type(self).__name__}({self._name!r}, base_url={self._client.base_urls[0]!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the engine was made from; a copy reads the key of its own environment."""
        settings: dict[str, Any] = {
            "base_url": self._client.base_urls[0],
            "country": self._country,
            "language": self._language,
            "limits": self._client.limits,
        }
        return partial(type(self), **settings), (self._name,)

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on beside the day: who is asked, and from where."""
        return {
            "engine": "google",
            "url": self._client.base_urls[0],
            "service": self._name,
            "country": self._country,
            "language": self._language,
        }

    def close(self) -> None:
        """Close the connections; a later search opens new ones."""
        self._client.close()

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the first organic results: at most `top_k` a request, and at most one page.

        A blank query finds nothing. Results without a snippet are left out.

        Raises:
            SearchEngineError: If the service does not answer within the limits, or refuses.
        """
        asked = [(_shortened(request.query), request.top_k) for request in requests]
        distinct = [pair for pair in dict.fromkeys(asked) if pair[0]]
        try:
            replies = self._client.call_all([self._call(*pair) for pair in distinct])
        except RemoteError as error:
            raise SearchEngineError(f"Google through {error}") from error
        found = dict(zip(distinct, replies, strict=True))
        return [list(found.get(pair, ())) for pair in asked]

    def _call(self, query: str, top_k: int) -> Call[None, list[Document]]:
        service = self._service
        place = {"gl": self._country, "hl": self._language}
        chosen = {name: value for name, value in place.items() if value is not None}
        body = {**service.fields, "q": query, "num": top_k, **chosen}
        return Call(
            service.path,
            lambda _: body,
            lambda _, reply: _read_results(service.read(reply))[:top_k],
            service.method,
        )


def _read_results(results: Any) -> list[Document]:
    """Return the documents of organic results; raises as `Call.read` may."""
    if not isinstance(results, list):
        raise TypeError(f"the organic results must be a list, got {results!r}")
    found = []
    for result in results:
        if not isinstance(result, Mapping):
            raise TypeError(f"a result must be a mapping, got {result!r}")
        title, snippet = result.get("title") or "", result.get("snippet") or ""
        if not isinstance(title, str) or not isinstance(snippet, str):
            raise TypeError(f"title and snippet must be texts, got {result!r}")
        if snippet.strip():
            found.append(Document(snippet, title=title))
    return found


def _shortened(query: str) -> str:
    return query.encode("utf-8", "replace").decode()[:_LONGEST_QUERY].strip()
