"""The space of texts."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st

from zs_env.spaces import UnicodeText
from zs_env.task.actions import ActionKind, parse


@given(st.text(max_size=20))
def test_contains_any_unicode_up_to_the_bound(text):
    assert (text in UnicodeText(10)) == (len(text) <= 10)


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["a"], ("a",)])
def test_contains_only_strings(value):
    assert value not in UnicodeText(10)


@pytest.mark.parametrize("max_length", [1, 7, 1000])
def test_samples_are_members_and_follow_the_seed(max_length):
    first, second = UnicodeText(max_length, seed=3), UnicodeText(max_length, seed=3)
    samples = [first.sample() for _ in range(50)]
    assert samples == [second.sample() for _ in range(50)]
    assert all(sample in first for sample in samples)


def test_samples_are_actions_of_every_kind():
    space = UnicodeText(1000, seed=0)
    assert {parse(space.sample()).kind for _ in range(50)} == set(ActionKind)


def test_sample_refuses_masks():
    with pytest.raises(ValueError, match=r"`mask` and `probability` must be None"):
        UnicodeText(5).sample(mask=[1])


@pytest.mark.parametrize("wrong", [0, 2.7, float("nan"), "5", None, True])
def test_bound_must_be_a_positive_integer(wrong):
    message = f"`max_length` must be an integer of at least 1, got {wrong!r}"
    with pytest.raises(ValueError, match=message):
        UnicodeText(wrong)
    assert UnicodeText(np.int64(3)) == UnicodeText(3)


def test_equality_hash_and_repr_follow_the_bound():
    assert UnicodeText(5, seed=1) == UnicodeText(5, seed=2) != UnicodeText(6)
    assert UnicodeText(5) != gym.spaces.Text(5)
    assert hash(UnicodeText(5)) == hash(UnicodeText(5))
    assert repr(UnicodeText(5)) == "UnicodeText(5)"


def test_pickle_is_small_and_keeps_the_generator():
    space = UnicodeText(10**6)
    assert len(pickle.dumps(space)) < 300
    space.seed(4)
    assert pickle.loads(pickle.dumps(space)).sample() == space.sample()


def test_batches_as_a_tuple():
    space = UnicodeText(50)
    batched = batch_space(space, 3)
    texts = ("a", "é", "")
    assert texts in batched
    assert list(iterate(batched, texts)) == list(texts)
    assert concatenate(space, texts, create_empty_array(space, 3)) == texts
    assert batched.sample() in batched


def test_survives_json():
    space = UnicodeText(50)
    assert space.from_jsonable(space.to_jsonable(["a", "é"])) == ["a", "é"]
    assert not space.is_np_flattenable
