"""Policies of which only an adapter is trained."""

import json
import math

import pytest
import torch
from gymnasium import make_vec
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import zs_env  # noqa: F401 - registers the environments
from agents.algorithms.grpo import GRPO
from agents.algorithms.ppo import PPO
from agents.batch import Batch
from agents.checkpoint import read_checkpoint
from agents.cli.plan import read_shape
from agents.policies.causal_lm import CausalLMPolicy, find_policy
from agents.policies.lora import LoraPolicy, load_lora_policy, merge
from agents.policies.model_options import ModelOptions
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory

LORA = ModelOptions(lora_rank=4, lora_alpha=8)


def make_batch():
    trajectories = []
    for row in range(3):
        trajectory = Trajectory()
        for place, length in enumerate([4, 3 + row, 5, 4]):
            ids = [(17 * place + 5 * i + row) % 350 for i in range(length)]
            if place % 2:
                trajectory.act(ids, [-1.0] * length)
            else:
                trajectory.observe(ids)
        trajectories.append(trajectory)
    return Batch.from_trajectories(trajectories)


BATCH = make_batch()


@pytest.fixture
def folder(make_model, tiny_tokenizer, tmp_path):
    CausalLMPolicy(make_model("qwen2"), tiny_tokenizer).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def policy(folder):
    return CausalLMPolicy.load(folder, options=LORA)


