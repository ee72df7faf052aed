"""BM25 over a corpus of passages: the real engine that trained agents are judged with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zs_env.search.description import digest
from zs_env.search.engine import Document, SearchRequest


class BM25SearchEngine:
    """Rank passages with the library bm25s; noise and golden answers of a request are ignored."""

    def __init__(self, passages: Sequence[str | Document], *, k1: float = 1.5, b: float = 0.75):
        """Index `passages` (at least one) in memory with the usual BM25 parameters."""
        import bm25s

        if not passages:
            raise ValueError(f"`passages` must not be empty, got {passages!r}")
        self._documents = [p if isinstance(p, Document) else Document(p) for p in passages]
        texts = [f"{d.title} {d.text}" if d.title else d.text for d in self._documents]
        self._k1, self._b = k1, b
        self._index = bm25s.BM25(k1=k1, b=b)
        self._index.index(_tokenize(texts), show_progress=False)

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on: a digest of the passages, and the parameters."""
        passages = digest([[document.title, document.text] for document in self._documents])
        return {"engine": "bm25", "passages_sha256": passages, "k1": self._k1, "b": self._b}

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the best-scoring passages of each request, best first.

        A query that shares no word with any passage finds nothing: an empty list.
        """
        found: list[list[Document]] = [[] for _ in requests]
        # Which of two equal scores comes first depends on the number asked for, so that only
        # requests for the same number may share a call.
        for top_k in sorted({request.top_k for request in requests}):
            places = [i for i, request in enumerate(requests) if request.top_k == top_k]
            replies = self._search([requests[i].query for i in places], top_k)
            for place, reply in zip(places, replies, strict=True):
                found[place] = reply
        return found

    def _search(self, queries: list[str], top_k: int) -> list[list[Document]]:
        """Return up to `top_k` documents of positive score a query."""
        ids, scores = self._index.retrieve(
            _tokenize(queries), k=min(top_k, len(self._documents)), show_progress=False
        )
        return [
            [self._documents[i] for i, score in zip(*row, strict=True) if score > 0]
            for row in zip(ids, scores, strict=True)
        ]


def _tokenize(texts: list[str]) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)
