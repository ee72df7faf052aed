"""How time and memory of rollouts and learning grow: with episodes, with turns, with context.

    python benchmarks/bench_growth.py [--quick]

Each point is a process of its own, as its peak memory is. The shipped policy's architecture is
used with a larger position limit; what it writes is given, so that every episode has the length
that is wanted, and what is measured is the work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from machine import RESULTS, peak_mb, resident_mb, write_result
from matplotlib.figure import Figure
from synthetic import GROUP, Size, play

from agents.algorithms.grpo import GRPO
from agents.learner import Learner
from agents.plots import EVAL_COLOURS, TRAIN_COLOUR
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer_config import TrainerConfig

SERIES: Final[dict[str, list[Size]]] = {
    "episodes": [Size(episodes=n) for n in (32, 64, 128, 256, 512, 1024)],
    "turns": [Size(turns=n) for n in (1, 2, 4, 8, 16)],
    "context": [Size(shown=n) for n in (24, 48, 96, 192, 384)],
}
QUICK: Final = {
    "episodes": [Size(episodes=n, turns=2, shown=16) for n in (8, 16)],
    "turns": [Size(episodes=8, turns=n, shown=16) for n in (1, 2)],
    "context": [Size(episodes=8, turns=2, shown=n) for n in (16, 32)],
}


def main() -> None:
    """Measure every point, write the numbers and the figure; or measure one point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--result", default="growth", help="name of the files in results/")
    threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.size:
        print(json.dumps(measure(Size(**json.loads(options.size)))))
        return
    series = QUICK if options.quick else SERIES
    found = {
        name: [_apart(size, options.threads) for size in sizes] for name, sizes in series.items()
    }
    exponents = {name: _exponents(name, points) for name, points in found.items()}
    print(write_result(options.result, {"series": found, "exponents": exponents}))
    for name, each in exponents.items():
        print(f"{name:10} " + "   ".join(f"{key} ~ n^{value}" for key, value in each.items()))
    print(_draw(found, RESULTS / f"{options.result}.png"))


def _apart(size: Size, threads: int) -> dict[str, float]:
    command = [
        sys.executable,
        __file__,
        "--size",
        json.dumps(asdict(size)),
        "--threads",
        str(threads),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(size, numbers, flush=True)
    return asdict(size) | {"context_tokens": size.context} | numbers


def measure(size: Size) -> dict[str, float]:
    """Return seconds and memory of playing and of learning from episodes of one size."""
    policy = CausalLMPolicy.load("base")
    policy.model.config.max_position_embeddings = size.context + 1
    play(policy, Size(GROUP, 1, 8))  # the first pass of a process is slower
    start_mb = resident_mb()
    rollout_s, rollout_cpu_s, episodes = _timed(lambda: play(policy, size))
    rollout_mb = peak_mb() - start_mb
    learner = Learner(policy, GRPO(), TrainerConfig(learning_rate=1e-12))
    update_s, update_cpu_s, _ = _timed(lambda: learner.update(episodes, 0))
    return {
        "rollout_s": round(rollout_s, 3),
        "rollout_cpu_s": round(rollout_cpu_s, 3),
        "rollout_mb": round(rollout_mb, 1),
        "update_s": round(update_s, 3),
        "update_cpu_s": round(update_cpu_s, 3),
        "peak_mb": round(peak_mb() - start_mb, 1),
    }


def _timed(work: Any) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def _values(name: str, points: Sequence[dict[str, float]]) -> list[float]:
    """Return what a series' points differ in."""
    return [each["context_tokens" if name == "context" else name] for each in points]


_COSTS: Final = ("rollout_cpu_s", "update_cpu_s", "peak_mb")


def _exponents(name: str, points: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the slopes between the two largest points, in logarithms: 1 is in proportion."""
    n = _values(name, points)[-2:]
    return {
        key: round(float(np.log(points[-1][key] / points[-2][key]) / np.log(n[1] / n[0])), 2)
        for key in _COSTS
    }


def _panels(found: dict[str, Any]) -> Iterator[tuple[str, list[float], list[dict[str, float]]]]:
    for name, points in found.items():
        yield name, _values(name, points), points


def _draw(found: dict[str, Any], out_png: Path) -> Path:
    """Draw a panel a series, time above and memory below."""
    labels = {"episodes": "episodes", "turns": "turns", "context": "tokens of an episode"}
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, len(found), sharey="row", squeeze=False)
    for column, (name, n, points) in enumerate(_panels(found)):
        time_axes, memory_axes = axes[0, column], axes[1, column]
        for key, colour, label in (
            ("rollout_cpu_s", TRAIN_COLOUR, "rollouts"),
            ("update_cpu_s", EVAL_COLOURS[0], "learning"),
        ):
            times = [each[key] for each in points]
            time_axes.plot(n, times, "o-", color=colour, label=label)
        memory_axes.plot(
            n, [each["rollout_mb"] for each in points], "o-", color=TRAIN_COLOUR, label="rollouts"
        )
        memory_axes.plot(
            n, [each["peak_mb"] for each in points], "s--", color=EVAL_COLOURS[0], label="both"
        )
        for each in (time_axes, memory_axes):
            each.set_xscale("log", base=2)
            each.set_yscale("log", base=2)
            each.grid(alpha=0.25)
            each.spines[["top", "right"]].set_visible(False)
        memory_axes.set_xlabel(labels[name], fontsize=12)
    axes[0, 0].set_ylabel("CPU seconds", fontsize=12)
    axes[1, 0].set_ylabel("MiB beyond the models", fontsize=12)
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False)
    figure.savefig(out_png, dpi=150)
    return out_png


if __name__ == "__main__":
    main()
