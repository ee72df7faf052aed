"""How many threads torch may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from agents.cli.checks import check_at_least


def use_threads(num: int) -> int:
    """Set the number of torch's threads, 0 for the default, and return it.

    Raises:
        ValueError: If `num` is negative.
    """
    import torch

    check_at_least(0, threads=num)
    torch.set_num_threads(num or default_threads(os.environ))
    return torch.get_num_threads()


def needs_torch(engine: str) -> bool:
    """Tell whether an engine of this name may run a language model in this process."""
    return "simulator" in engine


def default_threads(environ: Mapping[str, str]) -> int:
    """Return OMP_NUM_THREADS where it is a number, else the physical cores of this process."""
    wanted = environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else num_physical_cores()


def num_physical_cores() -> int:
    """Return the number of cores that this process may use; two threads of one count once."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return len({_siblings(cpu) for cpu in os.sched_getaffinity(0)})


def _siblings(cpu: int) -> str:
    """Return the name that the hardware threads of one core share."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)
