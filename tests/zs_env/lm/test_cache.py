"""The key-value cache of ragged batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zs_env.lm.cache import RaggedCache

LAYERS, HEADS, DIM = 2, 3, 4

lengths = st.lists(st.integers(0, 6), min_size=1, max_size=5)


def packed(lengths, seed=0):
    """Return one packed row for each length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(LAYERS, 2, HEADS, n, DIM, generator=generator) for n in lengths]


def append(cache, columns, seed):
    """Write `columns` new columns in every layer, as a forward pass does; return them."""
    generator = torch.Generator().manual_seed(seed)
    batch = cache.used.shape[0]
    new = torch.randn(LAYERS, 2, batch, HEADS, columns, DIM, generator=generator)
    for index, layer in enumerate(cache.layers):
        keys, values = layer.update(new[index, 0], new[index, 1])
        assert keys.shape[2] == values.shape[2] == cache.num_columns + columns
    cache.num_columns += columns
    return new


@given(lengths)
def test_packing_undoes_laying_out(lengths):
    rows = packed(lengths)
    cache = RaggedCache.from_rows(rows, num_new_columns=2)
    taken = cache.take_rows(range(len(rows)))
    assert all(torch.equal(one, other) for one, other in zip(taken, rows, strict=True))


@settings(max_examples=50, deadline=None)
@given(lengths, st.integers(1, 4), st.data())
def test_rows_grow_by_what_is_written_and_used(lengths, columns, data):
    rows = packed(lengths)
    cache = RaggedCache.from_rows(rows, columns)
    start = cache.num_columns
    real = torch.tensor(
        [data.draw(st.lists(st.booleans(), min_size=columns, max_size=columns)) for _ in rows]
    )
    cache.used[:, start : start + columns] = real
    new = append(cache, columns, seed=1)
    for i, taken in enumerate(cache.take_rows(range(len(rows)))):
        expected = torch.cat([rows[i], new[:, :, i][..., real[i], :]], dim=3)
        assert torch.equal(taken, expected)


def test_storage_is_as_large_as_needed_and_gaps_are_hidden():
    cache = RaggedCache.from_rows(packed([3, 0, 5]), num_new_columns=2)
    assert cache.storage.shape == (LAYERS, 2, 3, HEADS, 7, DIM)
    assert cache.num_columns == cache.layers[0].get_seq_length() == 5
    assert cache.layers[0].get_max_length() == 7
    assert cache.used.sum(1).tolist() == [5, 2, 7]
    assert cache.storage[:, :, 1, :, :5].abs().max() == 0


@pytest.mark.parametrize("order", [[0], [2, 0], [1, 2, 0]])
def test_kept_rows_are_the_named_ones_in_that_order(order):
    rows = packed([3, 1, 4])
    cache = RaggedCache.from_rows(rows, 2)
    new = append(cache, 1, seed=1)
    cache.keep_rows(torch.tensor(order))
    for i, taken in zip(order, cache.take_rows(range(len(order))), strict=True):
        assert torch.equal(taken, torch.cat([rows[i], new[:, :, i]], dim=3))


def test_layers_see_the_storage_of_the_rows_kept():
    cache = RaggedCache.from_rows(packed([2, 2, 2]), 2)
    cache.keep_rows(torch.tensor([1]))
    append(cache, 1, seed=1)
    assert cache.take_rows([0])[0].shape == (LAYERS, 2, HEADS, 3, DIM)
