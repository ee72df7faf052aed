"""Which kind of documents a reply holds, read off its sentences: does a simulator obey?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from agents.tuning.matching import is_named
from agents.tuning.requests import NOISE_SORTS, Sort
from zs_env.search.engine import Document, NoiseKind
from zs_env.task.miniwiki import Fact, MiniWiki, look_alikes
from zs_env.task.statements import Statement, read_statement

USEFUL: Final = "useful"
FALSE: Final = "false"
"""One false object, as if it were true: noise of no kind that can be asked for."""

FOUND: Final = (USEFUL, *(kind.value for kind in NoiseKind), FALSE)
REQUESTED: Final = (Sort.USEFUL, *NOISE_SORTS)

read = lru_cache(maxsize=65536)(read_statement)


def states(text: str, fact: Fact) -> bool:
    """Tell whether a text names both ends of a fact, and not as something of the past."""
    claim = read(text)
    both = is_named(text, fact.subject) and is_named(text, fact.object)
    return both and not (claim and claim.outdated)


class KindReader:
    """Tells which kind of documents a reply holds.

    Args:
        world: The encyclopaedia that the documents should be about.
    """

    def __init__(self, world: MiniWiki) -> None:
        """List the entities among which a name can look like another."""
        parts = (world.facts, *(part.facts for part in world.worlds.values()))
        self._subjects = [_subjects(facts) for facts in parts]
        self._alike: dict[tuple[str, str], frozenset[str]] = {}

    def found(self, documents: Sequence[Document], asked: Fact) -> str:
        """Return which kind of documents these are, one of `FOUND`.

        The first that applies: no document at all is empty; one that states the asked fact,
        useful; one that says something of the asked kind about the past, outdated; two or more
        different false objects are contradictory, a single one false; a document that names the
        entity is partial; half of the documents or more about entities whose names look alike,
        near-miss; and all else irrelevant.
        """
        texts = [document.text for document in documents]
        if not texts:
            return NoiseKind.EMPTY.value
        if any(states(text, asked) for text in texts):
            return USEFUL
        claims = [claim for text in texts if (claim := read(text))]
        return _false_claim(claims, asked) or self._about(texts, claims, asked)

    def _about(self, texts: Sequence[str], claims: Sequence[Statement], asked: Fact) -> str:
        if any(is_named(text, asked.subject) for text in texts):
            return NoiseKind.PARTIAL.value
        alike = self._look_alikes(asked)
        near = sum(claim.subject in alike for claim in claims)
        return NoiseKind.NEAR_MISS.value if 2 * near >= len(texts) else NoiseKind.IRRELEVANT.value

    def _look_alikes(self, asked: Fact) -> frozenset[str]:
        """Return the names most like that of the asked entity, in the world or in its split."""
        key = asked.subject, asked.relation
        if key not in self._alike:
            pools = [names[asked.relation] for names in self._subjects]
            self._alike[key] = frozenset(
                name
                for pool in pools
                if asked.subject in pool
                for name in look_alikes(asked.subject, pool)
            )
        return self._alike[key]


def _subjects(facts: Iterable[Fact]) -> Mapping[str, dict[str, None]]:
    """Return the subjects of each relation, in order."""
    subjects: dict[str, dict[str, None]] = defaultdict(dict)
    for fact in facts:
        subjects[fact.relation][fact.subject] = None
    return subjects


def _false_claim(claims: Iterable[Statement], asked: Fact) -> str | None:
    """Return what is wrong with what is claimed about the asked fact; None if nothing is."""
    about = [c for c in claims if (c.subject, c.relation) == (asked.subject, asked.relation)]
    if any(claim.outdated for claim in about):
        return NoiseKind.OUTDATED.value
    objects = {claim.object for claim in about}
    if len(objects) > 1:
        return NoiseKind.CONTRADICTORY.value
    return FALSE if objects else None


def tally(kinds: Iterable[str]) -> dict[str, int]:
    """Return how often each kind of `FOUND` occurs, those that never do included."""
    return dict.fromkeys(FOUND, 0) | dict(Counter(kinds))
