"""Hyper-parameters of training that do not depend on the algorithm."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerConfig:
    """Hyper-parameters that all algorithms share.

    Attributes:
        learning_rate: Of AdamW; constant.
        max_grad_norm: Gradients are scaled down to this norm.
        num_minibatches: Gradient steps a pass over a batch; groups are never split.
        max_tokens_per_pass: Padded tokens of one forward and backward pass; bounds memory only.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling during training, above 0.
        seed: Key of questions, noise and sampling.
    """

    learning_rate: float = 1.5e-4
    max_grad_norm: float = 1.0
    num_minibatches: int = 2
    max_tokens_per_pass: int = 2048
    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be greater than 0, got {getattr(self, name)!r}")
        for name in ("num_minibatches", "max_tokens_per_pass", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}")
