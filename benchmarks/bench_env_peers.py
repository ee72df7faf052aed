"""This package's environment beside its peers: what a step and an episode cost, in one run.

GEM's `QaEnv` with its search tool and skyrl-gym's `SearchEnv` run in environments of their own
(`.peers/`, made when missing), ours in the one that runs this file. Every engine is a constant
that returns three documents of 1 kB at once, of a web page's text with accents, line breaks and
citations: what is measured is the environment, with whatever parsing, formatting and cleaning it
does. The subjects take turns, round by round, so that a busy
machine is unfair to all alike.

The work is not the same. Ours alone neutralises documents, bounds texts, seeds and reports every
turn, and goes through `gym.make`; the row "clean-up off" leaves the documents as they are.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PEERS = {
    "gem": ("gem-llm==0.1.0", "datasets", "requests"),  # it imports the two without asking for them
    "skyrl": ("skyrl-gym==0.4.0",),
}
OURS = ("ours", "ours_no_cleanup", "ours_vector", "ours_vector_no_cleanup")
NUM_ENVS = 64
NUM_SEARCHES = 5  # in an episode of which steps are timed
TEXT = (("word " * 15 + "the café – so it was.[12]\n") * 10)[:1000]
SEARCH = "<think>I wonder.</think><search>who is it</search>"
ANSWER = "<think>I see.</think><answer>Nobody</answer>"


class Subject(NamedTuple):
    """How to begin an episode and take a turn, and how many episodes that is at once."""

    reset: Callable[[], Any]
    step: Callable[[str], Any]
    num_envs: int = 1


def gem() -> Subject:
    """Return GEM's question answering with its search tool; only the request is left out."""
    from datasets import Dataset
    from gem.envs.qa_env import QaEnv
    from gem.tools.search_tool import SearchTool
    from gem.tools.tool_env_wrapper import ToolEnvWrapper

    found = [{"document": {"contents": f"Title\n{TEXT}"}} for _ in range(3)]

    class ConstantSearchTool(SearchTool):
        def _search(self, query: str) -> str:
            return self._passages2string(found)

    data = Dataset.from_list([{"question": "Who?", "answer": ["Nobody"]}])
    env = ToolEnvWrapper(QaEnv(dataset=data), [ConstantSearchTool()], max_tool_uses=None)
    return Subject(env.reset, env.step)


def skyrl() -> Subject:
    """Return skyrl-gym's search environment; only the request is left out."""
    from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig

    found = [[{"document": {"contents": f"Title\n{TEXT}"}} for _ in range(3)]]
    tools = importlib.import_module("skyrl_gym.tools.search")
    tools.call_search_api = lambda **kwargs: ({"result": found}, None)
    num_turns = NUM_SEARCHES + 1
    extras = {"reward_spec": {"ground_truth": {"target": ["Nobody"]}}, "max_turns": num_turns}
    envs: list[Any] = []

    def reset() -> None:
        envs[:] = [SearchEnv(SearchEnvConfig(), extras)]
        envs[0].init([{"role": "user", "content": "Who?"}])

    return Subject(reset, lambda action: envs[0].step(action))


def ours(*, cleanup: bool = True, num_envs: int = 1) -> Subject:
    """Return this package's environment through `gym.make`, or its vector environment."""
    import gymnasium as gym
    from gymnasium.vector import AutoresetMode

    import zs_env.episode
    from zs_env.search.engine import Document

    documents = [Document(TEXT, title="Title") for _ in range(3)]

    class ConstantEngine:
        def search(self, requests: Any) -> list[list[Document]]:
            return [documents for _ in requests]

    if not cleanup:
        episode: Any = zs_env.episode
        episode.neutralise_documents = lambda found, *limits: tuple(found)
    questions = [{"question": "Who?", "answers": ["Nobody"]}]
    num_turns = NUM_SEARCHES + 1  # the last one brings no documents
    settings = {"questions": questions, "engine": ConstantEngine(), "max_turns": num_turns}
    if num_envs == 1:
        env = gym.make("ZeroSearch-v0", **settings)
        return Subject(env.reset, env.step)
    mode = AutoresetMode.DISABLED
    envs = gym.make_vec("ZeroSearch-v0", num_envs, **settings, autoreset_mode=mode)
    return Subject(envs.reset, lambda action: envs.step([action] * num_envs), num_envs)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "gem": gem,
    "skyrl": skyrl,
    "ours": ours,
    "ours_no_cleanup": lambda: ours(cleanup=False),
    "ours_vector": lambda: ours(num_envs=NUM_ENVS),
    "ours_vector_no_cleanup": lambda: ours(cleanup=False, num_envs=NUM_ENVS),
}


def measure(subject: Subject, seconds: float = 1.0) -> dict[str, float]:
    """Return median microseconds a searching step and an episode of two searches and an answer.

    Args:
        subject: What to measure; of a vector environment the time is a slot's.
        seconds: How long to measure each.
    """

    def episode() -> None:
        subject.reset()
        for action in (SEARCH, SEARCH, ANSWER):
            subject.step(action)

    episode()
    episodes = _times(episode, seconds)
    subject.reset()
    steps = []
    while len(steps) * NUM_ENVS < 2000 or sum(steps) < seconds:
        subject.reset()  # so that no transcript grows without end
        steps += [_time(lambda: subject.step(SEARCH)) for _ in range(NUM_SEARCHES)]
    scale = 1e6 / subject.num_envs
    return {
        "step_us": statistics.median(steps) * scale,
        "episode_us": statistics.median(episodes) * scale,
    }


def _times(work: Callable[[], Any], seconds: float) -> list[float]:
    times: list[float] = []
    while sum(times) < seconds:
        times.append(_time(work))
    return times


def _time(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interpreter(name: str, folder: Path) -> str:
    """Return the Python that runs a subject; a peer's environment is made when missing.

    Raises:
        subprocess.CalledProcessError: If a peer cannot be installed; pip has said why.
    """
    if name in OURS:
        return sys.executable
    home = folder / name
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PEERS[name]], check=True)
    return str(python)


def run(name: str, python: str) -> dict[str, float]:
    """Measure a subject in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if name in OURS:
        environment["PYTHONPATH"] = str(ROOT)
    command = [python, str(Path(__file__).resolve()), "--subject", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure all subjects, print and write the table; or one subject, in its own process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each takes its turn")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", help="where peers live")
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subject:
        print(json.dumps(measure(SUBJECTS[arguments.subject]())))
        return
    pythons = {name: interpreter(name, arguments.peers) for name in SUBJECTS}
    rounds = [
        {name: run(name, pythons[name]) for name in SUBJECTS} for _ in range(arguments.rounds)
    ]
    table = {
        name: {
            key: round(statistics.median(each[name][key] for each in rounds), 1)
            for key in ("step_us", "episode_us")
        }
        for name in SUBJECTS
    }
    for name, row in table.items():
        print(f"{name:24} step {row['step_us']:8.1f} us   episode {row['episode_us']:8.1f} us")
    from machine import write_result

    print(write_result("env_peers", {"peers": PEERS, "rounds": arguments.rounds, "median": table}))


if __name__ == "__main__":
    main()
