"""The audit as part of training: once, on the first update, before anything is learned from it."""

from __future__ import annotations

from agents.audit.auditing import TOLERANCE, AuditedPolicy, audit
from agents.audit.report import AuditError, AuditReport
from agents.rollout import Rollout
from agents.trainer import Callback, Trainer


class AuditCallback(Callback):
    """Audits the first batch of a training, and ends the training if something is wrong with it.

    Attributes:
        report: The outcome; None before it is known.
    """

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        """Set up the audit.

        Args:
            tolerance: Distance of two log-probabilities that is no violation, above 0.
        """
        self.report: AuditReport | None = None
        self._tolerance = tolerance

    def on_training_start(self, trainer: Trainer) -> None:
        """Forget an earlier training."""
        self.report = None

    def on_rollout_end(self, trainer: Trainer, rollout: Rollout) -> None:
        """Audit `rollout` if it is the first one.

        Raises:
            AuditError: If there is a violation.
            TypeError: If the policy cannot turn ids into text.
        """
        if self.report is not None:
            return
        if not isinstance(trainer.policy, AuditedPolicy):
            raise TypeError(
                "`policy` must have `decode`, `end_ids` and `max_context` to be audited, "
                f"got {trainer.policy!r}"
            )
        self.report = audit(
            trainer.policy,
            rollout.trajectories,
            metadata=trainer.env.metadata,
            max_new_tokens=trainer.config.max_new_tokens,
            temperature=trainer.config.temperature,
            tolerance=self._tolerance,
            max_tokens_per_pass=trainer.config.max_tokens_per_pass,
        )
        if not self.report.passed:
            raise AuditError(self.report)
