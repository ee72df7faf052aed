"""Sampler and trainer on models of several families, over several turns."""

import pytest
import torch

from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy
from agents.trajectory import Trajectory
from zs_env.lm.generator import SamplingParams


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "granite", "gemma2"])
def test_sampler_stores_what_score_finds(make_model, tiny_tokenizer, kind):
    policy = CausalLMPolicy(make_model(kind), tiny_tokenizer, logit_chunk=4)
    session, trajectories = policy.session(3), [Trajectory() for _ in range(3)]
    texts = (["Question: who", "Hi", "x y z"], [" found", "<search>", "\n\n and then what was it"])
    for turn in range(2):
        new = [policy.encode(text) for text in texts[turn]]
        found = session.generate(range(3), new, [turn, 5, 9], SamplingParams(6, 0.8))
        for trajectory, tokens, completion in zip(trajectories, new, found, strict=True):
            trajectory.observe(tokens)
            trajectory.act(completion.token_ids, completion.logprobs)
    batch = Batch.from_trajectories(trajectories)
    stored = batch.logprobs[batch.action_mask]
    torch.testing.assert_close(policy.score(batch, 0.8).logprobs, stored, atol=1e-3, rtol=0)
