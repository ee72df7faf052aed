"""Where a number came from: package versions, the world, the weights, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agents.cli.threads import num_physical_cores
from agents.weights import weights_checksum as weights_checksum
from zs_env.task.miniwiki import WORLD_VERSION, default_world

ROOT = Path(__file__).parents[2]
PACKAGES = ("zs-env", "gymnasium", "numpy", "torch", "transformers")


def provenance() -> dict[str, Any]:
    """Return versions and the identity of MiniWiki: what results depend on beside the options."""
    return {
        "versions": versions(),
        "miniwiki": {"version": WORLD_VERSION, "checksum": default_world().checksum()},
    }


def versions() -> dict[str, str]:
    """Return the version of Python and of each of `PACKAGES`."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from; None outside of one."""
    if not (ROOT / ".git").exists():
        return None
    asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine(threads: int) -> dict[str, Any]:
    """Return a description of the machine that timings were taken on.

    Args:
        threads: Torch's threads.
    """
    return {
        "cpu": cpu_model(),
        "cores": num_physical_cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
    }


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or os.name
