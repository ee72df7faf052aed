"""The key-value cache of ragged batches."""

import gc
from weakref import ref

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
    return [torch.randn(LAYERS, 2, n, HEADS, DIM, generator=generator) for n in lengths]


def append(cache, starts, columns, seed):
    """Write `columns` new columns of every row and layer, as a model does; return them."""
    generator = torch.Generator().manual_seed(seed)
    new = torch.randn(LAYERS, 2, len(starts), HEADS, columns, DIM, generator=generator)
    rows = torch.arange(len(starts))[:, None].expand(-1, columns)
    places = torch.tensor(starts)[:, None] + torch.arange(columns)
    width = max(starts) + columns
    cache.aim(rows.flatten(), places.flatten(), width)
    for layer, (keys, values) in zip(cache.layers, new, strict=True):
        found = layer.update(keys, values)
        assert all(part.shape == (len(starts), HEADS, width, DIM) for part in found)
    return new


@pytest.mark.parametrize(("key_size", "value_size"), [(DIM, 2), (1, DIM)])
def test_keys_and_values_may_be_of_different_widths(key_size, value_size):
    cache = RaggedCache.from_rows(packed([2, 0]), num_columns=4)
    keys, values = (torch.randn(2, HEADS, 1, size) for size in (key_size, value_size))
    cache.aim(torch.tensor([0, 1]), torch.tensor([2, 0]), width=3)
    found = cache.layers[1].update(keys, values)
    assert [part.shape for part in found] == [(2, HEADS, 3, n) for n in (key_size, value_size)]
    for part, new in zip(found, (keys, values), strict=True):
        assert torch.equal(part[0, :, 2], new[0, :, 0])
        assert torch.equal(part[1, :, 0], new[1, :, 0])
    row = cache.take_row(0, 3)
    assert torch.equal(row[1, 0, 2, :, :key_size], keys[0, :, 0])
    assert torch.equal(row[1, 1, 2, :, :value_size], values[0, :, 0])


def grown(row, new):
    """Return a packed row with what was appended to it, (layers, 2, heads, columns, head_dim)."""
    return torch.cat([row, new.transpose(2, 3)], dim=2)


@given(lengths)
def test_packing_undoes_laying_out(lengths):
    rows = packed(lengths)
    cache = RaggedCache.from_rows(rows, num_columns=8)
    for place, row in enumerate(rows):
        assert torch.equal(cache.take_row(place, row.shape[2]), row)


@settings(max_examples=50, deadline=None)
@given(lengths, st.integers(1, 4))
def test_rows_grow_behind_what_they_hold(lengths, columns):
    rows = packed(lengths)
    cache = RaggedCache.from_rows(rows, num_columns=max(lengths) + columns)
    new = append(cache, lengths, columns, seed=1)
    for place, row in enumerate(rows):
        taken = cache.take_row(place, lengths[place] + columns)
        assert torch.equal(taken, grown(row, new[:, :, place]))


def test_columns_that_are_attended_to_hold_each_rows_keys():
    rows = packed([3, 0, 5])
    cache = RaggedCache.from_rows(rows, num_columns=9)
    new = append(cache, [3, 0, 5], 2, seed=1)
    keys, values = cache.layers[1].update(new[1, 0], new[1, 1])
    for place, row in enumerate(rows):
        whole = grown(row, new[:, :, place])
        end = whole.shape[2]
        assert torch.equal(keys[place, :, :end].transpose(0, 1), whole[1, 0])
        assert torch.equal(values[place, :, :end].transpose(0, 1), whole[1, 1])
        assert not keys[place, :, end:].any()


def test_room_is_as_wanted_and_finite():
    cache = RaggedCache.from_rows(packed([3, 0, 5]), num_columns=7)
    assert cache.num_columns == cache.layers[0].get_max_length() == 7
    assert cache.num_heads == HEADS
    assert all(torch.isfinite(layer).all() for layer in cache.storage)
    append(cache, [3, 0, 5], 2, seed=1)
    assert cache.layers[0].get_mask_sizes(2) == (7, 0)
    assert cache.layers[0].get_seq_length() == 5


@pytest.mark.parametrize(
    ("rows", "places", "expected"),
    [([2], [0], [2, 1, 2]), ([0, 0], [1, 2], [0, 0, 0]), ([], [], [0, 1, 2])],
)
def test_moved_rows_take_the_place_of_others(rows, places, expected):
    held = packed([3, 3, 3])
    cache = RaggedCache.from_rows(held, num_columns=5)
    cache.move(rows, places, num_columns=3)
    for place, row in enumerate(expected):
        assert torch.equal(cache.take_row(place, 3), held[row])


def test_view_reads_writes_and_moves_its_own_rows():
    held = packed([2, 2, 2, 2])
    cache = RaggedCache.from_rows(held, num_columns=4)
    view = cache.view(1, 4).view(0, 2)
    new = append(view, [2, 2], 1, seed=1)
    assert torch.equal(view.take_row(1, 3), grown(held[2], new[:, :, 1]))
    view.move([1], [0], num_columns=3)
    assert torch.equal(cache.take_row(1, 3), grown(held[2], new[:, :, 1]))
    for place in (0, 3):
        assert torch.equal(cache.take_row(place, 2), held[place])
        assert cache.take_row(place, 4)[:, :, 2:].abs().max() == 0


def test_storage_goes_with_its_cache_and_waits_for_no_collection_of_garbage():
    gc.collect()
    gc.disable()
    try:
        cache = RaggedCache.from_rows(packed([2, 3]), 5)
        cache.view(0, 1).aim(torch.tensor([0]), torch.tensor([2]), 3)
        storage = ref(cache.storage[0])
        assert storage() is not None
        del cache
        assert storage() is None
    finally:
        gc.enable()
