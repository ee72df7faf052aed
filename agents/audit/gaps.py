"""How far the sampler's log-probabilities are from what the weights say now."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from agents.audit.case import Case
from agents.audit.report import Check, Violation
from agents.batch import Batch
from agents.policies.policy import Policy

_Key = tuple[int, int | None]  # an episode, and a turn of it; None after the last


@dataclass(frozen=True, slots=True)
class Gaps:
    """The distances of the N action tokens of a batch, on the CPU.

    Attributes:
        rows: (N,) which episode.
        places: (N,) which token of it.
        stored: (N,) the sampler's log-probability.
        scored: (N,) the trainer's.
    """

    rows: torch.Tensor
    places: torch.Tensor
    stored: torch.Tensor
    scored: torch.Tensor

    @property
    def distances(self) -> torch.Tensor:
        """(N,) how far the two are apart; NaN where one is none."""
        return (self.stored - self.scored).abs()


def measure_gaps(policy: Policy, batch: Batch, temperature: float, max_tokens: int) -> Gaps:
    """Score every action token once, as the learner does: padded, in buckets of similar length.

    Args:
        policy: Whose weights score.
        batch: What is scored.
        temperature: Of sampling.
        max_tokens: Padded tokens of one forward pass.
    """
    parts = []
    for indices in batch.buckets(max_tokens, torch.arange(len(batch))):
        rows = batch.rows(indices)
        mask = rows.action_mask[:, 1:]
        with torch.no_grad():
            scored = policy.score(rows, temperature).logprobs.cpu()
        row, place = mask.nonzero(as_tuple=True)
        parts.append((indices[row], place + 1, rows.logprobs[:, 1:][mask], scored))
    return Gaps(*(torch.cat(column) for column in zip(*parts, strict=True)))


def gap_violations(cases: Sequence[Case], gaps: Gaps, tolerance: float) -> Iterator[Violation]:
    """Yield, for each turn that has one, the span of its tokens that are too far apart."""
    # Not "greater than the tolerance": NaN is no agreement.
    wrong = (~(gaps.distances <= tolerance)).nonzero().flatten().tolist()
    by_turn: dict[_Key, list[int]] = defaultdict(list)
    for index in wrong:
        row, place = int(gaps.rows[index]), int(gaps.places[index])
        by_turn[row, cases[row].turn_at(place)].append(index)
    for (row, turn), indices in sorted(by_turn.items(), key=_in_order):
        places = gaps.places[indices]
        worst = max(indices, key=lambda index: float(gaps.distances[index].nan_to_num(torch.inf)))
        problem = (
            f"{len(indices)} of the sampler's log-probabilities should be the trainer's within "
            f"{tolerance:g}; worst at token {int(gaps.places[worst])}: sampled at "
            f"{float(gaps.stored[worst]):.6g}, trained at {float(gaps.scored[worst]):.6g}"
        )
        yield cases[row].violation(
            Check.LOGPROBS, int(places.min()), int(places.max()) + 1, problem, turn
        )


def _in_order(item: tuple[_Key, list[int]]) -> tuple[int, float]:
    (row, turn), _ = item
    return row, math.inf if turn is None else turn
