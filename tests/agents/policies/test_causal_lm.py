"""A causal LM as a policy."""

import copy
import shutil

import pytest
import torch

from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy, find_policy
from agents.trajectory import Trajectory
from zs_env.lm.generator import SamplingParams
from zs_env.models import model_folder


def make(parts, offset=0):
    trajectory = Trajectory()
    for place, length in enumerate(parts):
        ids = [(11 * place + 5 * i + offset) % 340 for i in range(length)]
        if place % 2:
            trajectory.act(ids, [-1.0] * length)
        else:
            trajectory.observe(ids)
    return trajectory


TRAJECTORIES = [make([4, 3, 6, 2]), make([9, 5], 3), make([2, 1, 2, 1, 20, 4], 7)]
BATCH = Batch.from_trajectories(TRAJECTORIES)


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def kind(request):
    return request.param


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_score_equals_hugging_faces_full_log_softmax(
    make_tiny_model, tiny_tokenizer, kind, temperature
):
    plain = make_tiny_model(kind)
    policy = CausalLMPolicy(copy.deepcopy(plain), tiny_tokenizer)
    scores = policy.score(BATCH, temperature)
    logprobs, entropies = [], []
    for trajectory in TRAJECTORIES:
        ids = torch.tensor([trajectory.token_ids])
        with torch.no_grad():
            full = torch.log_softmax(plain(ids).logits[0, :-1] / temperature, -1)
        mask = torch.tensor(trajectory.action_mask[1:])
        logprobs.append(full.gather(-1, ids[0, 1:, None])[mask, 0])
        entropies.append(-(full.exp() * full).sum(-1)[mask])
    torch.testing.assert_close(scores.logprobs, torch.cat(logprobs), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores.entropy, torch.cat(entropies), atol=1e-4, rtol=1e-4)
    assert scores.logprobs.requires_grad
    assert not scores.entropy.requires_grad


def test_padding_width_changes_no_score(make_policy):
    policy = make_policy()
    together = policy.score(BATCH).logprobs
    alone = torch.cat([policy.score(Batch.from_trajectories([t])).logprobs for t in TRAJECTORIES])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_sampler_stores_what_score_finds(make_policy):
    """The log-probabilities of a session of several turns are those that training sees."""
    policy = make_policy()
    session, trajectories = policy.session(3), [Trajectory() for _ in range(3)]
    texts = (["Question: who", "Hi", "x y z"], [" found", "<search>", "\n\n and then what was it"])
    for turn in range(2):
        new = [policy.encode(text) for text in texts[turn]]
        found = session.generate(range(3), new, [turn, 5, 9], SamplingParams(6, 1.0))
        for trajectory, tokens, completion in zip(trajectories, new, found, strict=True):
            trajectory.observe(tokens)
            trajectory.act(completion.token_ids, completion.logprobs)
    batch = Batch.from_trajectories(trajectories)
    stored = batch.logprobs[batch.action_mask]
    torch.testing.assert_close(policy.score(batch).logprobs, stored, atol=1e-3, rtol=0)


def test_first_token_needs_no_prediction(make_policy):
    trajectory = Trajectory()
    trajectory.act([1, 2, 3], [-1.0] * 3)
    assert len(make_policy().score(Batch.from_trajectories([trajectory])).logprobs) == 2


def test_frozen_copy_keeps_its_weights_and_takes_no_gradient(make_policy):
    policy = make_policy()
    frozen = policy.frozen_copy()
    before = frozen.score(BATCH).logprobs
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(0.5)
    assert torch.equal(frozen.score(BATCH).logprobs, before)
    assert not before.requires_grad
    assert not torch.equal(policy.score(BATCH).logprobs, before)
    assert all(parameter.requires_grad for parameter in policy.parameters())


def test_dropout_is_off(make_tiny_model, tiny_tokenizer):
    model = make_tiny_model("qwen2", attention_dropout=0.5).train()
    policy = CausalLMPolicy(model, tiny_tokenizer)
    assert not policy.model.training
    assert torch.equal(policy.score(BATCH).logprobs, policy.score(BATCH).logprobs)


def test_saved_policy_is_loaded_unchanged(make_policy, tmp_path):
    policy = make_policy()
    policy.save(tmp_path / "checkpoint")
    for name in (tmp_path, tmp_path / "checkpoint", str(tmp_path)):
        loaded = CausalLMPolicy.load(name)
        assert torch.equal(loaded.score(BATCH).logprobs, policy.score(BATCH).logprobs)
        assert loaded.encode("a <search> é") == policy.encode("a <search> é")


def test_saved_policy_is_a_plain_hugging_face_model(make_policy, tmp_path):
    make_policy().save(tmp_path)
    assert "zs_grouped" not in (tmp_path / "config.json").read_text()
    assert list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["no-such-policy", "/no/such/folder"])
def test_unknown_policy_is_named_in_the_error(name):
    with pytest.raises(FileNotFoundError, match=f"`policy` must name a shipped model .* {name}"):
        find_policy(name)


def test_folder_without_weights_is_no_policy(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="`policy` must name a shipped model"):
        find_policy(tmp_path)


def test_run_folder_means_its_checkpoint(make_policy, tmp_path):
    make_policy().save(tmp_path / "checkpoint")
    assert find_policy(tmp_path) == tmp_path / "checkpoint"


def test_damaged_weights_are_reported_as_such(tmp_path):
    shutil.copytree(model_folder("base"), tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="`policy` must be a readable model"):
        CausalLMPolicy.load(tmp_path / "model")


def test_folder_without_a_tokenizer_is_no_policy(tmp_path):
    shutil.copytree(model_folder("base"), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="`policy` must name a shipped model"):
        CausalLMPolicy.load(tmp_path / "model")
