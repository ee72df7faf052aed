"""What happened in one episode, token by token, exactly as the policy saw and sampled it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: what the agent wrote, what it did, and what came back.

    Attributes:
        action: The sampled text.
        kind: What the environment made of it: search, answer or malformed.
        noisy: Whether the search asked for noisy documents.
        reward: The environment's reward of this turn.
        start: Index of the first sampled token in the trajectory.
        end: Index after the last sampled token.
        observation: What the environment showed next; empty after the last turn.
    """

    action: str
    kind: str
    noisy: bool
    reward: float
    start: int
    end: int
    observation: str = ""


@dataclass(slots=True)
class Trajectory:
    """One episode as tokens.

    The three per-token lists grow together, through `observe` and `act` only, so that mask and
    log-probabilities cannot slip against the ids. Nothing is decoded and encoded again.

    Attributes:
        token_ids: Everything in the policy's context, in order.
        action_mask: True where the policy sampled the token.
        logprobs: The sampler's log-probability of each sampled token, 0 elsewhere.
        advantages: What a learner made of each token, 0 off the mask; empty where nothing was
            learned from the episode.
        turns: One record a turn.
        group: Id of the group of episodes that share question and noise.
        question_id: What was asked.
        prompt: The text that the environment opened with; empty where nobody wrote it down.
        outcome: The environment's final info: answer, exact_match, f1, stop_reason, …
        truncated: Whether the environment cut the episode off.
    """

    token_ids: list[int] = field(default_factory=list)
    action_mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    group: int = 0
    question_id: str = ""
    prompt: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)
    truncated: bool = False

    def observe(self, token_ids: Sequence[int]) -> None:
        """Append what the environment wrote."""
        self._extend(token_ids, False, [0.0] * len(token_ids))

    def act(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Append what the policy sampled.

        Raises:
            ValueError: If there is not one log-probability a token.
        """
        if len(token_ids) != len(logprobs):
            raise ValueError(
                f"`logprobs` must have one entry a token ({len(token_ids)}), got {len(logprobs)}"
            )
        self._extend(token_ids, True, logprobs)

    def _extend(self, token_ids: Sequence[int], is_action: bool, logprobs: Sequence[float]) -> None:
        self.token_ids.extend(token_ids)
        self.action_mask.extend([is_action] * len(token_ids))
        self.logprobs.extend(logprobs)

    @property
    def reward(self) -> float:
        """Sum of the turns' rewards."""
        return sum(turn.reward for turn in self.turns)

    @property
    def num_action_tokens(self) -> int:
        """Number of sampled tokens."""
        return sum(self.action_mask)
