"""One episode under audit, and all that is known besides its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agents.audit.report import Check, Violation
from agents.trajectory import Trajectory, Turn
from zs_env.task.actions import Action, ActionGrammar


class Codec(Protocol):
    """What turns texts into ids and back, and how many ids its model can read."""

    @property
    def max_context(self) -> int:
        """Number of tokens that a context can hold."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with no special token added."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        ...

    def end_ids(self) -> frozenset[int]:
        """Return the ids that end a text, and are no part of an action's."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What an audit is told besides the episodes.

    Attributes:
        codec: Of the policy.
        stops: Strings that end an action.
        parse: From an agent's text to its action, where the environment publishes our grammar.
        max_new_tokens: Tokens of an action at most; None where that is unknown.
    """

    codec: Codec
    stops: tuple[str, ...] = ()
    parse: Callable[[str], Action] | None = None
    max_new_tokens: int | None = None

    @classmethod
    def of(
        cls, codec: Codec, metadata: Mapping[str, Any], max_new_tokens: int | None = None
    ) -> Facts:
        """Return what an environment that has this metadata publishes."""
        grammar = metadata.get("grammar")
        parse = grammar.parse if isinstance(grammar, ActionGrammar) else None
        return cls(codec, tuple(metadata.get("action_stops", ())), parse, max_new_tokens)


@dataclass(frozen=True, slots=True)
class Case:
    """One episode.

    Attributes:
        number: Its index in the batch.
        trajectory: What is audited.
        facts: What is known besides.
    """

    number: int
    trajectory: Trajectory
    facts: Facts

    @property
    def turns(self) -> list[Turn]:
        """The turns of the episode."""
        return self.trajectory.turns

    def text(self, start: int, end: int) -> str:
        """Return the decoded tokens of a span."""
        return self.facts.codec.decode(self.trajectory.token_ids[start:end])

    def own_text(self, turn: Turn) -> str:
        """Return the decoded tokens of a turn that the mask gives to the agent."""
        trajectory = self.trajectory
        pairs = zip(trajectory.token_ids, trajectory.action_mask, strict=True)
        own = [token for token, sampled in list(pairs)[turn.start : turn.end] if sampled]
        return self.facts.codec.decode(own)

    def turn_at(self, place: int) -> int | None:
        """Return the turn that sampled a token, or read it just before; None after the last."""
        return next((n for n, turn in enumerate(self.turns) if place < turn.end), None)

    def violation(
        self, check: Check, start: int, end: int, expected: str, turn: int | None = None
    ) -> Violation:
        """Return a violation; where `turn` is None, the turn at `start` is to blame."""
        turn = self.turn_at(start) if turn is None else turn
        return Violation(check, self.number, turn, start, end, self.text(start, end), expected)


def runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of consecutive numbers in a rising sequence, each as (start, end).

    Example:
        >>> list(runs([1, 2, 3, 7, 9, 10]))
        [(1, 4), (7, 8), (9, 11)]
    """
    if not places:
        return
    start = previous = places[0]
    for place in places[1:]:
        if place != previous + 1:
            yield start, previous + 1
            start = place
        previous = place
    yield start, previous + 1


def differing(found: Sequence[Any], wanted: Sequence[Any]) -> tuple[int, int] | None:
    """Return the span of `found` outside which it equals `wanted`; None if they are equal.

    Example:
        >>> differing("abcd", "abXd"), differing("ad", "abcd"), differing("ab", "ab")
        ((2, 3), (1, 1), None)
    """
    if list(found) == list(wanted):
        return None
    shorter = min(len(found), len(wanted))
    start = next((i for i in range(shorter) if found[i] != wanted[i]), shorter)
    rest = shorter - start
    kept = next((i for i in range(rest) if found[-1 - i] != wanted[-1 - i]), rest)
    return start, len(found) - kept
