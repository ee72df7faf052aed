"""A searcher that follows rules: it reads MiniWiki's questions by their grammar, and no model.

It searches fact after fact, searches again in other words where documents do not state the fact,
and answers with what it found. On questions of another kind it searches for the question and
answers with the first name in the documents that the question does not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.baselines.documents import read_documents
from agents.baselines.grammar import Reading, queries, read_question, stated_objects
from agents.baselines.rag import search_for
from agents.baselines.rules import PlayRules
from zs_env.task.entities import find_entities


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the searcher stands in an episode.

    Attributes:
        question: What is asked.
        reading: What it asks; None if it is of no known kind.
        turn: Actions taken.
        results: What the finished searches of the reading found.
        found: Facts of the present search that were found: the last is where it goes on.
        tries: Searches for the present fact.
        guess: The best answer so far; empty if there is none.
    """

    question: str = ""
    reading: Reading | None = None
    turn: int = 0
    results: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    tries: int = 0
    guess: str = ""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to search for."""
        if self.reading is None:
            return bool(self.guess)
        return len(self.results) == len(self.reading.searches)

    @property
    def wanted(self) -> tuple[str, str] | None:
        """The entity and the relation to search for; None where no question was read."""
        if self.reading is None or self.is_done:
            return None
        search = self.reading.searches[len(self.results)]
        return [search.entity, *self.found][-1], search.relations[len(self.found)]


class ScriptedAgent:
    """Plays by rules."""

    def __init__(self, rules: PlayRules) -> None:
        """Set up the agent for episodes of these rules."""
        self._rules = rules

    def predict(
        self,
        observations: Sequence[str],
        state: list[Progress] | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], list[Progress]]:
        """Take the next step in every slot; see `agents.agent.Agent`."""
        slots = [Progress() for _ in observations] if state is None else list(state)
        actions = [""] * len(observations)
        for index, text in enumerate(observations):
            if not text:
                continue
            slots[index] = self._begin(text) if episode_start[index] else after(slots[index], text)
            actions[index] = self._act(slots[index])
            slots[index] = replace(slots[index], turn=slots[index].turn + 1)
        return actions, slots

    def _begin(self, observation: str) -> Progress:
        question = self._rules.question_in(observation)
        return Progress(question, read_question(question))

    def _act(self, progress: Progress) -> str:
        if progress.is_done or self._rules.is_last(progress.turn):
            return f"<answer>{answer(progress)}</answer>"
        if progress.wanted is None:
            return search_for(progress.question)
        ways = queries(*progress.wanted)
        return f"<search>{ways[progress.tries % len(ways)]}</search>"


def after(progress: Progress, observation: str) -> Progress:
    """Return where the searcher stands once it has read what its search brought."""
    texts = [f"{each.title} {each.text}".strip() for each in read_documents(observation)]
    guess = progress.guess or _first_new_name(texts, progress.question)
    if progress.wanted is None:
        return replace(progress, guess=guess)
    stated = [name for text in texts for name in stated_objects(text, *progress.wanted)]
    if not stated:
        return replace(progress, guess=guess, tries=progress.tries + 1)
    return _with_fact(replace(progress, tries=0, guess=stated[0]), stated[0])


def _with_fact(progress: Progress, name: str) -> Progress:
    """Return where the searcher stands once it has found the fact that it searched for."""
    assert progress.reading is not None
    found = (*progress.found, name)
    search = progress.reading.searches[len(progress.results)]
    if len(found) < len(search.relations):
        return replace(progress, found=found)
    return replace(progress, found=(), results=(*progress.results, name))


def answer(progress: Progress) -> str:
    """Return the answer as far as it is known."""
    reading = progress.reading
    if reading is None or not progress.is_done:
        return progress.guess or "unknown"
    if not reading.smaller:
        return progress.results[-1]
    pairs = zip(progress.results, reading.searches, strict=True)
    return min(pairs, key=lambda pair: (len(pair[0]), pair[0]))[1].entity


def _first_new_name(texts: Sequence[str], question: str) -> str:
    asked = set(find_entities(question))
    return next((name for text in texts for name in find_entities(text) if name not in asked), "")
