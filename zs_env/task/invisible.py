"""Characters that a reader does not see: what they are, and a text without them.

They are unicode's default ignorable code points (DerivedCoreProperties.txt): soft hyphens,
joiners, directional marks, variation selectors, fillers, "tag" letters. Scripts need some of them,
so they are kept where a text is shown, and do not count where it is compared or looks empty.
"""

from __future__ import annotations

import re
from typing import Final

_IGNORABLE: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_INVISIBLE: Final = re.compile(f"[{_IGNORABLE}]+")
_VISIBLE: Final = re.compile(rf"[^\s\x00-\x1f\x7f-\x9f{_IGNORABLE}]")


def remove_invisible(text: str) -> str:
    r"""Return `text` without its invisible characters.

    Example:
        >>> remove_invisible("Ma\u00adrs\u200b")
        'Mars'
    """
    return _INVISIBLE.sub("", text)


def is_blank(text: str) -> bool:
    r"""Return whether nothing in `text` can be seen: spaces, controls and invisible characters.

    Example:
        >>> is_blank(" \u200b\x00"), is_blank("a\u200b")
        (True, False)
    """
    return not _VISIBLE.search(text)
