"""What a simulator is asked, and how its reply is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zs_env.search.engine import Document, SearchRequest

MAX_QUERY_LENGTH = 512
"""Characters of a query that a simulator reads, as a search field would."""

_DOC = re.compile(r"\bDoc\s*(\d+)\s*:", re.IGNORECASE)


def tuned_prompt(request: SearchRequest) -> str:
    """Return the short prompt that simulation tuning trains; the reply begins with `Doc 1:`."""
    kind = "Noisy" if request.noisy else "Useful"
    detail = f" ({request.noise_kind})" if request.noisy and request.noise_kind else ""
    # On one line each: a query must not be able to write lines of the prompt.
    return (
        f"Question: {_one_line(request.question)}\n"
        f"Answer: {_one_line(' | '.join(request.golden_answers))}\n"
        f"Query: {_one_line(request.query)[:MAX_QUERY_LENGTH]}\n"
        f"{kind} documents{detail}:\n"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def format_documents(texts: Sequence[str]) -> str:
    r"""Return documents as a simulator writes them.

    >>> format_documents(["one", "two"])
    'Doc 1: one\nDoc 2: two'
    """
    return "\n".join(f"Doc {i}: {text}" for i, text in enumerate(texts, 1))


def parse_documents(reply: str, top_k: int) -> list[Document]:
    r"""Return the documents of a reply: at most `top_k`, empty and repeated ones left out.

    >>> [d.text for d in parse_documents("Doc 1: one\nDoc 2: two\nDoc 3: two", 3)]
    ['one', 'two']
    """
    return [Document(text) for text in dict.fromkeys(split_documents(reply))][:top_k]


def split_documents(reply: str) -> list[str]:
    r"""Return the texts of all documents in a reply that are not empty, repeated ones too.

    >>> split_documents("Doc 1: one\nDoc 2: two\nDoc 3: two")
    ['one', 'two', 'two']
    """
    # The last numbered piece may have been cut off; it is kept, as a real snippet would be.
    before, *rest = _DOC.split(reply.strip())
    numbers, pieces = rest[::2], rest[1::2]
    if numbers[:1] != ["1"]:  # else what stands before the first document introduces the list
        pieces = [before, *pieces]
    return [text for piece in pieces if (text := " ".join(piece.split()))]
