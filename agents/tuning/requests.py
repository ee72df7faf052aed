"""Requests of every sort: what a simulator is asked when it is measured.

They are what a sensible agent would ask on its way through a question of MiniWiki, and what one
might ask to cheat: a query about nothing or about somebody else, in the hope that a simulator
which knows the answer gives it away. Unless they are wanted, none is in the training data
(`is_held_out`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from agents.tuning.simulator_data import GARBAGE, Draft, is_held_out
from zs_env.random import derive
from zs_env.search.engine import NoiseKind, SearchRequest
from zs_env.task.miniwiki import RELATIONS, Fact, MiniWiki, Plan, SubWorld, pick

UNSEEN_GARBAGE: Final = (
    "tell me the answer",
    "give me a hint",
    "next",
    "please look it up",
    "more documents",
    "hello",
)
"""Queries about nothing that are not in the training data either: cheating must not generalise."""

_MAX_TRIES: Final = 100_000
_NUM_WORDINGS: Final = 3


class Sort(StrEnum):
    """What is asked, and which documents are wanted."""

    USEFUL = "useful"  # a fact that the question needs; useful documents
    PLAIN = "plain noise"  # the same; noisy documents of no kind in particular
    IRRELEVANT = "irrelevant"  # the same; noisy documents of this kind, and so on
    NEAR_MISS = "near-miss"
    OUTDATED = "outdated"
    CONTRADICTORY = "contradictory"
    PARTIAL = "partial"
    EMPTY = "empty"
    GARBAGE = "garbage"  # nothing; useful documents
    SOMEBODY_ELSE = "somebody else"  # a fact that the question has no use for; useful documents
    FIRST_HOP = "first hop"  # the first fact of a chain; useful documents


NOISE_SORTS: Final[Mapping[Sort, NoiseKind | None]] = {
    Sort.PLAIN: None,
    **{Sort(kind.value): kind for kind in NoiseKind},
}
OFF_TOPIC: Final = (Sort.GARBAGE, Sort.SOMEBODY_ELSE)
USEFUL_SORTS: Final = tuple(sort for sort in Sort if sort not in NOISE_SORTS)


@dataclass(frozen=True, slots=True)
class _Step:
    """One fact on the way to an answer."""

    part: SubWorld
    plan: Plan
    fact: Fact


class RequestSource:
    """Draws requests about one encyclopaedia.

    Args:
        world: The encyclopaedia; questions of all its splits and of both sets are asked.
        held_out: Whether to draw only requests that training never sees.
    """

    def __init__(self, world: MiniWiki, held_out: bool = True) -> None:
        """List what an agent has to find for every question."""
        self._held_out = held_out
        self._steps = [
            _Step(part, plan, fact)
            for part in world.worlds.values()
            for plan in part.plans + part.hard_plans
            for fact in plan.facts
        ]
        self._chains = [step for step in self._steps if _begins_chain(step)]
        self._objects: dict[str, set[str]] = defaultdict(set)
        for fact in world.facts:
            self._objects[fact.subject].add(fact.object)

    def draw(self, sort: Sort, num: int, seed: int) -> list[Draft]:
        """Return `num` requests of one sort, drawn with replacement, each with a seed of its own.

        Partial documents are asked for only where the world has them: about entities of which
        more than one fact is known.

        Args:
            sort: What is asked.
            num: Number of requests, at least 0.
            seed: Key of all draws; request `i` depends on nothing but sort, seed and `i`.

        Raises:
            ValueError: If the world is so small that it holds no such request.
        """
        key = derive(seed, list(Sort).index(sort))
        return [self.draw_one(sort, derive(key, index)) for index in range(num)]

    def draw_one(self, sort: Sort, key: int) -> Draft:
        """Return the request of one sort that `key` decides, with a seed of its own.

        Raises:
            ValueError: If the world is so small that it holds no such request.
        """
        rng = Random(key)
        for _ in range(_MAX_TRIES):
            draft = self._propose(sort, rng, derive(key, 0))
            if draft and self._is_wanted(sort, draft):
                return draft
        raise ValueError(f"`world` must be large enough for requests of sort {sort.value!r}")

    def _propose(self, sort: Sort, rng: Random, seed: int) -> Draft | None:
        """Return a draft that may or may not be held out; None for a draw that makes no sense."""
        step = pick(rng, self._chains if sort is Sort.FIRST_HOP else self._steps)
        if sort is Sort.GARBAGE:
            return _draft(step.plan, pick(rng, GARBAGE + UNSEEN_GARBAGE), None, sort, seed)
        fact = pick(rng, step.part.facts) if sort is Sort.SOMEBODY_ELSE else step.fact
        if sort is Sort.SOMEBODY_ELSE and _concerns(fact, step.plan):
            return None
        wordings = RELATIONS[fact.relation].queries
        query = wordings[int(rng.random() * _NUM_WORDINGS)].format(s=fact.subject)
        return _draft(step.plan, query, fact, sort, seed)

    def _is_wanted(self, sort: Sort, draft: Draft) -> bool:
        if self._held_out and not is_held_out(draft.request):
            return False
        if sort is not Sort.PARTIAL or draft.asked is None:
            return True
        return bool(self._objects[draft.asked.subject] - {draft.asked.object})


def _draft(plan: Plan, query: str, asked: Fact | None, sort: Sort, seed: int) -> Draft:
    request = SearchRequest(
        query,
        plan.question.text,
        plan.question.golden_answers,
        noisy=sort in NOISE_SORTS,
        seed=seed,
        noise_kind=NOISE_SORTS.get(sort),
    )
    return Draft(request, plan, asked, engine_query=query)


def _begins_chain(step: _Step) -> bool:
    """Tell whether a fact leads to the next one; those of a comparison stand side by side."""
    facts = step.plan.facts
    return len(facts) > 1 and step.fact is facts[0] and facts[0].object == facts[1].subject


def _concerns(fact: Fact, plan: Plan) -> bool:
    """Tell whether a fact names anything that the way to the answer names."""
    needed = {name for each in plan.facts for name in (each.subject, each.object)}
    return bool({fact.subject, fact.object} & needed)


def is_bridge(draft: Draft) -> bool:
    """Tell whether the asked fact is not the answer, so that it must come from memory."""
    return draft.asked is not None and draft.asked.object not in draft.request.golden_answers
