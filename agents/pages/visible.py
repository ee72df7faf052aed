"""Text that others wrote, so that what is in it can be seen."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Letters and marks that have no shape of their own (Unicode's Default_Ignorable_Code_Point), and
# the blank of Braille.
_SHAPELESS: Final = frozenset(
    map(chr, (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2065, 0x2800, 0x3164, 0xFFA0))
)
_SELECTORS: Final = ((0x180B, 0x180F), (0xFE00, 0xFE0F), (0xFFF0, 0xFFF8), (0xE0000, 0xE0FFF))
_MARKDOWN: Final = re.compile(r"([\\`*_\[\]<>|~&$])")


def is_hidden(character: str) -> bool:
    """Return whether a character has no shape of its own, or changes the order of others."""
    if unicodedata.category(character) in _HIDDEN or character in _SHAPELESS:
        return True
    return any(low <= ord(character) <= high for low, high in _SELECTORS)


def visible(text: str) -> str:
    r"""Return `text` with hidden characters named; ends of lines and tabs stay.

    Example:
        >>> visible("abc\u202edef\n\x1b[31m")
        'abc<U+202E>def\n<U+001B>[31m'
    """
    return "".join(
        f"<U+{ord(each):04X}>" if each not in "\n\t" and is_hidden(each) else each for each in text
    )


def markdown_text(text: str) -> str:
    r"""Return `text` so that Markdown shows it as it is, in one line.

    Example:
        >>> markdown_text("a|b <b>*c*")
        'a\\|b \\<b\\>\\*c\\*'
    """
    return _MARKDOWN.sub(r"\\\1", " ".join(visible(text).split()))
