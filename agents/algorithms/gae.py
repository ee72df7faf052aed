"""Generalised advantage estimation (arXiv 1506.02438) in three time axes.

Time passes with what the agent does, never with what it reads: an observation token is no step.
The value of a step is that of the state before it. Episodes end with their last step: one that
was cut off is worth what it earned, since running out of turns is part of the task, and a value
for what might have come would reward an agent for never answering.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Decay:
    """How far ahead an estimate looks; both are shares in [0, 1].

    Attributes:
        gamma: What a reward is worth one step earlier.
        gae_lambda: 0 trusts the next value, 1 trusts only what was really earned.
    """

    gamma: float = 1.0
    gae_lambda: float = 1.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What came of the steps.

    Attributes:
        advantages: (B, T), 0 off the action tokens.
        returns: (B, T), advantage plus value: what the critic is to predict.
        steps: (B, T) bool, the tokens at which the critic is asked.
    """

    advantages: torch.Tensor
    returns: torch.Tensor
    steps: torch.Tensor


def gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    steps: torch.Tensor,
    decay: Decay,
    ends: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the advantage of each step.

    With d(t) = r(t) + gamma V(t+1) - V(t), the advantage is d(t) + gamma lambda A(t+1), where t+1
    is the next *step* and all is 0 after the last one.

    Args:
        rewards: (B, T) earned by each step.
        values: (B, T) of the state before each step.
        steps: (B, T) bool; columns off it are skipped.
        decay: gamma and lambda.
        ends: (B, T) bool, steps after which nothing follows; None for the last ones only.

    Returns:
        (B, T), 0 off the steps.

    Example:
        >>> gae(
        ...     torch.tensor([[0.0, 9.0, 1.0]]),
        ...     torch.tensor([[0.5, 9.0, 0.25]]),
        ...     torch.tensor([[True, False, True]]),
        ...     Decay(1.0, 1.0),
        ... )
        tensor([[0.5000, 0.0000, 0.7500]])
    """
    advantages = torch.zeros_like(values)
    next_value, next_advantage = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        here = steps[:, t]
        if ends is not None:
            next_value = next_value.masked_fill(ends[:, t], 0.0)
            next_advantage = next_advantage.masked_fill(ends[:, t], 0.0)
        delta = rewards[:, t] + decay.gamma * next_value - values[:, t]
        advantage = delta + decay.gamma * decay.gae_lambda * next_advantage
        advantages[:, t] = torch.where(here, advantage, 0.0)
        next_value = torch.where(here, values[:, t], next_value)
        next_advantage = torch.where(here, advantage, next_advantage)
    return advantages


def token_gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, decay: Decay
) -> Estimate:
    """Take one step an action token.

    Args:
        rewards: (B, T), on the mask.
        values: (B, T) of the state before each token.
        mask: (B, T) bool, the action tokens.
        decay: From one action token to the next, whatever was read in between.
    """
    advantages = gae(rewards, values, mask, decay)
    return Estimate(advantages, (advantages + values) * mask, mask)


def turn_gae(
    rewards: torch.Tensor, values: torch.Tensor, turn_ids: torch.Tensor, decay: Decay
) -> Estimate:
    """Take one step a turn, whose tokens share an advantage.

    Args:
        rewards: (B, T), on action tokens.
        values: (B, T); only those of each turn's first token are looked at.
        turn_ids: (B, T) int64, the turn of each action token, -1 elsewhere.
        decay: From one turn to the next.
    """
    first = _starts(turn_ids)
    advantages, returns, _ = _turns(rewards, values, turn_ids, decay)
    return Estimate(_spread(advantages, turn_ids), _spread(returns, turn_ids) * first, first)


def bi_level_gae(
    rewards: torch.Tensor,
    values: torch.Tensor,
    turn_ids: torch.Tensor,
    turn_decay: Decay,
    token_decay: Decay,
) -> Estimate:
    """Take one step a turn first, then one step a token inside each turn.

    What follows a turn, by the estimate of the turns, stands where the tokens inside it find
    their last reward (as in arXiv 2510.16907, but that the value of a turn is
    taken before its first token and not before its last).

    Args:
        rewards: (B, T), on action tokens.
        values: (B, T) of the state before each token.
        turn_ids: (B, T) int64, the turn of each action token, -1 elsewhere.
        turn_decay: From one turn to the next.
        token_decay: From one token to the next inside a turn.
    """
    mask = turn_ids >= 0
    last = _starts(turn_ids.flip(1)).flip(1)
    _, returns, earned = _turns(rewards, values, turn_ids, turn_decay)
    following = _spread(returns - earned, turn_ids) * last
    advantages = gae(rewards + following, values, mask, token_decay, ends=last)
    return Estimate(advantages, (advantages + values) * mask, mask)


def _turns(
    rewards: torch.Tensor, values: torch.Tensor, turn_ids: torch.Tensor, decay: Decay
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the advantage, the return and the reward of each turn, (B, turns)."""
    first = _starts(turn_ids)
    earned, start_values = _sums(rewards, turn_ids), _sums(values * first, turn_ids)
    advantages = gae(earned, start_values, _sums(first.float(), turn_ids) > 0, decay)
    return advantages, advantages + start_values, earned


def _starts(turn_ids: torch.Tensor) -> torch.Tensor:
    """Return where a turn has its first token, (B, T) bool."""
    starts = turn_ids >= 0
    starts[:, 1:] &= turn_ids[:, 1:] != turn_ids[:, :-1]
    return starts


def _sums(tokens: torch.Tensor, turn_ids: torch.Tensor) -> torch.Tensor:
    """Return the sum over each turn, (B, turns)."""
    num_turns = int(turn_ids.max()) + 1 if turn_ids.numel() else 0
    sums = tokens.new_zeros(len(tokens), max(1, num_turns))
    return sums.scatter_add_(1, turn_ids.clamp(min=0), tokens * (turn_ids >= 0))


def _spread(turns: torch.Tensor, turn_ids: torch.Tensor) -> torch.Tensor:
    """Return for each action token what its turn has, (B, T), 0 elsewhere."""
    return turns.gather(1, turn_ids.clamp(min=0)) * (turn_ids >= 0)
