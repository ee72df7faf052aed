"""Several examples in one row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from agents.tuning.packing import (
    DocumentLoss,
    block_mask,
    check_packing,
    collate_rows,
    learned_weight,
    pack,
    row_length,
    split_rows,
)
from agents.tuning.sft import Example, collate, weighted_loss
from zs_env.lm.attention import GROUPED_ATTENTION
from zs_env.models import model_folder

ATTENTIONS = ["eager", "sdpa", GROUPED_ATTENTION]


def example(length, offset=0):
    read = length // 3
    ids = [(7 * i + 13 * offset) % 340 for i in range(length)]
    return Example(ids, [0.0] * read + [1.0] * (length - read), str(offset))


EXAMPLES = [example(n, offset) for offset, n in enumerate([9, 4, 17, 12, 5, 9, 2])]


def mean_loss(model, length):
    rows = pack(EXAMPLES, length)
    return DocumentLoss(model)(collate_rows(rows)) / learned_weight(rows)


def gradients(model, length):
    model.zero_grad()
    mean_loss(model, length).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@given(st.lists(st.integers(2, 30), max_size=40), st.integers(0, 50))
def test_each_example_is_packed_once(lengths, length):
    examples = [example(n, offset) for offset, n in enumerate(lengths)]
    rows = pack(examples, length)
    assert sorted(id(e) for row in rows for e in row) == sorted(map(id, examples))
    assert all(len(row) == 1 or row_length(row) <= length for row in rows)
    assert all(len(row) == 1 for row in rows) or length


@given(st.lists(st.integers(2, 30), min_size=1, max_size=40), st.integers(1, 100))
def test_passes_keep_all_rows_and_the_bound(lengths, bound):
    rows = pack([example(n) for n in lengths], 0)
    passes = split_rows(rows, bound)
    assert [row for part in passes for row in part] == rows
    assert all(len(p) == 1 or len(p) * max(map(row_length, p)) <= bound for p in passes)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("length", [25, 60])
def test_packed_loss_is_the_unpacked_loss(make_tiny_model, kind, attention, length):
    model = make_tiny_model(kind)
    model.set_attn_implementation(attention)
    check_packing(model, length)
    assert len(pack(EXAMPLES, length)) < len(EXAMPLES)
    torch.testing.assert_close(mean_loss(model, length), mean_loss(model, 0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_packed_gradient_is_the_unpacked_gradient(make_tiny_model, attention):
    model = make_tiny_model("llama", initializer_range=0.1)
    model.set_attn_implementation(attention)
    torch.testing.assert_close(gradients(model, 60), gradients(model, 0), atol=1e-5, rtol=1e-4)


def test_packed_loss_of_the_shipped_simulator_is_the_unpacked_loss():
    folder = model_folder("simulator")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.set_attn_implementation(GROUPED_ATTENTION)
    torch.testing.assert_close(mean_loss(model, 60), mean_loss(model, 0), atol=1e-5, rtol=1e-5)


def test_learned_positions_can_be_packed():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=352, n_positions=128, n_embd=32, n_layer=2, n_head=2, initializer_range=0.35
    )
    model = GPT2LMHeadModel(config).eval()
    check_packing(model, 60)
    torch.testing.assert_close(mean_loss(model, 60), mean_loss(model, 0), atol=1e-5, rtol=1e-5)


def test_loss_is_that_of_fine_tuning(make_tiny_model):
    model = make_tiny_model()
    torch.testing.assert_close(mean_loss(model, 0), weighted_loss(model, *collate(EXAMPLES)))


def test_example_is_never_predicted_by_its_neighbour():
    whole = Example([1, 2, 3], [1.0, 1.0, 1.0])
    rows = collate_rows([[whole, whole], [whole]])
    assert rows.weights.tolist() == [[0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 0, 0]]
    assert rows.positions.tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 0, 0]]
    assert rows.segments.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, -1, -1, -1]]
    assert rows.weights.sum() == learned_weight([[whole, whole], [whole]])


def test_mask_hides_the_future_and_the_others_but_never_oneself():
    mask = block_mask(torch.tensor([[0, 0, 1, -1]]))
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert mask.shape == (1, 1, 4, 4)
    assert mask[0, 0].int().tolist() == expected


def test_row_without_weight_has_a_loss_and_a_gradient_of_zero(make_tiny_model):
    model = make_tiny_model()
    loss = DocumentLoss(model)(collate_rows([[Example([1, 2, 3], [0.0] * 3)]]))
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_loss_is_that_of_the_logits_which_the_model_samples_from():
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=352,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        logits_scaling=4.0,
        initializer_range=0.35,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = GraniteForCausalLM(config).eval()
    ids, weights = torch.tensor([EXAMPLES[2].token_ids]), torch.tensor(EXAMPLES[2].weights[1:])
    logprobs = torch.log_softmax(model(ids).logits[0, :-1], -1)
    expected = -(logprobs.gather(-1, ids[0, 1:, None])[:, 0] * weights).sum()
    torch.testing.assert_close(DocumentLoss(model)(collate_rows([[EXAMPLES[2]]])), expected)


def test_unknown_attention_is_refused(make_tiny_model):
    model = make_tiny_model()
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(
        ValueError, match=r"`pack` must be 0 but for attention .*'flash_attention_2'"
    ):
        check_packing(model, 60)


def test_window_shorter_than_a_row_is_refused(make_tiny_model):
    model = make_tiny_model(
        "qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=0
    )
    check_packing(model, 32)
    with pytest.raises(ValueError, match="`pack` must be at most the model's window of 32, got 60"):
        check_packing(model, 60)


def test_model_without_position_ids_is_refused():
    torch.manual_seed(0)
    model = BloomForCausalLM(
        BloomConfig(vocab_size=352, hidden_size=32, n_layer=2, n_head=2)
    ).eval()
    with pytest.raises(ValueError, match="`pack` must be 0 for a model of type 'bloom'"):
        check_packing(model, 60)


def test_model_whose_examples_see_each_other_is_refused(make_tiny_model, monkeypatch):
    model = make_tiny_model("llama")
    forward = model.model.forward

    def deaf(attention_mask=None, position_ids=None, **kwargs):
        return forward(**kwargs)

    monkeypatch.setattr(model.model, "forward", deaf)
    with pytest.raises(ValueError, match="its examples see each other"):
        check_packing(model, 60)
