"""One uniform number a token, turned into an id."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env.lm.sampling import sample

LOGITS = [2.0, -1.0, 0.5, 0.0, -3.0, 1.0, -2.0, 0.25]


def grid(num):
    return (torch.arange(num, dtype=torch.float64) + 0.5) / num


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_match_the_softmax(temperature):
    """Chi-square over a grid of uniforms, which is far more even than random numbers would be."""
    num = 20_000
    logits = torch.tensor(LOGITS).expand(num, -1)
    ids, _ = sample(logits, grid(num), temperature)
    expected = torch.softmax(torch.tensor(LOGITS, dtype=torch.float64) / temperature, 0) * num
    observed = torch.bincount(ids, minlength=len(LOGITS))
    assert ((observed - expected) ** 2 / expected).sum() < 1.0


def test_frequencies_match_the_softmax_for_random_uniforms():
    num = 20_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(num))
    ids, _ = sample(torch.tensor(LOGITS).expand(num, -1), uniforms, 1.0)
    expected = torch.softmax(torch.tensor(LOGITS, dtype=torch.float64), 0) * num
    observed = torch.bincount(ids, minlength=len(LOGITS))
    critical = 24.3  # of chi-square with 7 degrees of freedom, at 0.1 %
    assert ((observed - expected) ** 2 / expected).sum() < critical


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20),
    st.floats(0, 1, exclude_max=True),
)
def test_temperature_zero_takes_the_most_likely(logits, uniform):
    row = torch.tensor([logits])
    ids, logprobs = sample(row, torch.tensor([uniform]), 0.0)
    assert row[0, ids[0]] == row.max()
    torch.testing.assert_close(logprobs, torch.log_softmax(row, -1)[0, ids])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=12),
    st.sets(st.integers(0, 11)),
    st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2**-53, 1 - 2**-30, 1 - 2**-24]),
)
def test_impossible_tokens_are_never_chosen(logits, impossible, uniform):
    row = torch.tensor([logits])
    impossible = {i for i in impossible if i < len(logits)}
    if len(impossible) == len(logits):
        return
    row[0, list(impossible)] = -torch.inf
    ids, logprobs = sample(row, torch.tensor([uniform], dtype=torch.float64), 1.0)
    assert ids.item() not in impossible
    assert torch.isfinite(logprobs).all()


def test_largest_uniform_takes_the_last_possible_token():
    """Rounded to float32 it would be 1, and its token one of probability 0."""
    logits = torch.tensor([[0.0, 0.0, -1e9, -1e9]])
    ids, _ = sample(logits, torch.tensor([1 - 2**-53], dtype=torch.float64), 1.0)
    assert ids.item() == 1


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(16)), st.sampled_from([0.0, 0.7, 1.0]))
def test_permuting_rows_permutes_results(order, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(16, 50, generator=generator)
    uniforms = torch.rand(16, generator=generator, dtype=torch.float64)
    ids, logprobs = sample(logits, uniforms, temperature)
    permuted_ids, permuted_logprobs = sample(logits[order], uniforms[order], temperature)
    assert permuted_ids.tolist() == ids[order].tolist()
    assert permuted_logprobs.tolist() == logprobs[order].tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_logprobs_are_those_of_the_distribution_sampled_from(temperature):
    logits = torch.randn(64, 20, generator=torch.Generator().manual_seed(1))
    ids, logprobs = sample(logits, grid(64), temperature)
    expected = torch.log_softmax(logits / temperature, -1).gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_logprobs_are_float32_whatever_the_logits(dtype):
    _, logprobs = sample(torch.tensor([LOGITS], dtype=dtype), torch.tensor([0.5]), 1.0)
    assert logprobs.dtype == torch.float32


def test_larger_uniform_never_takes_an_earlier_token():
    ids, _ = sample(torch.tensor(LOGITS).expand(1000, -1), grid(1000), 1.0)
    assert ids.tolist() == sorted(ids.tolist())


def by_running_sum(logits, uniforms, temperature):
    """Return the ids that one running sum over all of a row gives, in float64 throughout."""
    cdf = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    return torch.searchsorted(cdf, uniforms.double()[:, None] * cdf[:, -1:], right=True)[:, 0]


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 65, 1000, 2048])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_ids_are_those_of_one_running_sum(vocab_size, temperature):
    generator = torch.Generator().manual_seed(vocab_size)
    logits = 3 * torch.randn(4000, vocab_size, generator=generator)
    logits[:, ::3] = -torch.inf if vocab_size > 1 else 0
    uniforms = torch.rand(4000, generator=generator, dtype=torch.float64)
    ids, _ = sample(logits, uniforms, temperature)
    expected = by_running_sum(logits, uniforms, temperature)
    assert (ids != expected).sum() <= 4  # of which rounding may part a few


@pytest.mark.parametrize("vocab_size", [1, 64, 65, 2048])
def test_first_of_equally_likely_tokens_is_taken_at_temperature_zero(vocab_size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 4, (200, vocab_size), generator=generator).float()
    ids, _ = sample(logits, torch.zeros(200), 0.0)
    first = (logits == logits.amax(-1, keepdim=True)).int().argmax(-1)
    assert ids.tolist() == first.tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 1000),
    st.sampled_from([0.0, 2**-53, 0.5, 1 - 2**-24, 1 - 2**-53]),
)
def test_chosen_token_is_possible_wherever_the_only_ones_lie(vocab_size, seed, uniform):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.full((1, vocab_size), -torch.inf)
    possible = torch.randint(0, vocab_size, (3,), generator=generator)
    logits[0, possible] = 5 * torch.randn(3, generator=generator)
    ids, logprobs = sample(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)
    assert ids.item() in possible.tolist()
    assert torch.isfinite(logprobs).all()


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [3, 64, 200])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_rows_that_are_no_numbers_are_told_by_their_logprob(temperature, size, broken):
    """And disturb no other row."""
    logits = torch.zeros(3, size)
    logits[1] = broken
    ids, logprobs = sample(logits, torch.tensor([0.0, 0.99, 0.5]), temperature)
    assert 0 <= int(ids.min()) <= int(ids.max()) < size
    assert logprobs.isnan().tolist() == [False, True, False]
