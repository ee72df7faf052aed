"""Episodes of a size that is wanted: what is shown is random, and no text ends before its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from agents.policies.causal_lm import CausalLMPolicy
from agents.trajectory import Trajectory, Turn
from zs_env.lm.decoding import MayEnd
from zs_env.lm.generator import SamplingParams

GROUP: Final = 8


@dataclass(frozen=True)
class Size:
    """How large the episodes of a batch are.

    Attributes:
        episodes: Slots.
        turns: Actions of an episode.
        shown: Tokens that the environment shows before each action.
        action: Tokens of an action.
    """

    episodes: int = 128
    turns: int = 3
    shown: int = 40
    action: int = 16

    @property
    def context(self) -> int:
        """Tokens of an episode."""
        return self.turns * (self.shown + self.action)


def play(policy: CausalLMPolicy, size: Size) -> list[Trajectory]:
    """Let a policy write episodes; the last turn of one in each group earns 1."""
    generator: Any = policy._generator
    generator.may_end = lambda stop: MayEnd(frozenset(), lambda ids: None)
    session = policy.session(size.episodes)
    numbers = np.random.default_rng(0)
    slots = range(size.episodes)
    episodes = [Trajectory(group=slot // GROUP, question_id=str(slot)) for slot in slots]
    for turn in range(size.turns):
        ids = numbers.integers(1, len(policy.tokenizer), (size.episodes, size.shown)).tolist()
        seeds = [slot * size.turns + turn for slot in slots]
        written = session.generate(slots, ids, seeds, SamplingParams(size.action))
        for slot, shown, completion in zip(slots, ids, written, strict=True):
            assert len(completion.token_ids) == size.action
            episode = episodes[slot]
            episode.observe(shown)
            start = len(episode.token_ids)
            episode.act(completion.token_ids, completion.logprobs)
            reward = float(slot % GROUP == 0 and turn == size.turns - 1)
            end = len(episode.token_ids)
            episode.turns.append(Turn("", "search", False, reward, start, end))
    return episodes
