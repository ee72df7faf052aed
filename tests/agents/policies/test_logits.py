"""Log-probabilities by chunks, and of models that change their logits."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.states import recomputed_layers
from agents.trajectory import Trajectory


def make_batch(num_rows=3, vocab_size=352):
    trajectories = []
    for row in range(num_rows):
        trajectory = Trajectory()
        for place, length in enumerate([4 + row, 5, 6, 3 + row]):
            ids = [(31 * place + 7 * i + row) % vocab_size for i in range(length)]
            if place % 2:
                trajectory.act(ids, [-1.0] * length)
            else:
                trajectory.observe(ids)
        trajectories.append(trajectory)
    return Batch.from_trajectories(trajectories), trajectories


BATCH, TRAJECTORIES = make_batch()
FAMILIES = ["llama", "qwen2", "mistral", "granite", "gemma2", "gpt2"]


def gradients(policy, scores):
    (scores.logprobs * torch.linspace(-1, 2, len(scores.logprobs))).sum().backward()
    found = [p.grad.clone() for p in policy.parameters()]
    policy.model.zero_grad()
    return found


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("chunk", [4, 2048])
def test_scores_are_those_of_the_models_own_logits(make_model, tiny_tokenizer, kind, chunk):
    model = make_model(kind)
    own = copy.deepcopy(model)  # with the attention that it came with
    policy = CausalLMPolicy(model, tiny_tokenizer, logit_chunk=chunk)
    wanted = []
    for trajectory in TRAJECTORIES:
        ids = torch.tensor([trajectory.token_ids])
        with torch.no_grad():
            full = torch.log_softmax(own(ids).logits[0, :-1], -1)
        mask = torch.tensor(trajectory.action_mask[1:])
        wanted.append(full.gather(-1, ids[0, 1:, None])[mask, 0])
    found = policy.score(BATCH).logprobs
    torch.testing.assert_close(found, torch.cat(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_chunks_and_recomputing_change_neither_scores_nor_gradients(
    make_model, tiny_tokenizer, kind
):
    whole = CausalLMPolicy(make_model(kind), tiny_tokenizer)
    scores = whole.score(BATCH, 0.7)
    wanted = gradients(whole, scores)
    for options in ({"logit_chunk": 5}, {"gradient_checkpointing": True, "logit_chunk": 1}):
        policy = CausalLMPolicy(make_model(kind), tiny_tokenizer, **options)
        found = policy.score(BATCH, 0.7)
        torch.testing.assert_close(found.logprobs, scores.logprobs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.entropy, scores.entropy, atol=1e-5, rtol=1e-5)
        assert not found.entropy.requires_grad
        for one, other in zip(gradients(policy, found), wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_scoring_leaves_the_model_as_it_was(make_model, tiny_tokenizer):
    policy = CausalLMPolicy(
        make_model("qwen2"), tiny_tokenizer, logit_chunk=5, gradient_checkpointing=True
    )
    policy.score(BATCH).logprobs.sum().backward()
    assert not [m for m in policy.model.modules() if "forward" in vars(m)]
    assert not policy.model.training


class Largest(TorchDispatchMode):
    """Watches the size of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def test_logits_of_all_tokens_never_exist_together(make_model, tiny_tokenizer):
    vocab_size, chunk = 5000, 4
    batch, _ = make_batch(8, vocab_size)
    count = int(batch.action_mask.sum())
    largest = {}
    for size in (count, chunk):
        # The weights' own gradient is as wide as the vocabulary and as deep as the model.
        model = make_model("llama", vocab_size, hidden_size=8, head_dim=2)
        policy = CausalLMPolicy(model, tiny_tokenizer, logit_chunk=size)
        with Largest() as watch:
            policy.score(batch).logprobs.sum().backward()
        largest[size] = watch.numel
    assert largest[count] == count * vocab_size
    assert largest[chunk] <= 8 * vocab_size


def saved_bytes(policy):
    """Return how much a score keeps for its backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = policy.score(BATCH)
        total = sum(sizes.values())
    scores.logprobs.sum().backward()
    return total


def test_gradient_checkpointing_keeps_less(make_model, tiny_tokenizer):
    plain, recomputing = (
        saved_bytes(
            CausalLMPolicy(
                make_model("llama", num_hidden_layers=8),
                tiny_tokenizer,
                logit_chunk=4,
                gradient_checkpointing=on,
            )
        )
        for on in (False, True)
    )
    assert recomputing < plain / 4


def test_a_model_whose_layers_cannot_be_recomputed_is_refused():
    with (
        pytest.raises(ValueError, match="`gradient_checkpointing` must be off for a Linear"),
        recomputed_layers(torch.nn.Linear(2, 2)),
    ):
        pass
