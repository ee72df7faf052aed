"""Token audit: proof, for a batch at hand, that what is trained is what was sampled.

docs/audit.md says what is proved and how to read a failure.
"""

from agents.audit.auditing import AuditedPolicy, audit
from agents.audit.callback import AuditCallback
from agents.audit.report import AuditError, AuditReport, Check, CheckResult, Violation
from agents.audit.witness import Witness

__all__ = [
    "AuditCallback",
    "AuditError",
    "AuditReport",
    "AuditedPolicy",
    "Check",
    "CheckResult",
    "Violation",
    "Witness",
    "audit",
]
