"""Requests sorted into calls of an engine that takes many queries, but one number of documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zs_env.search.engine import Document, SearchRequest


@dataclass(frozen=True, slots=True)
class QueryBatch:
    """Queries that ask for the same number of documents.

    Attributes:
        places: Where in the list of requests each stands.
        queries: What is asked for.
        top_k: Number of documents wanted.
    """

    places: tuple[int, ...]
    queries: tuple[str, ...]
    top_k: int


def split_by_top_k(
    requests: Sequence[SearchRequest], max_size: int | None = None
) -> list[QueryBatch]:
    """Return batches that hold all requests, of at most `max_size` each (None: of any size).

    Example:
        >>> asked = [SearchRequest("a"), SearchRequest("b", top_k=1), SearchRequest("c")]
        >>> [(batch.queries, batch.top_k) for batch in split_by_top_k(asked)]
        [(('b',), 1), (('a', 'c'), 3)]
    """
    found = []
    # Which of two equal scores comes first depends on the number asked for, so that only
    # requests for the same number may share a call.
    for top_k in sorted({request.top_k for request in requests}):
        places = [i for i, request in enumerate(requests) if request.top_k == top_k]
        size = max_size or len(places)
        for start in range(0, len(places), size):
            some = tuple(places[start : start + size])
            found.append(QueryBatch(some, tuple(requests[i].query for i in some), top_k))
    return found


def put_together(
    batches: Iterable[QueryBatch], answers: Iterable[Sequence[list[Document]]]
) -> list[list[Document]]:
    """Return the documents of each request in order, given those of each batch."""
    found = {
        place: documents
        for batch, answer in zip(batches, answers, strict=True)
        for place, documents in zip(batch.places, answer, strict=True)
    }
    return [found[place] for place in sorted(found)]
