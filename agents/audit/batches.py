"""Whether the tensors that a learner sees are the episodes, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from agents.audit.case import Case, differing
from agents.audit.report import Check, Violation
from agents.batch import Batch


def row_violations(case: Case, batch: Batch) -> Iterator[Violation]:
    """Yield where the row of a batch is not its episode."""
    trajectory, row = case.trajectory, case.number
    length, width = int(batch.lengths[row]), batch.token_ids.shape[1]
    wanted = len(trajectory.token_ids)
    if not length == wanted <= width:
        cut = max(0, wanted - min(length, width))
        kept = batch.token_ids[row, : min(length, width)].tolist()
        start = 0 if cut and kept == trajectory.token_ids[cut:] else wanted - cut
        problem = f"the batch's row has {min(length, width)} tokens of {wanted}"
        yield case.violation(Check.LENGTHS, start, start + cut, problem)
        return
    logprobs = torch.tensor(trajectory.logprobs, dtype=batch.logprobs.dtype).tolist()
    for check, tensor, expected in (
        (Check.IDS, batch.token_ids, trajectory.token_ids),
        (Check.MASK, batch.action_mask, trajectory.action_mask),
        (Check.LOGPROBS, batch.logprobs, logprobs),
    ):
        found = tensor[row, :wanted].tolist()
        if span := differing(found, expected):
            problem = f"the batch's row has {_shown(case, check, found[span[0] : span[1]])}"
            yield case.violation(check, *span, problem)
    yield from _padding_violations(case, batch, wanted)


def _shown(case: Case, check: Check, values: Sequence[int]) -> str:
    if check is Check.IDS:
        return f"the tokens of {case.facts.codec.decode(values)!r}"
    shown = ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")
    return f"{check} {shown}"


def _padding_violations(case: Case, batch: Batch, length: int) -> Iterator[Violation]:
    """Yield padding that would be trained on: only lengths tell what is padding, never an id."""
    if batch.action_mask[case.number, length:].any():
        problem = "nothing after the last token should be masked in"
        yield case.violation(Check.LENGTHS, length, length, problem)


def reward_violations(cases: Sequence[Case], batch: Batch) -> Iterator[Violation]:
    """Yield rows whose reward is not that of their turns, or that are in another's group."""
    numbers: dict[int, int] = {}
    for case in cases:
        trajectory, row = case.trajectory, case.number
        end = len(trajectory.token_ids)
        reward = torch.tensor(trajectory.reward, dtype=batch.rewards.dtype)
        if batch.rewards[row] != reward:
            problem = f"its turns' rewards add up to {reward:g}, the batch's row has "
            problem += f"{batch.rewards[row]:g}"
            yield case.violation(Check.REWARDS, max(0, end - 1), end, problem)
        group = int(batch.groups[row])
        named = numbers.setdefault(group, trajectory.group)
        if named != trajectory.group:
            problem = f"its group is {trajectory.group}, the batch compares it with group {named}"
            yield case.violation(Check.REWARDS, max(0, end - 1), end, problem)
