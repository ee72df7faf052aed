"""Programs that play over a policy: some of an action they write, the rest it does.

A forced part is read by the policy as if it had written it, so that even a model that knows only
its own protocol can be made to answer at once, or to think first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents.baselines.rules import PlayRules
from agents.policies.keyed import Keyed
from agents.policies.opening import encode_opening
from zs_env.lm.generator import Completion, SamplingParams, TokenGenerator, TokenSession
from zs_env.random import derive

_SIDE: Final = 1 << 20  # of the counters of a slot's draws: those of side contexts


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an action.

    Attributes:
        opening: What the program writes.
        stops: Strings up to which the policy goes on; none means that it does not.
        closing: What the program ends the part with if the policy has not.
        holds_no_tag: Whether what the policy wrote counts up to its first "<" only, so that
            nothing in it acts.
        unless_answered: Whether the part is left out after an action that is complete.
    """

    opening: str
    stops: tuple[str, ...] = ()
    closing: str = ""
    holds_no_tag: bool = False
    unless_answered: bool = False

    def text(self, written: str) -> str:
        """Return the part of the action, given what the policy wrote."""
        if self.holds_no_tag:
            return self.opening + written.partition("<")[0] + self.closing
        ended = not self.stops or written.endswith(self.stops)
        return self.opening + written + ("" if ended else self.closing)


THOUGHT: Final = Part("<think>", ("</think>",), "</think>")
ANSWER: Final = Part("<answer>", ("</answer>",), "</answer>", holds_no_tag=True)


class Program(ABC):
    """Says what an action is made of."""

    @abstractmethod
    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return the parts of an action.

        Args:
            question: What is asked.
            turn: Actions taken before it.
            is_last: Whether the episode ends with it.
        """


@dataclass(slots=True)
class Slot:
    """What a program remembers of a slot.

    Attributes:
        question: What is asked.
        turn: Actions taken in this episode.
        num_episodes: Episodes begun, this one included.
        unread: Ids that the context does not hold yet.
        action: The latest action, as far as it is written.
        num_tokens: What the policy wrote of it.
    """

    question: str = ""
    turn: int = 0
    num_episodes: int = 0
    unread: list[int] = field(default_factory=list)
    action: str = ""
    num_tokens: int = 0


@dataclass(slots=True)
class ProgramState:
    """All slots and their contexts."""

    session: TokenSession
    slots: list[Slot]


class ProgramAgent(Keyed):
    """Plays a program over a policy."""

    def __init__(self, policy: TokenGenerator, program: Program, rules: PlayRules) -> None:
        """Set up the agent.

        Args:
            policy: Writes what the program leaves to it.
            program: Writes the rest.
            rules: Of the episodes.
        """
        self._policy, self._program, self._rules = policy, program, rules

    def predict(
        self,
        observations: Sequence[str],
        state: ProgramState | None,
        episode_start: NDArray[np.bool_],
        deterministic: bool = True,
    ) -> tuple[list[str], ProgramState]:
        """Write an action for every slot; see `agents.agent.Agent`."""
        if state is None:
            state = ProgramState(
                self._policy.session(len(observations)), [Slot() for _ in observations]
            )
        active = [index for index, text in enumerate(observations) if text]
        self._begin(observations, state, np.flatnonzero(episode_start).tolist(), active)
        temperature = 0.0 if deterministic else self._rules.temperature or 1.0
        opened = {index for index in active if episode_start[index]}
        self._read(observations, state, [i for i in active if i not in opened], temperature)
        self._write(state, active, temperature)
        for index in active:
            state.slots[index].turn += 1
        return [slot.action for slot in state.slots], state

    def tokens_written(self, state: ProgramState) -> list[int]:
        """Return the tokens of each slot's latest action; see `agents.agent.TokenCounter`."""
        return [slot.num_tokens for slot in state.slots]

    def _begin(
        self,
        observations: Sequence[str],
        state: ProgramState,
        started: Sequence[int],
        active: Sequence[int],
    ) -> None:
        state.session.clear(started)
        for index in started:
            state.slots[index] = Slot(
                question=self._rules.question_in(observations[index]),
                num_episodes=state.slots[index].num_episodes + 1,
            )
        for index in set(started) & set(active):
            state.slots[index].unread = encode_opening(self._policy, observations[index])
        for slot in state.slots:
            slot.num_tokens = 0

    def _read(
        self,
        observations: Sequence[str],
        state: ProgramState,
        shown: Sequence[int],
        temperature: float,
    ) -> None:
        """Take up what the environment showed some slots after their actions."""
        for index in shown:
            state.slots[index].unread += self._policy.encode(observations[index])

    def _write(self, state: ProgramState, active: Sequence[int], temperature: float) -> None:
        """Write an action in each active slot, part by part."""
        plans = {}
        for index, slot in enumerate(state.slots):
            slot.action = ""
            if index in active:
                is_last = self._rules.is_last(slot.turn)
                plans[index] = self._program.parts(slot.question, slot.turn, is_last)
        for step in range(max(map(len, plans.values()), default=0)):
            todo = {index: parts[step] for index, parts in plans.items() if step < len(parts)}
            for part in dict.fromkeys(todo.values()):
                rows = [index for index in todo if todo[index] == part]
                self._write_part(state, rows, part, step, temperature)

    def _write_part(
        self, state: ProgramState, rows: list[int], part: Part, step: int, temperature: float
    ) -> None:
        if part.unless_answered:
            rows = [i for i in rows if not state.slots[i].action.endswith("</answer>")]
        for index in rows:
            state.slots[index].unread += self._policy.encode(part.opening) if part.opening else []
        if not part.stops:
            for index in rows:
                state.slots[index].action += part.text("")
            return
        for index, done in zip(
            rows, self._go_on(state, rows, part, step, temperature), strict=True
        ):
            slot, text = state.slots[index], part.text(done.text)
            missing = text.removeprefix(part.opening + done.text)
            slot.unread = self._policy.encode(missing) if missing and not part.holds_no_tag else []
            slot.action += text
            slot.num_tokens += len(done.token_ids)

    def _go_on(
        self, state: ProgramState, rows: list[int], part: Part, step: int, temperature: float
    ) -> list[Completion]:
        if not rows:
            return []
        return state.session.generate(
            rows,
            [state.slots[index].unread for index in rows],
            [self._key(state, index, step) for index in rows],
            SamplingParams(self._rules.max_new_tokens, temperature, part.stops),
        )

    def _key(self, state: ProgramState, index: int, step: int) -> int:
        slot = state.slots[index]
        name = self._name(index, slot.num_episodes)
        return derive(self._rules.seed, *name, slot.turn, step)

    def _complete_aside(
        self, state: ProgramState, rows: Sequence[int], texts: Sequence[str], temperature: float
    ) -> list[str]:
        """Return answers to texts in contexts of their own, up to the first "<" of each."""
        if not rows:
            return []
        opening = self._policy.encode(ANSWER.opening)
        done = self._policy.session(len(rows)).generate(
            range(len(rows)),
            [[*encode_opening(self._policy, text), *opening] for text in texts],
            [self._key(state, index, _SIDE) for index in rows],
            SamplingParams(self._rules.max_new_tokens, temperature, ANSWER.stops),
        )
        for index, each in zip(rows, done, strict=True):
            state.slots[index].num_tokens += len(each.token_ids)
        return [each.text.partition("<")[0].strip() for each in done]
