"""Advantages as pure functions of rewards."""

from __future__ import annotations

import torch


def group_advantages(
    rewards: torch.Tensor, groups: torch.Tensor, *, scale: bool = True, epsilon: float = 1e-6
) -> torch.Tensor:
    """Return each episode's reward relative to its group: GRPO (arXiv 2402.03300, section 4.1).

    Args:
        rewards: (B,).
        groups: (B,) ids of the groups, in [0, B).
        scale: Whether to divide by the group's standard deviation (of the population, so that
            groups of two are defined).
        epsilon: Added to the standard deviation.

    Returns:
        (B,): they add up to 0 in every group, and are 0 in a group of equal rewards.

    Example:
        >>> group_advantages(torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0, 0, 1]), scale=False)
        tensor([ 0.5000, -0.5000,  0.0000])
    """
    sizes = torch.zeros_like(rewards).index_add_(0, groups, torch.ones_like(rewards))
    # Measured from the group's lowest reward: a sum of equal rewards would round, and dividing
    # what is left of it by as small a deviation would make an advantage out of nothing.
    lowest = torch.full_like(rewards, torch.inf).scatter_reduce(0, groups, rewards, "amin")
    above = rewards - lowest[groups]
    sums = torch.zeros_like(rewards).index_add_(0, groups, above)
    centred = above - (sums / sizes.clamp(min=1))[groups]
    if not scale:
        return centred
    squares = torch.zeros_like(rewards).index_add_(0, groups, centred**2)
    return centred / ((squares / sizes.clamp(min=1)).sqrt()[groups] + epsilon)


def leave_one_out(rewards: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Return each reward minus the mean of the others in its group: RLOO (arXiv 2402.14740).

    Args:
        rewards: (B,).
        groups: (B,) ids of the groups, in [0, B).

    Returns:
        (B,): they add up to 0 in every group; an episode without others has 0.

    Example:
        >>> leave_one_out(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0, 0, 0]))
        tensor([ 0.7500, -0.7500,  0.0000])
    """
    sizes = torch.zeros_like(rewards).index_add_(0, groups, torch.ones_like(rewards))[groups]
    # r - (sum - r) / (n - 1) = (r - sum / n) * n / (n - 1)
    return group_advantages(rewards, groups, scale=False) * sizes / (sizes - 1).clamp(min=1)


def whiten(values: torch.Tensor, mask: torch.Tensor, epsilon: float = 1e-6) -> torch.Tensor:
    """Return `values` with mean 0 and standard deviation 1 over the mask.

    Args:
        values: (B, T).
        mask: (B, T) bool; nothing off it is looked at.
        epsilon: Added to the standard deviation (of the population).

    Returns:
        (B, T), 0 off the mask, and everywhere if all values are equal or there is none.
    """
    if not mask.any():
        return torch.zeros_like(values)
    # Measured from the lowest, as in `group_advantages`, so that equal values leave exactly 0.
    above = torch.where(mask, values - values[mask].min(), 0.0)
    centred = torch.where(mask, above - above.sum() / mask.sum(), 0.0)
    return centred / ((centred**2).sum().div(mask.sum()).sqrt() + epsilon)
