"""Where the numbers of a benchmark go, with the machine and the command that made them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from agents.cli.files import write_json
from agents.cli.provenance import machine, provenance

RESULTS = Path(__file__).parent / "results"


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
