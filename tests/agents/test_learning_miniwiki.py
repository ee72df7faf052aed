"""The shipped base learns to search: the whole loop on the world engine, in about a minute."""

from __future__ import annotations

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

from agents.algorithms.grpo import GRPO
from agents.evaluate import Evaluation, evaluate
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer import Trainer
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import default_world

NUM_UPDATES = 10


def exact_match(policy: CausalLMPolicy) -> Evaluation:
    questions = default_world().questions("validation")[::4]
    return evaluate(PolicyAgent(policy, STOPS), questions, env_kwargs={"engine": "world"})


@pytest.mark.timeout(240)  # a guard against hanging; it takes about 40 s
def test_grpo_teaches_the_shipped_base_to_search_on() -> None:
    policy = CausalLMPolicy.load("base")
    before = exact_match(policy).mean("exact_match")
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=128,
        group_size=8,
        engine="world",
        split="train",
        autoreset_mode=AutoresetMode.DISABLED,
    )
    Trainer(policy, env, GRPO()).learn(NUM_UPDATES)
    after = exact_match(policy)
    assert before <= 0.45
    assert after.mean("exact_match") >= before + 0.3
    assert after.mean("searches") > 1.3
