"""What retrieval servers are asked and what they reply, in the contracts that are in use.

| contract | request | reply |
|---|---|---|
| `search-r1` | `{"queries": [str], "topk": int, "return_scores": bool}` | `{"result": [[hit]]}` |
| `skyrl` | `{"query": str, "topk": int, "return_scores": bool}` | `{"result": [[hit]]}` |
| `gem` | the same, in MessagePack | `{"result": [hit]}`, in MessagePack |
| `zerosearch` | `{"query": str, "top_k": int}` | `[{"text": str}]` |

A hit is `{"document": document, "score": float}` or the document itself, and a document as
`read_document` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zs_env.search.engine import Document
from zs_env.search.records import read_document


@dataclass(frozen=True, slots=True)
class Contract:
    """One way to ask a retrieval server.

    Attributes:
        is_batched: Whether many queries make one request; else each makes its own.
        is_msgpack: Whether bodies are MessagePack; else they are JSON.
        num_field: Field with the number of documents wanted.
        asks_for_scores: Whether a request says that it wants scores. It always does: servers that
            are asked for none have been seen to fail.
        has_result: Whether the results are under `result` in the reply.
        is_nested: Whether they are a list for each query; else the reply is of one query.
    """

    is_batched: bool = False
    is_msgpack: bool = False
    num_field: str = "topk"
    asks_for_scores: bool = True
    has_result: bool = True
    is_nested: bool = True


CONTRACTS: Final[Mapping[str, Contract]] = {
    "search-r1": Contract(is_batched=True),
    "skyrl": Contract(),
    "gem": Contract(is_msgpack=True, is_nested=False),
    "zerosearch": Contract(
        num_field="top_k", asks_for_scores=False, has_result=False, is_nested=False
    ),
}


def request_body(contract: Contract, queries: Sequence[str], top_k: int) -> dict[str, Any]:
    """Return the body of a request; of one query, unless the contract is batched.

    Example:
        >>> request_body(CONTRACTS["zerosearch"], ["who"], 3)
        {'query': 'who', 'top_k': 3}
    """
    # Lone surrogates are no text to most servers, which would refuse the request.
    texts = [query.encode("utf-8", "replace").decode() for query in queries]
    if contract.is_batched:
        asked: dict[str, Any] = {"queries": texts}
    else:
        [text] = texts
        asked = {"query": text}
    scores = {"return_scores": True} if contract.asks_for_scores else {}
    return asked | {contract.num_field: top_k} | scores


def read_reply(
    contract: Contract, reply: Any, num_queries: int, top_k: int
) -> list[list[Document]]:
    """Return at most `top_k` documents for each query of a request.

    Args:
        contract: In which the server replied.
        reply: What it said, decoded.
        num_queries: Queries of the request, at least 1.
        top_k: Documents wanted for each.

    Raises:
        LookupError, TypeError, ValueError: If the reply is none to that many queries, or holds
            anything but documents, as a text about an error.

    Example:
        >>> read_reply(CONTRACTS["zerosearch"], [{"text": "It is red."}], 1, 3)
        [[Document(text='It is red.', title='')]]
    """
    results = reply["result"] if contract.has_result else reply
    if not contract.is_nested and not _is_nested(results):
        results = [results]
    if not isinstance(results, list) or not all(isinstance(each, list) for each in results):
        raise TypeError(f"the results must be a list for each query, got {results!r}")
    if len(results) != num_queries:
        raise ValueError(f"{len(results)} results for {num_queries} queries")
    return [[_read_hit(hit) for hit in each[:top_k]] for each in results]


def _is_nested(results: Any) -> bool:
    # GEM's newer servers nest the one result, as Search-R1's do.
    return isinstance(results, list) and len(results) == 1 and isinstance(results[0], list)


def _read_hit(hit: Any) -> Document:
    has_score = isinstance(hit, Mapping) and "document" in hit
    return read_document(hit["document"] if has_score else hit)
