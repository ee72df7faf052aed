"""A text environment with a known optimum, and a token generator that follows a script."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from threading import Thread, Timer
from typing import ClassVar

import gymnasium as gym
import httpx
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from agents.policies.causal_lm import CausalLMPolicy
from zs_env.lm.generator import Completion, FinishReason
from zs_env.random import derive
from zs_env.spaces import UnicodeText
from zs_env.vector_env import stack_infos


def starts_right(question, action):
    """Score 1 for a text that begins in the half of the alphabet that the question names."""
    letters = {"low": "abcdefghijklm", "high": "nopqrstuvwxyz"}[question]
    return float(action[:1] in tuple(letters))


def share_of_letters(question, action):
    """Score the share of ASCII letters."""
    return sum(char.isascii() and char.isalpha() for char in action) / max(1, len(action))


class LettersEnv(VectorEnv):
    """Asks for letters; every turn's text is scored, and the last one ends the episode."""

    metadata: ClassVar = {"autoreset_mode": AutoresetMode.DISABLED, "action_stops": ("\x00\x00",)}

    def __init__(
        self,
        num_envs=1,
        group_size=1,
        num_turns=1,
        score=starts_right,
        observation=lambda turn: " and then:",
        **_,
    ):
        self.num_envs, self.group_size = num_envs, group_size
        self.num_turns, self.score, self.observation = num_turns, score, observation
        self.single_action_space = self.single_observation_space = UnicodeText(1000)
        self.action_space = self.observation_space = batch_space(UnicodeText(1000), num_envs)
        self.options = []

    def reset(self, *, seed=None, options=None):
        self.options.append(options)
        self.turn = 0
        groups = [slot // self.group_size for slot in range(self.num_envs)]
        self.questions = ["low" if derive(seed, group) % 2 else "high" for group in groups]
        infos = [
            {"group": group, "question_id": question}
            for group, question in zip(groups, self.questions, strict=True)
        ]
        return tuple(f"{question}:" for question in self.questions), stack_infos(infos)

    def step(self, actions):
        self.turn += 1
        over = self.turn == self.num_turns
        rewards = np.array(
            [self.score(*pair) for pair in zip(self.questions, actions, strict=True)]
        )
        info = {"action": "answer" if over else "search", "noisy": False}
        infos = [info | {"f1": r, "exact_match": float(r == 1)} for r in rewards.tolist()]
        ended = np.full(self.num_envs, over)
        observations = ("" if over else self.observation(self.turn),) * self.num_envs
        return observations, rewards, ended, ~ended & False, stack_infos(infos)


@pytest.fixture(scope="session")
def make_letters_env():
    """Return a function that makes the environment as the command line would."""
    gym.register("test/Letters-v0", entry_point=None, vector_entry_point=LettersEnv)

    def make(num_envs=8, group_size=4, **kwargs):
        return gym.make_vec("test/Letters-v0", num_envs=num_envs, group_size=group_size, **kwargs)

    yield make
    del gym.registry["test/Letters-v0"]


@pytest.fixture
def share_env(make_letters_env):
    """Return an environment of two turns whose rewards differ within nearly every group."""
    return make_letters_env(num_turns=2, score=share_of_letters)


@pytest.fixture
def make_policy(make_tiny_model, tiny_tokenizer):
    """Return a function that makes a random policy."""

    def make(max_batch_size=256, **kwargs):
        return CausalLMPolicy(make_tiny_model(**kwargs), tiny_tokenizer, max_batch_size)

    return make


END = 0
"""The id that ends a scripted text and is no part of it."""


class ScriptedGenerator:
    """Writes what `script(row, turn, context text)` says, one id a character.

    Attributes:
        contexts: All ids of each row of the last session, in order.
        calls: Arguments of each call of `generate`.
    """

    def __init__(self, script):
        self.script = script
        self.calls = []

    def encode(self, text):
        return [ord(char) for char in text]

    def session(self, num_rows):
        self.contexts = [[] for _ in range(num_rows)]
        self.turns = [0] * num_rows
        self.cleared = []
        return self

    def clear(self, rows):
        self.cleared.extend(rows)
        for row in rows:
            self.contexts[row], self.turns[row] = [], 0

    def generate(self, rows, new_tokens, seeds, params):
        self.calls.append((list(rows), [list(t) for t in new_tokens], list(seeds), params))
        return [
            self._continue(row, tokens, seed)
            for row, tokens, seed in zip(rows, new_tokens, seeds, strict=True)
        ]

    def _continue(self, row, tokens, seed):
        self.contexts[row] += tokens
        read = "".join(chr(i) for i in self.contexts[row] if i != END)
        text = self.script(row, self.turns[row], read)
        ids = [*self.encode(text), END]
        self.turns[row] += 1
        self.contexts[row] += ids
        logprobs = [-(seed % 97) / 97 - place / 1000 for place in range(len(ids))]
        return Completion(ids, logprobs, text, FinishReason.EOS)


@pytest.fixture
def scripted():
    """Return the class of token generators that follow a script."""
    return ScriptedGenerator


ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Server:
    """`zerosearch serve` in a process of its own, on a free port; a context manager that ends it.

    Attributes:
        ready: The line that it prints when it is up.
        url: Its base URL.
    """

    def __init__(self, *options, cwd=ROOT, **environ):
        command = [sys.executable, "-m", "agents.cli.main", "serve", "--port", "0", *options]
        inherited = {k: v for k, v in os.environ.items() if k != "ZS_SERVE_TOKEN"}
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        alarm = Timer(PATIENCE, self.process.kill)
        alarm.start()
        self.ready = self.process.stdout.readline().strip()
        alarm.cancel()
        assert self.ready, self.process.communicate()[1]
        self.url = self.ready.rpartition(" ")[2]

    def post(self, body=None, path="/retrieve", **kwargs):
        given = {} if body is None else {"json": body}
        return httpx.post(self.url + path, **given, **kwargs, timeout=PATIENCE)

    def metrics(self):
        """Return every number of `/metrics` by its name and labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self, number=signal.SIGTERM):
        """Send a signal; return the exit code and what was printed since the start."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def shared_server():
    """Return a function that starts a server with some options, once for all tests."""
    with ExitStack() as stack:
        started = {}

        def get(*options):
            if options not in started:
                started[options] = stack.enter_context(Server(*options))
            return started[options]

        yield get


@pytest.fixture
def start_server():
    """Return a function that starts a server, which ends with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(Server(*args, **kwargs))


class OpenAIServer:
    """An OpenAI-compatible server on a free port of the loopback; a context manager.

    Attributes:
        url: Its base URL.
        requests: The bodies that arrived, in order.
    """

    def __init__(self, reply, max_context=None):
        """Set up the server.

        Args:
            reply: From a request's body to a text, and the number of its tokens or None; or an
                HTTP status and a message.
            max_context: What it says of its model.
        """
        self.reply, self.max_context, self.requests = reply, max_context, []

    def __enter__(self):
        import uvicorn

        config = uvicorn.Config(self._app(), log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._thread = Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _app(self):
        from fastapi import FastAPI
        from fastapi.responses import JSONResponse

        app = FastAPI()

        @app.get("/v1/models")
        def models():
            facts = {"max_model_len": self.max_context} if self.max_context else {}
            return {"data": [{"id": "tiny", "object": "model", **facts}]}

        @app.post("/v1/{kind:path}")
        def complete(kind: str, body: dict):
            self.requests.append(body)
            found, told = self.reply(body)
            if isinstance(found, int):
                return JSONResponse({"error": {"message": told}}, status_code=found)
            said = {"message": {"content": found}} if kind.startswith("chat") else {"text": found}
            usage = {} if told is None else {"usage": {"completion_tokens": told}}
            return {"choices": [said | {"finish_reason": "stop"}], **usage}

        return app


@pytest.fixture
def openai_server():
    """Return a function that starts a server with a function that replies; it ends by itself."""
    pytest.importorskip("fastapi")
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(OpenAIServer(*args, **kwargs))
