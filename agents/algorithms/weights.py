"""How much each action token counts in the loss."""

from __future__ import annotations

import torch


def episode_weights(mask: torch.Tensor) -> torch.Tensor:
    """Return weights that give every episode the same say, whatever its length.

    Args:
        mask: (B, T) bool, the action tokens.

    Returns:
        (B, T): they add up to 1 over the episodes that acted, and are 0 off the mask.

    Example:
        >>> episode_weights(torch.tensor([[True, True], [True, False]]))
        tensor([[0.2500, 0.2500],
                [0.5000, 0.0000]])
    """
    tokens = mask.float().sum(1, keepdim=True)
    acting = (tokens > 0).sum().clamp(min=1)
    return mask.float() / tokens.clamp(min=1) / acting


def token_weights(mask: torch.Tensor) -> torch.Tensor:
    """Return weights that give every action token of the batch the same say.

    Args:
        mask: (B, T) bool, the action tokens.

    Returns:
        (B, T): they add up to 1, and are 0 off the mask.
    """
    return mask.float() / mask.sum().clamp(min=1)
