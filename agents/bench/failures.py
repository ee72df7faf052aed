"""Why episodes of a benchmark failed, in a few lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from agents.bench.rows import EpisodeRow
from agents.bench.store import FAILED

MAX_REASONS: Final = 3
"""Different reasons that are told; of further ones only how many there are."""

_NOT_PLAYED: Final = re.compile(r"not played after \d+ failures in a row: ")


def not_played(num_failures: int, reason: str) -> str:
    """Return the reason for not trying an episode after others failed in a row."""
    return f"not played after {num_failures} failures in a row: {reason}"


def failure_lines(rows: Iterable[EpisodeRow]) -> list[str]:
    """Return each reason once, with the number of episodes that it cost, the most first.

    Episodes that were not tried because others had failed count for the reason of those.

    Args:
        rows: Episodes, failed or not.

    Returns:
        At most `MAX_REASONS` lines, and one more if there are more reasons; none if nothing
        failed.
    """
    errors = [row.error for row in rows if row.stop_reason == FAILED]
    reasons = Counter(_cause(error) for error in errors)
    untried = Counter(_cause(error) for error in errors if _cause(error) != error)
    lines = [
        f"{count} × {reason}" + f" ({untried[reason]} of them not tried)" * (reason in untried)
        for reason, count in reasons.most_common(MAX_REASONS)
    ]
    left = len(reasons) - len(lines)
    return [*lines, *([f"and {left} other reason{'s' * (left > 1)}"] if left else [])]


def _cause(error: str) -> str:
    found = _NOT_PLAYED.match(error)
    return error[found.end() :] if found else error
