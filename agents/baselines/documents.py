"""Documents as an agent reads them, taken apart again."""

from __future__ import annotations

import re
from typing import Final

from zs_env.search.engine import Document

_BLOCK: Final = re.compile(r"<information>(.*)</information>\n?", re.DOTALL)
_DOCUMENT: Final = re.compile(r"Doc \d+(?:: |\(Title: (?P<title>.*?)\) )(?P<text>.*)")


def read_documents(observation: str) -> tuple[Document, ...]:
    r"""Return the documents in an observation; none if it is something else. Never raises.

    The environment shows each on a line of its own.

    Example:
        >>> read_documents("<information>Doc 1: It is red.\nDoc 2(Title: Mars) Far.</information>")
        (Document(text='It is red.', title=''), Document(text='Far.', title='Mars'))
    """
    block = _BLOCK.fullmatch(observation)
    lines = block[1].split("\n") if block else []
    found = (_DOCUMENT.fullmatch(line) for line in lines)
    return tuple(Document(each["text"], each["title"] or "") for each in found if each)
