"""Waves of episodes: the same episodes, whatever the number of waves, and a clean end."""

import signal
import threading
import time

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

import zs_env  # noqa: F401  (registers the environment)
from agents.algorithms.grpo import GRPO
from agents.cli.main import main
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.waves import collect_in_waves
from zs_env.lm.generator import Completion, FinishReason
from zs_env.random import derive
from zs_env.search.engine import Document, SearchEngineError
from zs_env.search.registry import make_engine

PATIENCE = 30.0
GROUP_SIZE = 3


class Writer:
    """Writes what follows from the seed of the draw, one id a character."""

    def __init__(self):
        self.inside = threading.Lock()

    def encode(self, text):
        return [ord(char) for char in text]

    def session(self, num_rows):
        return self

    def generate(self, rows, new_tokens, seeds, params):
        assert self.inside.acquire(blocking=False), "two waves ask the policy at once"
        try:
            return [self.write(seed) for seed in seeds]
        finally:
            self.inside.release()

    def write(self, seed):
        word = ("river", "city", "film")[seed % 3]
        kind = ("search", "search", "answer", "nothing")[derive(seed, 0) % 4]
        text = f"<{kind}>{word} {seed % 97}</{kind}>"
        ids = self.encode(text)
        return Completion(ids, [-seed % 7 / 7] * len(ids), text, FinishReason.STOP)


def make_envs(num_groups, num_waves, **kwargs):
    ends = [num_groups * wave // num_waves for wave in range(num_waves + 1)]
    return [
        gym.make_vec(
            "ZeroSearch-v0",
            num_envs=(ends[wave + 1] - ends[wave]) * GROUP_SIZE,
            group_size=GROUP_SIZE,
            autoreset_mode=AutoresetMode.DISABLED,
            **({"engine": "world", "max_turns": 4} | kwargs),
        )
        for wave in range(num_waves)
    ]


def play(policy, num_waves, num_groups=4, seed=3, engine="world", **options):
    envs = make_envs(num_groups, num_waves, engine=engine)
    return collect_in_waves(policy, envs, seed=seed, options={"noise": 0.5}, **options)


def no_wave_is_left():
    return not [thread for thread in threading.enumerate() if thread.name.startswith("zs-wave")]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    num_groups=st.integers(4, 6),
    first_slot=st.integers(0, 5).map(lambda n: n * GROUP_SIZE),
    engine=st.sampled_from(["world", "bm25"]),
)
def test_episodes_do_not_depend_on_the_number_of_waves(seed, num_groups, first_slot, engine):
    one, two, four = (
        play(Writer(), n, num_groups, seed, engine, first_slot=first_slot).trajectories
        for n in (1, 2, 4)
    )
    assert one == two == four
    assert len(one) == num_groups * GROUP_SIZE


def test_real_models_sample_the_same_ids_in_any_number_of_waves():
    """Whose sums differ by rounding where batches do, which decides nothing with this seed."""
    policy = CausalLMPolicy.load("base")
    one, two, four = (
        play(policy, n, engine="simulator-tiny", max_new_tokens=32).trajectories for n in (1, 2, 4)
    )
    assert sum(len(t.turns) for t in one) > len(one)
    for other in (two, four):
        assert [t.token_ids for t in one] == [t.token_ids for t in other]
        assert [t.outcome for t in one] == [t.outcome for t in other]
        for ours, theirs in zip(one, other, strict=True):
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)


def test_random_models_sample_the_same_ids_in_any_number_of_waves(make_policy):
    policy = make_policy(max_position_embeddings=600)
    one, four = (play(policy, n, max_new_tokens=12).trajectories for n in (1, 4))
    assert [t.token_ids for t in one] == [t.token_ids for t in four]


class Timed(Writer):
    """A slow policy and a slow engine that note when they are at work."""

    def __init__(self):
        super().__init__()
        self.sampling, self.searching = [], []

    def generate(self, *args):
        return self.work(self.sampling, lambda: super(Timed, self).generate(*args))

    def search(self, requests):
        return self.work(self.searching, lambda: make_engine("world").search(requests))

    def work(self, notes, action):
        start = time.perf_counter()
        time.sleep(0.03)
        notes.append((start, time.perf_counter()))
        return action()

    @property
    def overlap(self):
        pairs = ((a, b) for a in self.sampling for b in self.searching)
        return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in pairs)


