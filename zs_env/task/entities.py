"""Names in a text: the words that stand out by their capitals, and numbers.

No model and no dictionary: enough to point at what a question or a document is about.
"""

from __future__ import annotations

import re
from typing import Final

# A word that begins with no lower-case ASCII letter, or an initial with its full stop.
_NAME: Final = r"[^\W\d_a-z](?:\.(?=\s\w)|[\w\u2019'-]*)"
_ENTITY: Final = re.compile(rf"\b(?:{_NAME}(?:\s(?:of\s)?{_NAME})*|\d{{2,4}})(?!\w)")
_OPENINGS: Final = frozenset(
    "a after an and as at before but by did do does for from had has have he her his how if in is "
    "it its of on or she since that their there they this to was were what when where which while "
    "who whom whose why with".split()
)


def find_entities(text: str) -> list[str]:
    """Return the names and the numbers of two to four digits in `text`, each once, in order.

    Words that only begin a sentence or a question are not names.

    Example:
        >>> find_entities("Who directed The Silent Harbor? It is by Zoë Lane of Port Vale, 1954.")
        ['The Silent Harbor', 'Zoë Lane of Port Vale', '1954']
    """
    found = (_without_opening(match.group()) for match in _ENTITY.finditer(text))
    return list(dict.fromkeys(name for name in found if name))


def remove_entities(text: str) -> str:
    """Return `text` without its names and numbers.

    Example:
        >>> remove_entities("Who directed The Silent Harbor?")
        'Who directed ?'
    """
    return _ENTITY.sub(lambda match: _opening(match.group()), text).replace("  ", " ")


def _opening(name: str) -> str:
    """Return the words at the start of `name` that are no part of it."""
    words = name.split()
    num = 0
    while num < len(words) and words[num].lower() in _OPENINGS:
        num += 1
    return name if words[num:] in ([], ["The"]) else " ".join(words[:num])


def _without_opening(name: str) -> str:
    return name.removeprefix(_opening(name)).strip()
