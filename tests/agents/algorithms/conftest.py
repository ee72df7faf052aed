"""Episodes with given tokens, and what a loss sees of them."""

from dataclasses import replace

import pytest
import torch

from agents.algorithms.algorithm import CriticView, TokenView
from agents.batch import Batch
from agents.trajectory import Trajectory, Turn


def episode(*parts, rewards=None, group=0, logprobs=None, **fields):
    """Return an episode of (observation, action) turns.

    Args:
        parts: Pairs of lengths, or of lists of ids.
        rewards: One a turn; a single number is that of the last turn.
        group: Its group's id.
        logprobs: The sampler's, one an action token; -1 each by default.
        fields: Other fields of the trajectory.
    """
    pairs = [tuple(_ids(part) for part in pair) for pair in parts]
    if not isinstance(rewards, list):
        rewards = [0.0] * (len(pairs) - 1) + [rewards or 0.0]
    drawn = iter(logprobs or [-1.0] * sum(len(action) for _, action in pairs))
    trajectory = Trajectory(group=group, **fields)
    for (read, written), reward in zip(pairs, rewards, strict=True):
        trajectory.observe(read)
        start = len(trajectory.token_ids)
        trajectory.act(written, [next(drawn) for _ in written])
        turn = Turn("", "search", False, reward, start, len(trajectory.token_ids))
        trajectory.turns.append(turn)
    return trajectory


def _ids(part):
    return part if isinstance(part, list) else [(7 * i + 3 * part) % 300 + 1 for i in range(part)]


def flat(batch, tokens):
    return tokens[:, 1:][batch.action_mask[:, 1:]]


def look(batch, targets, logprobs, reference=None, values=None):
    """Return what a loss sees of a whole batch; `logprobs` and the others are flat or (B, T)."""

    def flattened(tokens):
        return tokens if tokens is None or tokens.ndim == 1 else flat(batch, tokens)

    view = TokenView(
        flattened(logprobs),
        flat(batch, batch.logprobs),
        flat(batch, targets.advantages),
        flat(batch, targets.weights),
        torch.nonzero(batch.action_mask[:, 1:])[:, 0],
        flattened(reference),
    )
    if targets.critic is None:
        return view
    critic = targets.critic
    side = CriticView(
        flattened(batch.values if values is None else values),
        flat(batch, batch.values),
        flat(batch, critic.returns),
        flat(batch, critic.weights),
    )
    return replace(view, critic=side)


def stack(*episodes, **tensors):
    """Return the batch of some episodes, with `values` or `reference_logprobs` if given."""
    return replace(Batch.from_trajectories(episodes), **tensors)


@pytest.fixture(name="episode")
def episode_fixture():
    """Return the function that makes an episode."""
    return episode


@pytest.fixture(name="look")
def look_fixture():
    """Return the function that shows a batch to a loss."""
    return look


@pytest.fixture(name="stack")
def stack_fixture():
    """Return the function that makes a batch."""
    return stack
