"""Whether a document names something."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tuning.matching import Match, holds, is_named, resembles
from zs_env.search.engine import Document

NAMES = ("Heldra Nimstone", "H. Nimstone")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It was founded by Heldra Nimstone.", {"exact", "alias", "fuzzy"}),
        ("It was founded by H. Nimstone.", {"alias", "fuzzy"}),
        ("It was founded by Heldra Nimston.", {"fuzzy"}),
        ("It was founded by Bodra Fordwick.", set()),
        ("", set()),
    ],
)
def test_each_reading_is_more_lenient_than_the_one_before(text, found):
    for match in Match:
        assert holds([Document(text)], NAMES, match) == (match.value in found)


def test_title_is_read_too():
    assert holds([Document("It rains.", title="Heldra Nimstone")], NAMES)


def test_name_inside_a_longer_word_is_not_named():
    assert not is_named("It stands on the river Daney.", "Dane")
    assert is_named("It stands on the river Dane.", "Dane")


def test_name_of_something_else_is_no_misspelling():
    text = "It lies in Port Grenvale."
    assert resembles(text, "Port Brenvale", 0.85)
    assert not resembles(text, "Port Brenvale", 0.85, {"port grenvale"})


def test_similarity_must_reach_the_threshold():
    assert not resembles("It lies in Port Grenvale.", "Port Brenvale", 0.99)
    assert resembles("It lies in Port Grenvale.", "Port Grenvale", 1.0)


@given(st.text(max_size=60), st.text(max_size=20))
def test_any_text_can_be_read(text, name):
    assert isinstance(holds([Document(text)], [name], Match.FUZZY), bool)