def test_policy_writes_while_the_engine_does():
    alone, together = Timed(), Timed()
    assert play(alone, 1, engine=alone).trajectories == (
        play(together, 2, engine=together).trajectories
    )
    assert alone.overlap == 0
    assert together.overlap > 0.02


def test_engine_is_asked_by_one_wave_at_a_time():
    inside = threading.Lock()

    class Alone:
        def search(self, requests):
            assert inside.acquire(blocking=False), "two waves ask the engine at once"
            time.sleep(0.002)
            inside.release()
            return make_engine("world").search(requests)

    assert len(play(Writer(), 4, engine=Alone()).trajectories) == 4 * GROUP_SIZE


def test_times_are_those_of_work_and_not_of_waiting():
    class Slow:
        def search(self, requests):
            time.sleep(0.05)
            return make_engine("world").search(requests)

    start = time.perf_counter()
    rollout = play(Writer(), 4, engine=Slow())
    took = time.perf_counter() - start
    assert 0.2 <= rollout.engine_seconds <= took
    assert rollout.policy_seconds < rollout.engine_seconds


class Breaks:
    """Fails for the first request, and counts how often it is called after that."""

    def __init__(self, failure):
        self.failure, self.calls = failure, 0

    def search(self, requests):
        self.calls += 1
        if self.calls == 1:
            self.failure()
        return [[Document("nothing")] for _ in requests]


def test_failure_of_one_wave_ends_all_and_is_raised_once():
    def fail():
        raise SearchEngineError("the server is gone")

    engine = Breaks(fail)
    with pytest.raises(SearchEngineError, match="the server is gone") as caught:
        play(Writer(), 4, engine=engine)
    assert caught.value.__context__ is None
    assert engine.calls == 1
    assert no_wave_is_left()


def test_failure_of_the_policy_is_raised_too():
    class Fails(Writer):
        def write(self, seed):
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        play(Fails(), 2)
    assert no_wave_is_left()


def test_ctrl_c_ends_all_waves():
    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(1)  # until the main thread has seen it

    engine = Breaks(interrupt)
    with pytest.raises(KeyboardInterrupt):
        play(Writer(), 3, engine=engine)
    assert engine.calls == 1
    assert no_wave_is_left()


def test_group_that_two_waves_share_is_refused(make_letters_env):
    envs = [make_letters_env(num_envs=4, group_size=4) for _ in range(2)]
    with pytest.raises(ValueError, match="`group` of an episode must tell groups"):
        collect_in_waves(Writer(), envs, seed=0)


def lasting(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


def test_trainer_learns_the_same_in_waves():
    runs = []
    for num_waves in (1, 2):
        config = TrainerConfig(max_new_tokens=32)
        envs = make_envs(4, num_waves)
        policy = CausalLMPolicy.load("base")
        trainer = Trainer(policy, envs if num_waves > 1 else envs[0], GRPO(), config=config)
        assert trainer.envs == envs
        runs.append([lasting(trainer.update(progress)[1]) for progress in (0.0, 1.0)])
    for one, two in zip(*runs, strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)
        assert one["train/grad_norm"] > 0.01


def test_trainer_without_environment_is_refused(make_policy):
    with pytest.raises(ValueError, match="`env` must be an environment"):
        Trainer(make_policy(), [])


def test_waves_are_an_option_of_the_command(tmp_path):
    tiny = "--engine world --steps 1 --num-questions 3 --group-size 2 --max-turns 2 --threads 1"
    runs = []
    for num_waves in ("1", "3"):
        out = tmp_path / num_waves
        options = (*tiny.split(), "--eval-every", "0", "--num-waves", num_waves)
        assert main(["train", *options, "--out", str(out)]) == 0
        runs.append((out / "transcripts.jsonl").read_text())
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("num_waves", "message"),
    [
        ("0", "`num_waves` must be at least 1, got 0"),
        ("4", "`num_waves` must be at most the questions of a process and update, 3, got 4"),
    ],
)
def test_number_of_waves_that_cannot_be_is_refused(num_waves, message, tmp_path, capsys):
    options = ["--engine", "world", "--num-questions", "3", "--num-waves", num_waves]
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
