"""Relevance, diversity and style."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tuning.text_statistics import (
    Relevance,
    distinct_ngrams,
    distinct_share,
    mean_overlap,
    overlap,
    style_distance,
)

texts = st.lists(st.text("ab c", max_size=12), max_size=6)


@given(texts, texts)
def test_style_distance_is_a_symmetric_share(left, right):
    found = style_distance(left, right)
    assert 0 <= found <= 1
    assert found == pytest.approx(style_distance(right, left))
    assert style_distance(left, left) == pytest.approx(0, abs=1e-12)


def test_style_distance_of_nothing_in_common_is_one():
    assert style_distance(["a b"], ["c d"]) == pytest.approx(1)
    assert style_distance(["a b"], []) == 1


def test_style_distance_is_that_of_the_formula():
    # P: a 1/2, b 1/2; Q: a 1. M: a 3/4, b 1/4. Single words have no pairs.
    expected = 0.5 * (0.5 * -0.5849625 + 0.5 * 1.0) + 0.5 * 0.4150375
    assert style_distance(["a", "b"], ["a"]) == pytest.approx(expected)


@given(texts, texts)
def test_overlap_is_a_symmetric_share_and_one_of_equal_replies(left, right):
    assert 0 <= overlap(left, right) == overlap(right, left) <= 1
    assert overlap(left, left) == 1


def test_mean_overlap_takes_every_pair():
    assert mean_overlap([["a"], ["a"], ["b"]]) == pytest.approx(1 / 3)


def test_diversity_counts_what_differs():
    assert distinct_share(["a", "a", "b", "c"]) == 0.75
    assert distinct_ngrams(["a b", "a b", "b c"]) == pytest.approx(2 / 3)
    assert distinct_share([]) == distinct_ngrams([]) == 0


def test_rare_words_weigh_more():
    relevance = Relevance(["the mill", "the lake", "the hill", "the Dane"])
    assert relevance.cosine("the Dane", "Dane") > relevance.cosine("the Dane", "the")
    assert relevance.cosine("the Dane", "the Dane") == pytest.approx(1)
    assert relevance.cosine("the Dane", "") == relevance.cosine("Dane", "mill") == 0


@given(st.text(max_size=30), st.text(max_size=30))
def test_relevance_is_a_share(query, text):
    assert 0 <= Relevance(["a b", "c"]).cosine(query, text) <= 1
