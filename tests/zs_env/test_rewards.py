"""How answers are graded."""

import math
import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.task.rewards import (
    GRADES,
    exact_match,
    normalise,
    substring_match,
    token_f1,
)

ascii_texts = st.text(st.characters(max_codepoint=127), max_size=40)
wordy = st.lists(
    st.sampled_from(["the", "a", "Mars", "mars.", "Zoë", "an", "10", "--", "É"]), max_size=6
).map(" ".join)
answers = ascii_texts | wordy | st.text(max_size=40)


def squad_normalise(text):
    """SQuAD v1.1's definition, step by step."""
    text = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@given(ascii_texts)
def test_normalisation_is_squads_on_ascii(text):
    assert normalise(text) == squad_normalise(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Beyonce\u0301", "BEYONCÉ"),  # composed and decomposed
        ("“Straße”", "STRASSE"),
        ("1990–91", "1990-91"),
        ("ﬁlm", "film"),
        ("l\u2019étranger", "L'Étranger"),
        ("Tōkyō\u00a0", "tōkyō"),
        ("Mars\u200b", "Mars"),
        ("\ufeffMa\u00adrs", "Mars"),
        ("श्र\u200dी", "श्री"),
        ("☎\ufe0f x", "☎ x"),
        ("İstanbul", "istanbul"),
        ("I\u0307stanbul", "ISTANBUL"),
    ],
)
def test_unicode_variants_of_one_text_match(left, right):
    assert exact_match(left, [right]) == 1.0
    assert token_f1(left, [right]) == 1.0


def test_diacritics_distinguish():
    assert exact_match("Pele", ["Pelé"]) == 0.0
    assert exact_match("Diyarbak\u0131r", ["Diyarbakir"]) == 0.0


@given(answers, st.sampled_from("\u00ad\u034f\u200b\u200d\u2060\u3164\ufe0f\ufeff\U000e0100"))
def test_invisible_characters_do_not_count(text, unseen):
    assert normalise(unseen + "".join(char + unseen for char in text)) == normalise(text)


def test_exact_match_is_no_substring_test():
    """Fault 5: "Marsupial" counting for "Mars"."""
    assert exact_match("Marsupial", ["Mars"]) == 0.0
    assert exact_match("Mars is it", ["Mars"]) == 0.0
    assert exact_match("The Mars!", ["Venus", "Mars"]) == 1.0
    assert substring_match("Marsupial", ["Mars"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "golden", "f1"),
    [
        ("Barack Obama", ["Barack Obama"], 1.0),
        ("Obama", ["Barack Obama"], 2 / 3),
        ("the the Obama", ["Obama"], 1.0),
        ("Obama Obama", ["Obama"], 2 / 3),
        ("nobody", ["Barack Obama"], 0.0),
        ("", ["Obama"], 0.0),
        ("the", ["Obama"], 0.0),
        ("the", ["A"], 1.0),
        ("x y", ["z", "x"], 2 / 3),
    ],
)
def test_token_f1_counts_shared_words(answer, golden, f1):
    assert token_f1(answer, golden) == pytest.approx(f1)


@given(answers, st.lists(answers, min_size=1, max_size=3))
def test_grades_are_bounded_and_ordered(answer, golden):
    f1, match = token_f1(answer, golden), exact_match(answer, golden)
    assert 0.0 <= f1 <= 1.0
    assert match in (0.0, 1.0)
    assert match <= f1
    assert match <= substring_match(answer, golden)
    assert all(isinstance(grade, float) for grade in (f1, match))


@given(answers)
def test_answer_matches_itself(answer):
    for grade in GRADES.values():
        assert grade(answer, [answer]) == 1.0


@given(answers, answers)
def test_f1_is_symmetric_and_blind_to_word_order(left, right):
    assert math.isclose(token_f1(left, [right]), token_f1(right, [left]))
    words = normalise(left).split()
    if Counter(normalise(" ".join(reversed(words))).split()) == Counter(words):
        assert token_f1(" ".join(reversed(words)), [left]) == 1.0
