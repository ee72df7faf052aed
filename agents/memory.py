"""How much memory this process has needed."""

from __future__ import annotations

import math
import sys


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB; NaN on Windows."""
    if sys.platform == "win32":
        return math.nan
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS, which counts bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
