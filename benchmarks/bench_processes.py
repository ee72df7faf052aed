"""Several processes against one: how far numbers and weights of the same training differ.

    python benchmarks/bench_processes.py [--updates 3] [--skip zero]

Each training is played by one process and by several, on the CPUs of this machine over gloo. Told
are the largest differences in the log and in the policy's weights, and whether the transcripts are
the same but for their numbers. Layouts whose engine is not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from machine import write_result
from safetensors.torch import load_file

from agents.metrics import read_metrics

ROOT: Final = Path(__file__).parents[1]
FSDP: Final = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
TOLD: Final = ("train/loss", "train/grad_norm")


@dataclass(frozen=True)
class Layout:
    """A training in several processes.

    Attributes:
        algorithm: What is trained with.
        num: Processes.
        environ: What the launcher says.
        options: Further ones of `train`.
        needs: A module without which it cannot be.
    """

    algorithm: str
    num: int = 2
    environ: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    needs: str = "accelerate"


def zero(stage: int) -> Layout:
    """Return a training that DeepSpeed's ZeRO shares out."""
    environ = {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
    }
    return Layout("ppo", environ=environ, needs="deepspeed")


LAYOUTS: Final = {
    "grpo, 2": Layout("grpo"),
    "ppo, 2": Layout("ppo"),
    "ppo, 2, FSDP2": Layout("ppo", environ=FSDP),
    "ppo, 2, ZeRO-1": zero(1),
    "ppo, 2, ZeRO-2": zero(2),
    "grpo, 2, LoRA": Layout("grpo", options=("--lora-rank", "8"), needs="peft"),
    "dapo, 3": Layout("dapo", 3),
    "reinforce-pp, 3": Layout("reinforce-pp", 3),
}


def main() -> None:
    """Train; print and write the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--num-questions", type=int, default=4)
    parser.add_argument("--skip", nargs="*", default=[], help="layouts whose names hold one of it")
    parser.add_argument("--result", default="processes", help="name of the file in results/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"updates": options.updates, "num_questions": options.num_questions}
    found: dict[str, Any] = {}
    left_out = []
    with tempfile.TemporaryDirectory() as folder:
        trainings = Trainings(Path(folder), options.updates, options.num_questions)
        for name, layout in LAYOUTS.items():
            if any(part in name for part in options.skip) or find_spec(layout.needs) is None:
                left_out.append(name)
                continue
            found[name] = trainings.compare(name, layout)
            print(name, found[name], flush=True)
    print(write_result(options.result, settings | {"differences": found, "left_out": left_out}))


class Trainings:
    """Runs in a folder, those of one process shared by all that are compared with them."""

    def __init__(self, folder: Path, num_updates: int, num_questions: int) -> None:
        """Play so many updates of so many questions."""
        self._folder, self._updates = folder, num_updates
        self._options = (
            f"--engine world --policy skill --steps {num_updates} --num-questions {num_questions} "
            "--group-size 3 --max-turns 2 --temperature 1.5 --eval-questions 0 --threads 1 "
            "--log-formats csv"
        ).split()
        self._alone = cache(self._run_alone)

    def compare(self, name: str, layout: Layout) -> dict[str, Any]:
        """Return how far a training in several processes is from the same one in one."""
        options = ("--algorithm", layout.algorithm, *layout.options)
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
        run = self._train(name, options, (*launcher, str(layout.num)), layout.environ)
        alone = self._alone(options)
        # An update whose groups are all equal has neither number, here as there.
        rows = [
            (mine, one)
            for mine, one in zip(read_metrics(run), read_metrics(alone), strict=True)
            if mine.keys() | one.keys() >= set(TOLD)
        ]
        largest = {
            key: max((abs(mine[key] - one[key]) for mine, one in rows), default=None)
            for key in TOLD
        }
        found, wanted = (self._weights(each) for each in (run, alone))
        return {
            "updates_that_learned": len(rows),
            "same_episodes": list(_texts(run)) == list(_texts(alone)),
            **largest,
            "weight": max(float((found[key] - wanted[key]).abs().max()) for key in wanted),
        }

    def _run_alone(self, options: tuple[str, ...]) -> Path:
        return self._train("one " + " ".join(options), options, (), {})

    def _weights(self, run: Path) -> dict[str, torch.Tensor]:
        return load_file(run / "checkpoints" / f"{self._updates:06}" / "policy.safetensors")

    def _train(
        self, name: str, options: Sequence[str], launcher: Sequence[str], environ: dict[str, str]
    ) -> Path:
        out = self._folder / name
        command = ["-m", "agents.cli.main", "train", *self._options, *options, "--out", str(out)]
        settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(
            [sys.executable, *launcher, *command],
            env=os.environ | settings | environ,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stdout}{done.stderr}")
        return out


def _texts(run: Path) -> Iterator[dict[str, Any]]:
    """Yield the transcripts of a run without the numbers of their tokens."""
    for line in (run / "transcripts.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name in ("logprobs", "advantages"):
            record["tokens"].pop(name)
        yield record


if __name__ == "__main__":
    main()
