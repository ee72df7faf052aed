"""Long runs: what episodes leave behind."""

import gc
import resource
from pathlib import Path

import gymnasium as gym
import pytest

from zs_env import Document

STATUS = Path("/proc/self/statm")
SCRIPT = ("<think>hm</think><search>who</search>", "nothing", "<answer>nobody</answer>")


class Constant:
    """Finds the same three documents for every query."""

    def __init__(self):
        self.documents = [Document("word " * 200) for _ in range(3)]

    def search(self, requests):
        return [self.documents for _ in requests]


def resident_size():
    """Return the bytes of this process in memory."""
    gc.collect()
    return int(STATUS.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def play_alone(env, num_episodes):
    for _ in range(num_episodes):
        env.reset()
        for action in SCRIPT:
            env.step(action)


def play_together(envs, num_episodes):
    for _ in range(num_episodes // envs.num_envs):
        envs.reset()
        for action in SCRIPT:
            envs.step([action] * envs.num_envs)


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("num_envs", [1, 64])
def test_ten_thousand_episodes_leak_no_memory(num_envs):
    kwargs = {"questions": "miniwiki", "engine": Constant()}
    if num_envs == 1:
        env, play = gym.make("ZeroSearch-v0", **kwargs), play_alone
    else:
        env, play = gym.make_vec("ZeroSearch-v0", num_envs, **kwargs), play_together
    env.reset(seed=0)
    play(env, 2_000)
    before = resident_size()
    play(env, 10_000)
    assert resident_size() <= 1.05 * before
