"""What tells useful documents from noisy ones: how the trajectory ended, and what they say.

A signal is a label, or None where it has nothing to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from agents.tuning.records import NOISY, USEFUL
from agents.tuning.trajectory_files import Trajectory
from zs_env.search.engine import Document
from zs_env.task.entities import find_entities
from zs_env.task.miniwiki import RELATIONS, Fact, Plan, aliases, default_world
from zs_env.task.questions import Question
from zs_env.task.rewards import normalise

_GRADES: Final = ("em", "f1")
_YES_NO: Final = frozenset({"yes", "no"})
# Normalisation joins what these stand between; "London-based" names London all the same.
_JOINTS: Final = re.compile("[-/\u2010-\u2015]")


@dataclass(frozen=True, slots=True)
class OutcomeRule:
    """When a trajectory ended well.

    Attributes:
        grade: "em" (exact match) or "f1".
        threshold: Its least value, in (0, 1].

    Raises:
        ValueError: If one is out of range.
    """

    grade: str = "em"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.grade not in _GRADES:
            raise ValueError(f"`grade` must be one of {', '.join(_GRADES)}, got {self.grade!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"`threshold` must be in (0, 1], got {self.threshold!r}")

    def signal(self, trajectory: Trajectory) -> str | None:
        """Return what the end says of every search; None if nobody answered."""
        grade = trajectory.exact_match if self.grade == "em" else trajectory.f1
        return None if grade is None else _label(grade >= self.threshold)


def _label(useful: bool) -> str:
    return USEFUL if useful else NOISY


def evidence(trajectory: Trajectory, index: int) -> str | None:
    """Return what the documents of one search say.

    What annotators say counts. Else, for a question of MiniWiki, documents are useful if one of
    them states the fact of the question's plan that the query asks for, and noisy if not. Else
    they are useful if they hold a golden answer, or a name that leads on: one that a later query
    takes up. Without either they are noisy, unless no answer could show: one that is yes or no,
    or that the question or the query itself names.

    Args:
        trajectory: All searches for the question.
        index: Which one is meant.
    """
    search, question = trajectory.searches[index], trajectory.question
    if search.supporting is not None:
        return _label(search.supporting)
    if plan := find_plan(question):
        return _label(any(states(search.documents, fact) for fact in asked(plan, search.query)))
    telling = telling_answers(question, search.query)
    if mentions(search.documents, telling) or leads_on(trajectory, index):
        return USEFUL
    return NOISY if telling else None


def holds_answer(question: Question, documents: Sequence[Document]) -> bool:
    """Return whether a document holds a golden answer; never for a question of yes or no."""
    return mentions(documents, _answers(question))


def telling_answers(question: Question, query: str) -> tuple[str, ...]:
    """Return the golden answers whose presence in a document tells something.

    Example:
        >>> asked = Question("1", "Who is older, Ann or Bo?", ("Bo", "Bo Derek", "Ms Derek"))
        >>> telling_answers(asked, "Bo Derek born")
        ('Ms Derek',)
    """
    before = [Document(question.text), Document(query)]
    return tuple(answer for answer in _answers(question) if not mentions(before, [answer]))


def _answers(question: Question) -> tuple[str, ...]:
    return tuple(a for a in question.golden_answers if normalise(a) not in _YES_NO | {""})


def mentions(documents: Sequence[Document], names: Sequence[str]) -> bool:
    """Return whether a document, its title included, holds a name as whole words.

    Example:
        >>> mentions([Document("A Marsupial.", title="On Mars")], ["the mars"])
        True
        >>> mentions([Document("A Marsupial.")], ["Mars"])
        False
    """
    wanted = {form for name in names for form in _forms(name)}
    texts = [form for d in documents for form in _forms(f"{d.title} {d.text}")]
    return any(name in text for name in wanted for text in texts)


def _forms(text: str) -> set[str]:
    """Return the words of a text between spaces, with and without words taken apart."""
    forms = {normalise(text), normalise(_JOINTS.sub(" ", text))} - {""}
    return {f" {form} " for form in forms}


# --- the plan of a MiniWiki question ------------------------------------------------------------


def find_plan(question: Question) -> Plan | None:
    """Return the plan of a question of the world that ships with the package, None for others."""
    plan = _plans().get(question.text)
    return plan if plan and plan.question.data_source == question.data_source else None


@cache
def _plans() -> Mapping[str, Plan]:
    worlds = default_world().worlds.values()
    return {
        plan.question.text: plan for world in worlds for plan in (*world.plans, *world.hard_plans)
    }


def asked(plan: Plan, query: str) -> list[Fact]:
    """Return the facts of a plan whose subject a query names."""
    return [fact for fact in plan.facts if mentions([Document(query)], [fact.subject])]


def states(documents: Sequence[Document], fact: Fact) -> bool:
    """Return whether one document names both ends of a fact; an alias of its object will do."""
    objects = (fact.object, *aliases(fact.object, RELATIONS[fact.relation].object))
    return any(mentions([d], [fact.subject]) and mentions([d], objects) for d in documents)


# --- the way to the answer of any question ------------------------------------------------------


def leads_on(trajectory: Trajectory, index: int) -> bool:
    """Return whether documents hold a name that a later query takes up.

    Names are words with a capital and numbers. One that the question or a query up to that later
    one held before was not found here.
    """
    found = _names("\n".join(f"{d.title}\n{d.text}" for d in trajectory.searches[index].documents))
    known = _words(trajectory.question.text)
    for place, search in enumerate(trajectory.searches):
        if place > index and found & (_names(search.query) - known):
            return True
        known |= _words(search.query)
    return False


def _names(text: str) -> set[str]:
    words = {word for name in find_entities(text) for word in _words(name)}
    return {word for word in words if len(word) > 1 and word != "of"}


def _words(text: str) -> set[str]:
    return set(normalise(_JOINTS.sub(" ", text)).split())
