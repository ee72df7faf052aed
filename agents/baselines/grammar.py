"""MiniWiki's questions and sentences, read by the wordings in which they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from zs_env.task.miniwiki import COMPARISONS, RELATIONS

_NOUN_PHRASE: Final = re.compile(r"the [a-z]")  # a film's name begins "The"


@dataclass(frozen=True, slots=True)
class Search:
    """What has to be found: the relations to follow from an entity, one after the other."""

    entity: str
    relations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a question asks.

    Attributes:
        searches: What has to be found; the answer of a single one is the question's.
        smaller: Whether, of two searches, the entity with the smaller result is the answer.
    """

    searches: tuple[Search, ...]
    smaller: bool = False


def read_question(text: str) -> Reading | None:
    """Return what a question of MiniWiki asks, None if it is none.

    Example:
        >>> read_question("Where was the director of The Silent Harbor born?").searches
        (Search(entity='The Silent Harbor', relations=('director', 'birthplace')),)
    """
    for name, wordings in COMPARISONS.items():
        for wording in wordings:
            if found := _pattern(wording).fullmatch(text):
                one, two = (Search(found[part], (name,)) for part in "ab")
                return Reading((one, two), smaller=True)
    # Where a text can be read in several ways, the one that explains most of its words is meant.
    chain = min(_chains(text, _questions()), key=lambda search: len(search.entity), default=None)
    return None if chain is None else Reading((chain,))


def _chains(text: str, wordings: Sequence[tuple[str, str]]) -> Iterator[Search]:
    """Yield the chains of relations that a text can stand for, by the given wordings of one."""
    for relation, wording in wordings:
        found = _pattern(wording).fullmatch(text)
        if found is None:
            continue
        if _NOUN_PHRASE.match(found["s"]):
            for inner in _chains(found["s"], _noun_phrases()):
                yield Search(inner.entity, (*inner.relations, relation))
        else:
            yield Search(found["s"], (relation,))


def stated_objects(text: str, entity: str, relation: str) -> list[str]:
    """Return what a document says to be in `relation` to `entity`, in order, each once.

    Example:
        >>> stated_objects("Ada Fen is married to Bo Lind.", "Ada Fen", "spouse")
        ['Bo Lind']
    """
    found = []
    for wording in RELATIONS[relation].sentences:
        before, after = wording.format(s=entity, o="\0").split("\0")
        pattern = f"(?<!\\w){re.escape(before)}(.+?){re.escape(after)}"
        found += re.findall(pattern, text, re.IGNORECASE)
    return list(dict.fromkeys(found))


def queries(entity: str, relation: str) -> list[str]:
    """Return the ways to search for what is in `relation` to `entity`."""
    return [wording.format(s=entity) for wording in RELATIONS[relation].queries]


@cache
def _pattern(wording: str) -> re.Pattern[str]:
    """Return what matches a wording; `{s}`, `{a}` and `{b}` become groups of these names."""
    parts = re.split(r"\{(\w)\}", wording)
    return re.compile(
        "".join(
            re.escape(part) if place % 2 == 0 else f"(?P<{part}>.+)"
            for place, part in enumerate(parts)
        )
    )


@cache
def _questions() -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name, each in RELATIONS.items() for text in each.questions)


@cache
def _noun_phrases() -> tuple[tuple[str, str], ...]:
    return tuple((name, text) for name, each in RELATIONS.items() for text in each.noun_phrases)
