r"""How an answer is graded: token F1, exact match and substring match after normalisation.

Normalisation is SQuAD's (lower case, no punctuation, no articles, single spaces), carried on to
unicode: compatibility forms are unified (NFKC), case is folded, and every unicode punctuation
mark and every invisible character is dropped, so that typographic quotes, dashes and soft hyphens
do not matter. Diacritics stay: "Pele" is not "Pelé". Only a dot above the small i goes, which says
nothing there: folding case leaves one of the Turkish "İ", and "İstanbul" is "istanbul" (the Turkish
i without a dot stays another letter). On ASCII text the result is SQuAD's, character for character.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from zs_env.task.invisible import remove_invisible

GradeFunction: TypeAlias = Callable[[str, Sequence[str]], float]

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_DOTTED_I: Final = "i\u0307"  # what "İ" becomes when its case is folded


def normalise(text: str) -> str:
    """Return `text` as it is compared.

    Example:
        >>> normalise("The  “Beatles”!")
        'beatles'
    """
    if text.isascii():
        text = text.lower().translate(_ASCII_PUNCTUATION)
    else:
        text = _fold_unicode(text)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _fold_unicode(text: str) -> str:
    """Return `text` case-folded, in one unicode form, without punctuation and the unseen."""
    text = unicodedata.normalize("NFKC", remove_invisible(text)).casefold()
    text = unicodedata.normalize("NFKC", text.replace(_DOTTED_I, "i")).translate(_ASCII_PUNCTUATION)
    kept = (char for char in text if not unicodedata.category(char).startswith("P"))
    return unicodedata.normalize("NFC", "".join(kept))


def token_f1(answer: str, golden_answers: Sequence[str]) -> float:
    """Return the best F1 overlap of words between `answer` and a golden answer, in [0, 1].

    Words count as often as they occur. If nothing is left of a text after normalisation, only
    another such text matches it.

    Example:
        >>> token_f1("Barack Obama", ["Barack Hussein Obama", "Obama"])
        0.8
    """
    words = normalise(answer).split()
    return max(_f1(words, normalise(golden).split()) for golden in golden_answers)


def _f1(words: list[str], golden: list[str]) -> float:
    if not words or not golden:
        return float(words == golden)
    overlap = (Counter(words) & Counter(golden)).total()
    return 2 * overlap / (len(words) + len(golden))


def exact_match(answer: str, golden_answers: Sequence[str]) -> float:
    """Return 1.0 if `answer` equals a golden answer after normalisation, else 0.0.

    Example:
        >>> exact_match("the Mars.", ["Mars"]), exact_match("Marsupial", ["Mars"])
        (1.0, 0.0)
    """
    normalised = normalise(answer)
    return float(any(normalised == normalise(golden) for golden in golden_answers))


def substring_match(answer: str, golden_answers: Sequence[str]) -> float:
    """Return 1.0 if a golden answer occurs anywhere inside `answer` (known as SubEM), else 0.0.

    Lenient on purpose, and easily gamed by long answers: report it beside exact match, never
    in its place.

    Example:
        >>> substring_match("Marsupial", ["Mars"]), substring_match("Venus", ["Mars"])
        (1.0, 0.0)
    """
    normalised = normalise(answer)
    candidates = (normalise(golden) for golden in golden_answers)
    return float(any(golden in normalised if golden else not normalised for golden in candidates))


GRADES: Final[dict[str, GradeFunction]] = {
    "f1": token_f1,
    "em": exact_match,
    "sub_em": substring_match,
}
