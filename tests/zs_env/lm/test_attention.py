"""Attention as two matrix products."""

import copy

import pytest
import torch

from zs_env.lm.attention import GROUPED_ATTENTION, causal_mask, grouped_attention

SHAPES = [(2, 4, 4, 5, 5), (3, 4, 2, 5, 5), (2, 6, 1, 1, 9), (1, 4, 2, 3, 8)]


def tensors(batch, heads, key_value_heads, length, total, requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(
            *shape, 8, generator=generator, dtype=torch.float64, requires_grad=requires_grad
        )
        for shape in (
            (batch, heads, length),
            (batch, key_value_heads, total),
            (batch, key_value_heads, total),
        )
    ]


def reference(query, key, value, mask, scaling):
    groups = query.shape[1] // key.shape[1]
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key.repeat_interleave(groups, 1),
        value.repeat_interleave(groups, 1),
        attn_mask=mask,
        scale=scaling,
    ).transpose(1, 2)


def random_mask(batch, length, total):
    """Return an additive mask that differs by row and hides no query everything."""
    visible = torch.rand(batch, 1, length, total, generator=torch.Generator().manual_seed(1)) < 0.6
    visible[..., 0] = True
    return torch.zeros(visible.shape, dtype=torch.float64).masked_fill_(
        ~visible, torch.finfo(torch.float64).min
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_attention_over_repeated_heads(shape, masked):
    query, key, value = tensors(*shape)
    mask = random_mask(shape[0], *shape[3:]) if masked else None
    attended, weights = grouped_attention(None, query, key, value, mask, scaling=0.3)
    assert weights is None
    # Softmax is in float32 on purpose.
    torch.testing.assert_close(
        attended, reference(query, key, value, mask, 0.3), atol=1e-5, rtol=1e-5
    )


def test_mask_shared_by_all_rows_broadcasts():
    query, key, value = tensors(3, 4, 2, 5, 5)
    mask = causal_mask(5, torch.float64, "cpu")
    attended, _ = grouped_attention(None, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(
        attended, reference(query, key, value, mask, 0.3), atol=1e-5, rtol=1e-5
    )


def test_gradients_equal_those_of_attention_over_repeated_heads():
    mask = random_mask(3, 5, 5)
    ours, theirs = (tensors(3, 4, 2, 5, 5, requires_grad=True) for _ in range(2))
    weights = torch.randn(
        3, 5, 4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    (grouped_attention(None, *ours, mask, scaling=0.3)[0] * weights).sum().backward()
    (reference(*theirs, mask, 0.3) * weights).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_causal_mask_hides_the_future_only():
    mask = causal_mask(4, torch.float32, "cpu")
    assert mask.shape == (1, 1, 4, 4)
    assert (mask[0, 0] == 0).tolist() == torch.ones(4, 4).tril().bool().tolist()


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_model_that_is_called_without_a_mask_stays_causal(make_tiny_model, kind):
    """Transformers gives an attention function that it knows no mask for no mask at all."""
    model = make_tiny_model(kind)
    expected = copy.deepcopy(model)
    model.set_attn_implementation(GROUPED_ATTENTION)
    ids = torch.arange(40).reshape(2, 20)
    padding = torch.ones(2, 20, dtype=torch.long)
    padding[1, :5] = 0
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            model(ids, attention_mask=padding).logits[:, 5:],
            expected(ids, attention_mask=padding).logits[:, 5:],
            atol=1e-3,
            rtol=1e-3,
        )
