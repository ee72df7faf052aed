r"""How an answer is graded: token F1, exact match and substring match after normalisation.

Normalisation is SQuAD's (lower case, no punctuation, no articles, single spaces), carried on to
unicode: compatibility forms are unified (NFKC), case is folded, and every unicode punctuation
mark is dropped, so that typographic quotes and dashes do not matter. Diacritics stay: "Pele" is
not "Pelé". On ASCII text the result is SQuAD's, character for character.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, TypeAlias

RewardFunction: TypeAlias = Callable[[str, Sequence[str]], float]

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


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
    """Return `text` case-folded, in one unicode form, without punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = unicodedata.normalize("NFKC", text).translate(_ASCII_PUNCTUATION)
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


REWARDS: Final[dict[str, RewardFunction]] = {
    "f1": token_f1,
    "em": exact_match,
    "sub_em": substring_match,
}


def make_reward(reward: str | RewardFunction) -> RewardFunction:
    """Return the reward function that `reward` names.

    Args:
        reward: A key of `REWARDS`, an import path `"package.module:function"`, or the function
            itself, from (answer, golden answers) to a number.

    Raises:
        ValueError: If the name is unknown.
        ImportError: If the module of an import path cannot be imported.
    """
    if callable(reward):
        return reward
    if reward in REWARDS:
        return REWARDS[reward]
    module, separator, name = reward.partition(":")
    if not separator:
        known = ", ".join(REWARDS)
        raise ValueError(f"`reward` must be {known}, module:function or a callable, got {reward!r}")
    function: RewardFunction = getattr(import_module(module), name)
    return function
