"""A network that can copy from its first step on."""

import copy

import pytest
import torch
from transformers import Qwen2ForCausalLM

from agents.tuning.build import COPY, copy_examples
from agents.tuning.induction import TinyShape, induction_model, tiny_config
from agents.tuning.sft import SFTConfig, collate, finetune

SHAPE = TinyShape()


@pytest.fixture(scope="module")
def model():
    return induction_model(SHAPE, end_id=0, seed=0)


def copy_accuracy(model, num=40):
    """Return how many tokens of repeated random strings are foreseen."""
    ids, weights = collate(copy_examples(num, SHAPE.vocab_size, seed=123))
    with torch.no_grad():
        foreseen = model(ids).logits[:, :-1].argmax(-1)
    wanted = weights[:, 1:] > 0
    return float((foreseen == ids[:, 1:])[wanted].float().mean())


def test_fresh_network_copies_what_it_has_never_seen(model):
    assert copy_accuracy(model) > 0.5


def test_usual_initialisation_does_not_copy():
    """Otherwise the test above would prove nothing."""
    torch.manual_seed(0)
    assert copy_accuracy(Qwen2ForCausalLM(tiny_config(SHAPE, 0)).eval()) < 0.1


def test_short_warm_up_makes_copying_nearly_perfect(model):
    trained = copy.deepcopy(model)
    finetune(trained, copy_examples(800, SHAPE.vocab_size, seed=0), COPY)
    assert copy_accuracy(trained) > 0.95


def test_same_seed_gives_the_same_weights(model):
    again = induction_model(SHAPE, 0, seed=0)
    other = induction_model(SHAPE, 0, seed=1)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert not torch.equal(other.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_network_is_a_plain_qwen2_that_transformers_loads_unchanged(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = Qwen2ForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits)
    assert loaded.config.tie_word_embeddings


def test_copied_examples_weigh_only_what_can_be_copied():
    for example in copy_examples(5, 100, seed=0):
        half = len(example.token_ids) // 2
        assert example.token_ids[:half] == example.token_ids[half:]
        assert example.weights == [0.0] * (half + 1) + [1.0] * (half - 1)


def test_default_training_of_the_copier_is_short():
    assert isinstance(COPY, SFTConfig)
    assert COPY.warmup_steps < 50
