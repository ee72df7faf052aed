"""Other packages' agents' environments, unchanged and in their own interpreters, on our server.

`make bench-env` installs them into `.peers/`; the variable ZS_PEERS names another folder.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zs_env.search.engine import Document, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.serve.contracts import read_request
from zs_env.task.miniwiki import default_world

PEERS = Path(os.environ.get("ZS_PEERS", Path(__file__).parents[2] / ".peers"))
FACT = default_world().facts[0]
QUERY = f"{FACT.subject} {FACT.relation}"
TURNS = (
    f"<think>I wonder.</think><search> {QUERY} </search>",
    f"<think>I see.</think><answer>{FACT.object}</answer>",
)

SKYRL = """
import json, sys
from skyrl_gym.envs.search.env import SearchEnv, SearchEnvConfig

url, answer, *turns = sys.argv[1:]
extras = {"reward_spec": {"ground_truth": {"target": [answer]}}, "max_turns": 4}
env = SearchEnv(SearchEnvConfig(search_url=url + "/retrieve", topk=2), extras)
env.init([{"role": "user", "content": "Who?"}])
steps = [env.step(turn) for turn in turns]
observed = [step["observations"][0]["content"] for step in steps if step["observations"]]
print(json.dumps([observed, steps[-1]["reward"], steps[-1]["done"]]))
"""

GEM = """
import json, sys
from datasets import Dataset
from gem.envs.qa_env import QaEnv
from gem.tools.search_tool import SearchTool
from gem.tools.tool_env_wrapper import ToolEnvWrapper

url, answer, *turns = sys.argv[1:]
data = Dataset.from_list([{"question": "Who?", "answer": [answer]}])
tool = SearchTool(search_url=url, topk=2, timeout=30)
env = ToolEnvWrapper(QaEnv(dataset=data), [tool])
env.reset()
steps = [env.step(turn) for turn in turns]
assert steps[0][4]["tool_success_counter"] == 1, steps
print(json.dumps([[step[0] for step in steps[:-1]], float(steps[-1][1]), bool(steps[-1][2])]))
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def python_of() -> Callable[[str], Path]:
    """Return a function that finds a peer's interpreter, and skips the test where there is none."""

    def find(peer: str) -> Path:
        python = PEERS / peer / "bin" / "python"
        if not python.exists():
            pytest.skip(f"no environment of {peer} in {PEERS}: make bench-env, or set ZS_PEERS")
        return python

    return find


def play(python: Path, script: str, url: str) -> Any:
    """Return what the agent observed, its reward, and whether the episode ended."""
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", script, url, FACT.object, *TURNS],
        env=alone | {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=["world", "bm25", "simulator"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def found(engine: str) -> list[Document]:
    """Return what the engine finds for the peers' query."""
    asked = read_request(json.dumps({"query": QUERY, "topk": 2}).encode()).requests[0]
    assert asked == replace(SearchRequest(QUERY, QUERY, top_k=2), seed=asked.seed)
    [documents] = make_engine(engine).search([asked])
    assert documents
    return documents


def test_skyrl_gym_plays_an_episode(
    engine: str, python_of: Callable[[str], Path], shared_server: Callable[..., Any]
) -> None:
    python = python_of("skyrl")
    server = shared_server("--engine", engine)
    observed, reward, done = play(python, SKYRL, server.url)
    texts = [document.text for document in found(engine)]
    result = "".join(f"Doc {number}: {text}\n" for number, text in enumerate(texts, 1))
    assert observed == [f"\n<information>{json.dumps({'result': result})}</information>\n"]
    assert (reward, done) == (1.0, True)
    assert server.metrics()['zerosearch_requests_total{contract="skyrl-gym",status="200"}'] == 1


@pytest.mark.parametrize("path", ["", "/retrieve"])
def test_gem_plays_an_episode(
    engine: str,
    path: str,
    python_of: Callable[[str], Path],
    shared_server: Callable[..., Any],
) -> None:
    python = python_of("gem")
    server = shared_server("--engine", engine)
    before = server.metrics().get('zerosearch_requests_total{contract="gem",status="200"}', 0)
    observed, reward, done = play(python, GEM, server.url + path)
    texts = [document.text for document in found(engine)]
    result = "".join(f"Doc {number}(Title: ) {text}\n" for number, text in enumerate(texts, 1))
    assert observed == [f"\n\n<information>{result}</information>\n\n"]
    assert (reward, done) == (1.0, True)
    after = server.metrics()['zerosearch_requests_total{contract="gem",status="200"}']
    assert after == before + 1
