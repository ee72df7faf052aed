"""Real vLLM servers on loopback, for the tests of all packages.

They are started by the module that `vllm serve` starts, because the repackaged CPU build has no
working command of that name.
"""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
"""With it vLLM starts quickly on a CPU, and tells nobody."""

DEVELOPMENT = {"VLLM_SERVER_DEV_MODE": "1"}
"""Lets whoever reaches a server load weights."""

OPTIONS = {
    "host": "127.0.0.1",
    "dtype": "float32",
    "max-num-seqs": "64",
    "block-size": "32",
    "kv-cache-memory-bytes": str(64 << 20),
    "seed": "0",
    "logprobs-mode": "processed_logprobs",
    "shutdown-timeout": "20",
}


def interpreter():
    """Return the interpreter that has vLLM, or skip the test."""
    name = os.environ.get("ZS_VLLM_PYTHON")
    if not name:
        pytest.skip("ZS_VLLM_PYTHON names no interpreter with vLLM: make test-vllm")
    return str(ROOT / name) if "/" in name else name


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(python, port, log, options, environment=()):
    """Start `vllm serve` on loopback."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    given = OPTIONS | {"port": str(port)} | options
    command += [part for name, value in given.items() for part in (f"--{name}", value)]
    env = os.environ | ENVIRONMENT | dict(environment)
    return subprocess.Popen(command, env=env, stdout=log, stderr=log)


def wait_until_healthy(process, port, log):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, Path(log.name).read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise TimeoutError(Path(log.name).read_text()[-4000:])


def end(process, *, kindly=True):
    """End a server and the processes that it started, and nothing else."""
    children = []
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate() if kindly else process.kill()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
    for child in children:
        # Python's own tracker ends by itself, once it has unlinked what the others left.
        with suppress(psutil.NoSuchProcess):
            if "resource_tracker" not in " ".join(child.cmdline()):
                child.kill()


@contextmanager
def serving(python, folder, options, environment=()):
    """Yield (process, port) of a server that has started."""
    port = free_port()
    with (folder / "server.log").open("w") as log:
        process = start_server(python, port, log, options, environment)
        try:
            wait_until_healthy(process, port, log)
            yield process, port
        finally:
            end(process)
