"""The audit of a batch: every check, once over every episode."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Protocol, runtime_checkable

from agents.audit.answers import answer_violations
from agents.audit.batches import reward_violations, row_violations
from agents.audit.case import Case, Codec, Facts
from agents.audit.gaps import Gaps, gap_violations, measure_gaps
from agents.audit.report import AuditReport, Check, CheckResult, Violation
from agents.audit.structure import frame_violations, structure_violations
from agents.audit.witness import Witness, witness_violations
from agents.batch import Batch
from agents.policies.policy import Policy
from agents.trajectory import Trajectory

TOLERANCE: Final = 1e-3
"""Distance of two log-probabilities of one token that is no violation, for float32.

A sampler reads a token at a time beside a cache, a trainer a whole row: the same sums in another
order. Logits are of the order of 10, where float32's steps are 1e-6, and some tens of roundings
lie on the way, so that distances of 1e-5 are what exact arithmetic looks like. Weights that are a
single gradient step older, or another temperature, make some of 1e-2 and more.
"""

TOLERANCE_BFLOAT16: Final = 0.5
"""The same for models that compute in bfloat16, whose steps are 0.03 to 0.06 for such logits.

It still tells another prompt or another model from the right one, but not weights that are a step
old.
"""


@runtime_checkable
class AuditedPolicy(Policy, Codec, Protocol):
    """A policy that can also turn ids into text, and knows the length of its context."""


def audit(
    policy: AuditedPolicy,
    trajectories: Sequence[Trajectory],
    *,
    metadata: Mapping[str, Any] | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    tolerance: float = TOLERANCE,
    batch: Batch | None = None,
    witness: Witness | None = None,
    max_tokens_per_pass: int = 2048,
) -> AuditReport:
    """Check that what is about to be learned from is what was sampled, and nothing else.

    It costs one forward pass over the batch, without gradients.

    Args:
        policy: What sampled, with the weights that it sampled with.
        trajectories: The episodes, at least one.
        metadata: Of their environment: `action_stops` and `grammar`, where it publishes them.
        max_new_tokens: Tokens of an action at most, as sampled; None leaves it open whether an
            action without a stop token has lost it.
        temperature: At which the episodes were sampled, and will be trained.
        tolerance: Distance of two log-probabilities that is no violation, above 0.
        batch: The tensors that the learner will see; None to stack them as the learner does.
        witness: What was written down while the episodes were played, one in a slot; None to
            believe what they say about themselves.
        max_tokens_per_pass: Padded tokens of one forward pass; bounds memory only.

    Raises:
        ValueError: If there is no episode, `batch` has another number of rows, or `tolerance` is
            out of its range.
    """
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be greater than 0, got {tolerance!r}")
    if not trajectories:
        raise ValueError("`trajectories` must not be empty")
    if batch is not None and len(batch) != len(trajectories):
        raise ValueError(f"`batch` must have {len(trajectories)} rows, got {len(batch)}")
    facts = Facts.of(policy, metadata or {}, max_new_tokens)
    cases = [Case(number, t, facts) for number, t in enumerate(trajectories)]
    violations = list(chain.from_iterable(map(episode_violations, cases)))
    gaps = None
    # Lists of unequal length cannot be stacked.
    if not any(map(_is_broken, cases)):
        batch = Batch.from_trajectories(trajectories) if batch is None else batch
        violations += _batch_violations(cases, batch)
        gaps = measure_gaps(policy, batch, temperature, max_tokens_per_pass)
        violations += gap_violations(cases, gaps, tolerance)
    if witness is not None:
        violations += chain.from_iterable(witness_violations(case, witness) for case in cases)
    return _report(cases, violations, gaps, tolerance)


def episode_violations(case: Case) -> Iterator[Violation]:
    """Yield all that is wrong with one episode, as far as no weights have to be asked."""
    yield from structure_violations(case)
    if not _is_broken(case):
        yield from answer_violations(case)


def _is_broken(case: Case) -> bool:
    return any(True for _ in frame_violations(case))


def _batch_violations(cases: Sequence[Case], batch: Batch) -> Iterator[Violation]:
    for case in cases:
        yield from row_violations(case, batch)
    yield from reward_violations(cases, batch)


def _report(
    cases: Sequence[Case], violations: Sequence[Violation], gaps: Gaps | None, tolerance: float
) -> AuditReport:
    distances = None if gaps is None or not len(gaps.rows) else gaps.distances
    return AuditReport(
        num_episodes=len(cases),
        results=tuple(
            CheckResult(check, count, unit, sum(v.check is check for v in violations))
            for check, (count, unit) in _counts(cases, gaps).items()
        ),
        violations=tuple(violations),
        max_gap=math.nan if distances is None else float(distances.max()),
        mean_gap=math.nan if distances is None else float(distances.mean()),
        tolerance=tolerance,
    )


def _counts(cases: Sequence[Case], gaps: Gaps | None) -> dict[Check, tuple[int, str]]:
    """Return how much each check has looked at."""
    turns = [(case.facts, turn) for case in cases for turn in case.turns]
    ended = sum(
        facts.max_new_tokens is not None or any(stop in turn.action for stop in facts.stops)
        for facts, turn in turns
    )
    answers = sum(isinstance(case.trajectory.outcome.get("answer"), str) for case in cases)
    return {
        Check.IDS: (len(turns), "actions"),
        Check.MASK: (sum(len(case.trajectory.token_ids) for case in cases), "tokens"),
        Check.STOPS: (ended, "actions"),
        Check.REWARDS: (len(turns), "turns"),
        Check.LOGPROBS: (0 if gaps is None else len(gaps.rows), "tokens"),
        Check.ANSWERS: (answers, "episodes"),
        Check.LENGTHS: (len(cases), "episodes"),
    }
