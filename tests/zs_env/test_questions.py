"""The record of one question, checked when it is made."""

import pickle

import pytest

from zs_env.task.questions import Question


def test_list_of_answers_is_kept_as_a_tuple():
    question = Question("1", "Where?", ["Paris", "Paname"])
    assert question == Question("1", "Where?", ("Paris", "Paname"))
    assert pickle.loads(pickle.dumps(question)) == question
    assert len({question, question}) == 1


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (("1", "Where?", "Paris"), TypeError, "`golden_answers` of .* of texts, got 'Paris'"),
        (("1", "Where?", (1972,)), TypeError, r"`golden_answers` of .* of texts, got \(1972,\)"),
        (("1", "Where?", None), TypeError, "`golden_answers` of question '1' must be .* got None"),
        (("1", "Where?", {"a": 1}), TypeError, "`golden_answers` of question '1' must be a tuple"),
        (("1", "Where?", b"ab"), TypeError, "`golden_answers` of question '1' must be a tuple"),
        (("1", "Where?", ()), ValueError, "`golden_answers` of question '1' must not be empty"),
        (("1", 5, ("a",)), TypeError, "`text` of question '1' must be a text, got 5"),
        (("1", "", ("a",)), ValueError, "`text` of question '1' must not be blank, got ''"),
        (("1", " \n", ("a",)), ValueError, "`text` of question '1' must not be blank"),
        (("1", "x" * 5000, ("a",)), ValueError, "`text` .* at most 4096 characters .* got 5000"),
        ((1, "Where?", ("a",)), TypeError, "`id` of question 1 must be a text, got 1"),
        (("1", "Where?", ("a",), None), TypeError, "`data_source` .* must be a text, got None"),
        (("1", "Where?", ("a",), "x", 2.0), TypeError, "`num_hops` .* an integer or None, got 2.0"),
        (("1", "Where?", ("a",), "x", True), TypeError, "`num_hops` .* or None, got True"),
    ],
)
def test_part_of_the_wrong_kind_is_refused_at_once(parts, error, message):
    """It used to fail at the first reset or answer, or to be graded letter by letter."""
    with pytest.raises(error, match=message):
        Question(*parts)
