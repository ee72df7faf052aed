r"""Documents as corpora and retrieval servers write them down.

Search-R1's convention, which most of them follow, puts title and text into one field:
`{"contents": "\"Title\"\ntext"}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zs_env.search.engine import Document

_TITLED = re.compile(r'"([^\n]+)"[ \t]*\r?\n(.*\S.*)', re.DOTALL)


def split_contents(contents: str) -> Document:
    r"""Return the document in `contents`; where no quoted title stands first, all of it is text.

    Example:
        >>> split_contents('"Mars"\nIt is red.')
        Document(text='It is red.', title='Mars')
        >>> split_contents("It is red.\nIt is far.")
        Document(text='It is red.\nIt is far.', title='')
        >>> split_contents("\nIt is red.")
        Document(text='It is red.', title='')
    """
    found = _TITLED.fullmatch(contents)
    # Servers whose readers drop the first line leave it empty where there is no title.
    return Document(found[2], title=found[1]) if found else Document(contents.removeprefix("\n"))


def join_contents(document: Document) -> str:
    r"""Return a document as one text; `split_contents` reads it.

    Example:
        >>> join_contents(Document("It is red.", title="Mars"))
        '"Mars"\nIt is red.'
    """
    return f'"{document.title}"\n{document.text}' if document.title else document.text


def read_document(record: Any) -> Document:
    r"""Return the document that a record describes.

    Args:
        record: A mapping with `text` or `contents`, and perhaps `title`; of a text that begins
            with that title in quotes, or with any where none is given, the first line is the
            title. Other fields do not matter.

    Raises:
        ValueError: If it is none.

    Example:
        >>> read_document({"id": 7, "title": "Mars", "contents": '"Mars"\nIt is red.'})
        Document(text='It is red.', title='Mars')
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"a document must be a mapping, got {_shown(record)}")
    text = record["text"] if record.get("text") is not None else record.get("contents")
    if not isinstance(text, str):
        raise ValueError(f"`text` or `contents` of a document must be a text, got {_shown(text)}")
    title = "" if record.get("title") is None else record["title"]
    if not isinstance(title, str):
        raise ValueError(f"`title` of a document must be a text, got {_shown(title)}")
    parts = split_contents(text)
    return parts if title in ("", parts.title) else Document(text, title=title)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"
