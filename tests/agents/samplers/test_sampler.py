"""Samplers with an engine that is a second copy of the model, given its weights through a folder.

Real vLLM as the engine: tests/agents/test_vllm_training.py.
"""

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file

import zs_env  # noqa: F401 - registers the environments
from agents.audit import audit
from agents.distributed import Processes
from agents.policies.causal_lm import CausalLMPolicy
from agents.samplers.names import SamplerName
from agents.samplers.opening import engine_arguments, open_sampler
from agents.samplers.sampler import WEIGHTS_FOLDER, EngineSampler
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig
from zs_env.lm.generator import FinishReason, LanguageModelError, SamplingParams
from zs_env.lm.transformers import TransformersLM


class SecondCopy:
    """An engine in this process; the text that it returns is none that anybody should read."""

    def __init__(self, policy):
        other = policy.frozen_copy()
        self.lm = TransformersLM(other.model, other.tokenizer)
        self.folders, self.prompts, self.is_closed = [], [], False

    def complete_tokens(self, prompts, seeds, params):
        self.prompts.extend(prompts)
        session = self.lm.session(len(prompts))
        found = session.generate(list(range(len(prompts))), prompts, seeds, params)
        return [type(each)(each.token_ids, each.logprobs, "", each.finish_reason) for each in found]

    def load_weights(self, folder):
        self.folders.append(folder)
        self.lm.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)

    def close(self):
        self.is_closed = True


@pytest.fixture
def policy():
    return CausalLMPolicy.load("base")


@pytest.fixture
def engine(policy):
    return SecondCopy(policy)


@pytest.fixture
def sampler(policy, engine, tmp_path):
    return EngineSampler(policy, engine, tmp_path / "sampler")


@pytest.fixture
def env():
    return gym.make_vec(
        "ZeroSearch-v0", num_envs=8, group_size=4, engine="world", autoreset_mode="Disabled"
    )


class Watch(Callback):
    def __init__(self):
        self.rows, self.reports = [], []

    def on_rollout_end(self, trainer, rollout):
        metadata = trainer.env.metadata
        self.reports.append(
            audit(trainer.policy, rollout.trajectories, metadata=metadata, temperature=0.9)
        )

    def on_update_end(self, trainer, rollout, metrics):
        self.rows.append(metrics)


CONFIG = TrainerConfig(importance_cap=2.0, temperature=0.9)


def train(policy, env, sampler, num_updates=3):
    trainer = Trainer(policy, env, config=CONFIG, sampler=sampler)
    watch = Watch()
    trainer.learn(num_updates, watch)
    return watch.rows, watch.reports


def test_trained_ids_and_logprobs_are_the_engines_after_every_update(policy, env, sampler, engine):
    rows, reports = train(policy, env, sampler)
    assert all(report.passed for report in reports)
    assert len(engine.folders) == 3
    assert engine.prompts
    assert all(row["train/logprob_gap"] < 1e-4 for row in rows)
    assert all(row["time/sync_s"] > 0 for row in rows)


def test_episodes_are_those_that_the_policy_would_have_played(policy, env, sampler):
    trainer = Trainer(policy, env, config=CONFIG, sampler=sampler)
    sampler.sync()
    played = [t.token_ids for t in trainer._play(3, {}).trajectories]
    trainer.sampler = None
    assert [t.token_ids for t in trainer._play(3, {}).trajectories] == played


def test_engine_keeps_its_weights_until_it_is_given_new_ones(policy, env, sampler):
    trainer = Trainer(policy, env, config=CONFIG, sampler=sampler)
    sampler.sync()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.02 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(0)
            )
    stale = trainer._play(3, {}).trajectories
    report = audit(policy, stale, metadata=env.metadata, temperature=0.9)
    assert report.max_gap > 0.1
    sampler.sync()
    fresh = trainer._play(3, {}).trajectories
    assert audit(policy, fresh, metadata=env.metadata, temperature=0.9).passed


def test_first_of_several_processes_gives_the_engine_its_weights(policy, env, sampler, engine):
    trainer = Trainer(policy, env, config=CONFIG, sampler=sampler)
    trainer.processes = Processes()
    for rank in (1, 0):
        trainer.processes.rank = rank
        trainer._sync()
        assert len(engine.folders) == 1 - rank


def test_text_is_what_the_policy_makes_of_the_ids(policy, env, sampler):
    trainer = Trainer(policy, env, config=CONFIG, sampler=sampler)
    for trajectory in trainer._play(1, {}).trajectories:
        for turn in trajectory.turns:
            ids = trajectory.token_ids[turn.start : turn.end]
            ended = ids[-1] in policy.end_ids()
            assert turn.action == policy.decode(ids[:-1] if ended else ids)


def test_weights_are_gone_when_the_sampler_is_closed(policy, sampler, engine, tmp_path):
    sampler.sync()
    assert (tmp_path / "sampler" / WEIGHTS_FOLDER / "model.safetensors").exists()
    sampler.close()
    assert engine.is_closed
    assert not (tmp_path / "sampler").exists()


def test_failure_of_an_engine_ends_training(policy, env, sampler, engine):
    def fail(folder):
        raise LanguageModelError("no such folder")

    engine.load_weights = fail
    with pytest.raises(LanguageModelError, match="no such folder"):
        Trainer(policy, env, config=CONFIG, sampler=sampler).learn(1)


def test_full_context_ends_without_text(sampler, policy):
    session = sampler.session(1)
    prompt = [5] * policy.max_context
    [found] = session.generate([0], [prompt], [0], SamplingParams(4, 1.0))
    assert (found.token_ids, found.text) == ([], "")
    assert found.finish_reason is FinishReason.LENGTH


def test_policy_plays_itself_with_transformers(policy, tmp_path):
    assert (
        open_sampler(SamplerName("transformers"), policy, tmp_path, folder=tmp_path / "s") is None
    )


def test_engine_in_process_is_for_one_process(policy, tmp_path):
    with pytest.raises(ValueError, match="in several processes, got 'vllm'"):
        open_sampler(SamplerName("vllm"), policy, tmp_path, folder=tmp_path, num_processes=2)


def test_engine_has_the_policys_type_and_a_small_cache_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch._dynamo.config, "disable", False)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    found = engine_arguments({"max_num_seqs": 8}, "float32")
    assert found == {"dtype": "float32", "max_num_seqs": 8, "kv_cache_memory_bytes": 256 << 20}
    given = {"dtype": "bfloat16", "kv_cache_memory_bytes": 1}
    assert engine_arguments(given, "float32") == given


def test_engine_on_a_gpu_is_left_its_cache(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine_arguments({}, "bfloat16") == {"dtype": "bfloat16"}