def disturb(policy):
    """Change the adapter, whose second matrices are zero at first."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def make_trainer(policy, share_env, algorithm=None, **config):
    settings = {"num_minibatches": 1, "learning_rate": 1e-2, "max_new_tokens": 6} | config
    algorithm = algorithm or GRPO(kl_coef=0.1)
    return Trainer(policy, share_env, algorithm, config=TrainerConfig(**settings))


def weights_below(policy):
    return {n: p.clone() for n, p in policy.model.named_parameters() if "lora_" not in n}


def test_a_new_adapter_changes_nothing(folder, policy):
    whole = CausalLMPolicy.load(folder).score(BATCH)
    torch.testing.assert_close(policy.score(BATCH).logprobs, whole.logprobs, atol=0, rtol=0)


def test_only_the_adapter_is_trained(policy, share_env):
    names = set(policy.module.state_dict())
    assert names
    assert all("lora_A" in name or "lora_B" in name for name in names)
    assert len(names) == len(list(policy.parameters())) == 2 * 7 * 2
    trainer = make_trainer(policy, share_env)
    below, adapter = weights_below(policy), [p.clone() for p in policy.parameters()]
    trainer.learn(1)
    assert all(torch.equal(now, below[name]) for name, now in weights_below(policy).items())
    pairs = zip(policy.parameters(), adapter, strict=True)
    assert not all(torch.equal(now, before) for now, before in pairs)


def test_targets_say_which_layers_have_an_adapter(folder):
    options = ModelOptions(lora_rank=2, lora_targets="q_proj, v_proj")
    names = CausalLMPolicy.load(folder, options=options).module.state_dict()
    assert len(names) == 2 * 2 * 2
    assert all("q_proj" in name or "v_proj" in name for name in names)


@pytest.mark.parametrize("targets", ["no_such_proj", "q_proj,v_porj", "proj"])
def test_targets_that_are_not_there_are_refused(folder, targets):
    options = ModelOptions(lora_rank=2, lora_targets=targets)
    with pytest.raises(ValueError, match="`lora_targets` must name linear layers of the model"):
        CausalLMPolicy.load(folder, options=options)
    with pytest.raises(ValueError, match="`lora_targets` must name linear layers of the model"):
        read_shape(folder, options)


@pytest.mark.parametrize("option", [{"lora_alpha": 8.0}, {"lora_targets": "q_proj"}])
def test_options_of_an_adapter_without_one_are_refused(option):
    with pytest.raises(ValueError, match=f"`{min(option)}` needs a `lora_rank` above 0"):
        ModelOptions(**option)


def test_an_alpha_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="`lora_alpha` must be greater than 0 and finite, got inf"):
        ModelOptions(lora_rank=2, lora_alpha=math.inf)


def test_the_reference_is_the_same_model_with_the_adapter_off(folder, policy):
    reference = policy.frozen_copy()
    disturb(policy)
    whole = CausalLMPolicy.load(folder).score(BATCH).logprobs
    assert reference.model is policy.model
    found = reference.score(BATCH).logprobs
    torch.testing.assert_close(found, whole, atol=0, rtol=0)
    assert not found.requires_grad
    assert not torch.allclose(policy.score(BATCH).logprobs, whole)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_asking_the_reference_between_forward_and_backward_changes_no_gradient(
    folder, checkpointing
):
    options = ModelOptions(
        lora_rank=4, gradient_checkpointing=checkpointing, logit_chunk=3 if checkpointing else 99
    )
    policy = CausalLMPolicy.load(folder, options=options)
    disturb(policy)
    reference, found = policy.frozen_copy(), []
    for asks in (False, True):
        scores = policy.score(BATCH)
        if asks:
            reference.score(BATCH)
        scores.logprobs.sum().backward()
        found.append([p.grad.clone() for p in policy.parameters()])
        policy.model.zero_grad()
    assert all(g.abs().sum() > 0 for g in found[0])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert all(p.requires_grad for p in policy.parameters())


def test_sampler_and_trainer_agree_on_a_trained_adapter(policy, share_env):
    trainer = make_trainer(policy, share_env)
    trainer.learn(1)
    gaps = []
    trainer.learn(1, lambda trainer, rollout, metrics: gaps.append(metrics["train/logprob_gap"]))
    assert gaps[0] < 1e-3


def test_the_first_weights_follow_the_seed(folder):
    one, same, other = (
        CausalLMPolicy.load(folder, options=ModelOptions(lora_rank=4, seed=seed))
        for seed in (0, 0, 1)
    )
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_a_saved_adapter_is_loaded_unchanged_and_goes_on_being_trained(policy, tmp_path):
    disturb(policy)
    policy.save(tmp_path / "adapter")
    loaded = CausalLMPolicy.load(tmp_path / "adapter")
    assert isinstance(loaded, LoraPolicy)
    assert torch.equal(loaded.score(BATCH).logprobs, policy.score(BATCH).logprobs)
    assert set(loaded.module.state_dict()) == set(policy.module.state_dict())
    assert find_policy(tmp_path / "adapter") == tmp_path / "adapter"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_saved_adapter_is_pefts(policy, folder, tmp_path):
    disturb(policy)
    policy.save(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    theirs = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        ids = torch.tensor([[1, 2, 3, 4]])
        torch.testing.assert_close(theirs(ids).logits, policy.model(ids).logits)


def test_an_adapter_says_which_model_it_misses(policy, folder, tmp_path):
    policy.save(tmp_path / "adapter")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"is an adapter for {folder}: .* must name"):
        CausalLMPolicy.load(tmp_path / "adapter")


def test_a_merged_policy_scores_as_with_its_adapter(policy, tmp_path):
    disturb(policy)
    policy.save(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    merged = CausalLMPolicy.load(tmp_path / "merged")
    assert type(merged) is CausalLMPolicy
    found, wanted = (each.score(BATCH).logprobs for each in (merged, policy))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="`policy` must be a LoRA adapter, got the whole model"):
        merge(tmp_path / "merged", tmp_path / "again")


def test_a_new_adapter_on_an_adapter_is_refused(policy, tmp_path):
    policy.save(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"`policy` must be a whole model .* merge it first"):
        load_lora_policy(tmp_path / "adapter", "cpu", LORA)


def test_a_critic_is_refused(policy, share_env):
    with pytest.raises(ValueError, match="`algorithm` must do without a critic"):
        make_trainer(policy, share_env, PPO())


def test_a_checkpoint_holds_the_adapter_alone_and_resumes_bit_for_bit(
    folder, share_env, make_letters_env, tmp_path
):
    straight = make_trainer(CausalLMPolicy.load(folder, options=LORA), share_env)
    straight.learn(4)
    first = make_trainer(CausalLMPolicy.load(folder, options=LORA), share_env)
    first.learn(4, lambda trainer, *_: trainer.num_updates_done < 2)
    first.save(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "policy.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    checkpoint = read_checkpoint(tmp_path / "saved")
    assert checkpoint.frozen == {"reference": {}}
    # Either way to go on: the same trainer made again, or all of it from the folder.
    second = make_trainer(CausalLMPolicy.load(folder, options=LORA), share_env)
    second.restore(checkpoint)
    for trainer in (second, Trainer.load(tmp_path / "saved", share_env)):
        trainer.learn()
        pairs = zip(trainer.policy.parameters(), straight.policy.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_a_frozen_model_in_bfloat16_has_an_adapter_in_float32(folder):
    options = ModelOptions(lora_rank=4, dtype="bfloat16")
    policy = CausalLMPolicy.load(folder, options=options)
    assert policy.model.dtype == torch.bfloat16
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    policy.score(BATCH).logprobs.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in policy.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_trainer_has_the_frozen_model_in_the_type_it_had(
    folder, share_env, tmp_path, dtype
):
    policy = CausalLMPolicy.load(folder, options=ModelOptions(lora_rank=4, dtype=dtype))
    make_trainer(policy, share_env).save(tmp_path / "saved")
    loaded = Trainer.load(tmp_path / "saved", share_env).policy
    assert loaded.model.dtype == policy.model.dtype
    assert loaded.chat == policy.chat
    assert torch.equal(loaded.score(BATCH).logprobs, policy.score(BATCH).logprobs)


def test_an_adapter_of_a_shipped_policy_learns_on_miniwiki():
    policy = CausalLMPolicy.load("base", options=LORA)
    env = make_vec(
        "ZeroSearch-v0", num_envs=4, group_size=2, engine="world", autoreset_mode="Disabled"
    )
    found = []
    Trainer(policy, env, GRPO()).learn(1, lambda trainer, _, metrics: found.append(metrics))
    assert found[0]["train/logprob_gap"] < 1e-3


def test_whole_weights_are_those_of_the_model_with_its_adapter(policy, tmp_path):
    disturb(policy)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    policy.save_whole(tmp_path / "whole")
    whole = CausalLMPolicy(
        AutoModelForCausalLM.from_pretrained(tmp_path / "whole"), policy.tokenizer
    )
    assert not isinstance(whole, LoraPolicy)
    with torch.no_grad():
        expected, found = policy.score(BATCH).logprobs, whole.score(BATCH).logprobs
        plain = policy.frozen_copy().score(BATCH).logprobs
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (plain - expected).abs().max() > 0.01
    after = policy.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_whole_weights_have_the_names_of_the_model_below(folder, policy, tmp_path):
    policy.save_whole(tmp_path / "whole")
    names = []
    for place in (folder, tmp_path / "whole"):
        with safe_open(place / "model.safetensors", "pt") as file:
            names.append(sorted(file.keys()))
    assert names[0] == names[1]
