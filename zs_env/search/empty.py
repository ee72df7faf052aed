"""A search engine that finds nothing: what an agent knows without searching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from zs_env.search.engine import Document, SearchRequest


class EmptySearchEngine:
    """Return no document for any request."""

    makes_noise: Final = False

    def describe(self) -> dict[str, Any]:
        """Return that replies depend on nothing."""
        return {"engine": "empty"}

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return one empty list a request."""
        return [[] for _ in requests]
