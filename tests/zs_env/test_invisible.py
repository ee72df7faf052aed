"""What a reader does not see."""

import sys
import unicodedata

import pytest

from zs_env.task.invisible import is_blank, remove_invisible

# Format characters with a look of their own: signs written around numbers, annotations.
VISIBLE_FORMATS = ("ARABIC", "SYRIAC", "KAITHI", "INTERLINEAR", "EGYPTIAN")


def test_format_characters_are_invisible_unless_they_have_a_look():
    for char in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.category(char) == "Cf" and char != "\u061c":
            seen = unicodedata.name(char, "").startswith(VISIBLE_FORMATS)
            assert (remove_invisible(char) == "") != seen, hex(ord(char))


@pytest.mark.parametrize("text", ["", " \n\u3000", "\x00\x1f\x85", "\u200b\u00ad", "\ufe0f \u3164"])
def test_text_without_anything_to_see_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "\u0301", "東", "\u200b.", "\ud800"])
def test_text_with_something_to_see_is_not_blank(text):
    assert not is_blank(text)
    assert remove_invisible(text).strip()
