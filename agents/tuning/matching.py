"""Does a document name something? To the letter, by another of its names, or nearly.

Three readings, each more lenient than the one before. To the letter: the preferred name, as whole
words, after the normalisation of graded answers. By alias: that or any other accepted name. Nearly
(fuzzy): that, or some words in a row whose similarity to a name is at least a threshold, so that a
name that a language model misspells ("Port Glenvali") is not taken for absent. Similarity is
Ratcliff and Obershelp's, 2 M / T with M characters in common blocks of T in both texts: an edit
similarity in [0, 1]. Words that are the name of something else are no misspelling of this.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher
from enum import StrEnum
from functools import lru_cache
from typing import Final

from agents.tuning.signals import mentions
from zs_env.search.engine import Document
from zs_env.task.rewards import normalise

DEFAULT_THRESHOLD: Final = 0.85


class Match(StrEnum):
    """How strictly a name is looked for."""

    EXACT = "exact"
    ALIAS = "alias"
    FUZZY = "fuzzy"


def holds(
    documents: Sequence[Document],
    names: Sequence[str],
    match: Match = Match.EXACT,
    *,
    threshold: float = DEFAULT_THRESHOLD,
    others: Collection[str] = (),
) -> bool:
    """Tell whether a document, its title included, holds a name.

    Args:
        documents: Any number of them.
        names: Accepted names, the preferred one first.
        match: How strictly to read.
        threshold: Least similarity of a fuzzy match, in (0, 1].
        others: Normalised names of other things, which are no misspellings.
    """
    wanted = names[:1] if match is Match.EXACT else names
    if mentions(documents, wanted):
        return True
    return match is Match.FUZZY and any(
        resembles(f"{document.title} {document.text}", name, threshold, others)
        for document in documents
        for name in wanted
    )


def resembles(text: str, name: str, threshold: float, others: Collection[str] = ()) -> bool:
    """Tell whether some words of `text`, as many as `name` has, are nearly that name.

    Args:
        text: Where to look.
        name: What to look for.
        threshold: Least similarity, in (0, 1].
        others: Normalised names of others, which do not count although they look alike.

    Example:
        >>> resembles("It lies in Port Glenvali.", "Port Glenvale", 0.85)
        True
        >>> resembles("It lies in Port Glenvali.", "Port Glenvale", 0.85, {"port glenvali"})
        False
    """
    wanted = normalise(name)
    matcher = SequenceMatcher(None, b=wanted, autojunk=False)
    for words in _windows(normalise(text).split(), len(wanted.split())):
        matcher.set_seq1(words)
        # The two bounds are cheap and dismiss nearly everything.
        if (
            matcher.real_quick_ratio() >= threshold
            and matcher.quick_ratio() >= threshold
            and matcher.ratio() >= threshold
            and (words == wanted or words not in others)
        ):
            return True
    return False


def _windows(words: Sequence[str], size: int) -> Iterator[str]:
    if size:
        yield from (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


@lru_cache(maxsize=65536)
def is_named(text: str, name: str) -> bool:
    """Tell whether `text` holds `name` as whole words.

    Example:
        >>> is_named("It stands on the river Daney.", "Dane")
        False
    """
    return mentions([Document(text)], [name])
