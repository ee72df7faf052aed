"""Curricula: the probability of noisy documents as a function of training progress.

They reach an environment as data, `reset(options={"noise": curriculum(progress)})`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExponentialCurriculum:
    """The paper's curriculum (arXiv 2505.04588, eq. 3), exact at both ends.

    p(x) = start + (base**x - 1) / (base - 1) * (end - start) for progress x in [0, 1].

    Attributes:
        start: Probability at the beginning of training.
        end: Probability at its end.
        base: How late the rise comes; above 1 late, below 1 early, 1 is linear.

    Example:
        >>> [round(ExponentialCurriculum()(x), 3) for x in (0.0, 0.5, 1.0)]
        [0.0, 0.167, 0.5]
    """

    start: float = 0.0
    end: float = 0.5
    base: float = 4.0

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"`{name}` must be a probability in [0, 1], got {getattr(self, name)!r}"
                )
        if not 0 < self.base < math.inf:
            raise ValueError(f"`base` must be greater than 0 and finite, got {self.base!r}")

    def __call__(self, progress: float) -> float:
        """Return the noise probability at `progress` in [0, 1]; beyond, that of the nearer end."""
        progress = min(1.0, max(0.0, progress))
        if progress == 1:
            return self.end  # the sum below rounds: 1 + (0.05 - 1) is not 0.05
        if self.base == 1:
            share = progress
        else:
            share = (self.base**progress - 1) / (self.base - 1)
        noise = self.start + share * (self.end - self.start)
        return min(max(noise, min(self.start, self.end)), max(self.start, self.end))
