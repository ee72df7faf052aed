"""Where the numbers of a benchmark go, with the machine and the command that made them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agents.cli.files import write_json
from agents.cli.provenance import machine, provenance

RESULTS = Path(__file__).parent / "results"


def gemm_flops(
    clock: Callable[[], float] = time.perf_counter, size: int = 1024, seconds: float = 2.0
) -> float:
    """Return the operations a second that a product of two square float32 matrices reaches."""
    a, b = torch.rand(2, size, size).unbind()
    best, end = float("inf"), clock() + seconds
    while clock() < end:
        start = clock()
        torch.mm(a, b)
        best = min(best, clock() - start)
    return 2 * size**3 / best


def resident_mb() -> float:
    """Return the memory that this process has now, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mb() -> float:
    """Return the most memory that this process has had, in MiB (Linux).

    The kernel's other number, `ru_maxrss`, begins at what the parent process had.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10


def write_result(name: str, numbers: dict[str, Any]) -> Path:
    """Write `numbers` to results/`name`.json; return the path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    load = {"load_average": round(os.getloadavg()[0], 2)}
    write_json(
        path,
        {
            "command": command,
            "machine": machine(torch.get_num_threads()) | load,
            **numbers,
            **provenance(),
        },
    )
    return path
