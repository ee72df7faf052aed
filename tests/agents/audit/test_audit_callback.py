"""The audit within a training."""

import pytest

from agents.algorithms.grpo import GRPO
from agents.audit import AuditCallback, AuditError, Check
from agents.rollout import collect
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig


@pytest.fixture
def trainer(make_policy, share_env):
    return Trainer(make_policy(), share_env, GRPO(), config=TrainerConfig(max_new_tokens=8))


@pytest.fixture
def rollout(trainer):
    return collect(trainer.policy, trainer.env, seed=3, max_new_tokens=8)


def spoil(rollout):
    """Let the first episode's mask hide its first sampled token."""
    first = rollout.trajectories[0]
    first.action_mask[first.turns[0].start] = False
    return first


def test_first_batch_is_audited(trainer, rollout):
    callback = AuditCallback()
    callback.on_training_start(trainer)
    assert callback.report is None
    callback.on_rollout_end(trainer, rollout)
    assert callback.report.passed
    assert callback.report.num_episodes == len(rollout.trajectories)


def test_training_audits_before_it_learns(trainer):
    callback = AuditCallback()
    trainer.learn(2, [callback])
    assert callback.report.passed  # which other weights than the sampler's would not


def test_violation_ends_the_training_and_shows_the_span(trainer, rollout):
    first = spoil(rollout)
    callback = AuditCallback()
    with pytest.raises(AuditError, match="the token audit failed: 1 violation") as raised:
        callback.on_rollout_end(trainer, rollout)
    [violation] = raised.value.report.violations
    assert violation.check is Check.MASK
    start = first.turns[0].start
    text = trainer.policy.decode(first.token_ids[start : start + 1])
    where = f"episode 0, turn 0, tokens {start}:{start + 1} {text!r}"
    assert where in str(raised.value)


def test_later_batches_are_not_audited(trainer, rollout):
    callback = AuditCallback()
    callback.on_rollout_end(trainer, rollout)
    spoil(rollout)
    callback.on_rollout_end(trainer, rollout)
    callback.on_training_start(trainer)
    with pytest.raises(AuditError):
        callback.on_rollout_end(trainer, rollout)


def test_other_temperature_than_that_of_the_training_is_found(trainer, rollout):
    trainer.config = TrainerConfig(max_new_tokens=8, temperature=0.5)
    with pytest.raises(AuditError, match="logprobs: episode 0, turn 0"):
        AuditCallback().on_rollout_end(trainer, rollout)


def test_tolerance_is_the_callers(trainer, rollout):
    with pytest.raises(AuditError, match="within 1e-12"):
        AuditCallback(tolerance=1e-12).on_rollout_end(trainer, rollout)


def test_audit_changes_nothing(trainer, rollout):
    weights = [parameter.clone() for parameter in trainer.policy.parameters()]
    AuditCallback().on_rollout_end(trainer, rollout)
    pairs = zip(weights, trainer.policy.parameters(), strict=True)
    assert all(before.equal(after) for before, after in pairs)
    assert all(parameter.grad is None for parameter in trainer.policy.parameters())


def test_policy_without_texts_is_refused(trainer, rollout):
    trainer.policy = object()
    with pytest.raises(TypeError, match="`policy` must have `decode`, `end_ids` and"):
        AuditCallback().on_rollout_end(trainer, rollout)


def test_message_shows_the_first_violations_and_the_number_of_all(trainer, rollout):
    for trajectory in rollout.trajectories:
        for turn in trajectory.turns:
            trajectory.action_mask[turn.start] = False
    with pytest.raises(AuditError) as raised:
        AuditCallback().on_rollout_end(trainer, rollout)
    lines = str(raised.value).splitlines()
    total = len(raised.value.report.violations)
    assert total > 10
    assert lines[0].endswith(f"{total} violations")
    assert len(lines) == 12
    assert lines[-1] == f"  and {total - 10} more"
