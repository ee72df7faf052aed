"""Exact match and F1 are SQuAD's, on answers made up for the purpose."""

import collections
import random
import re
import string

import pytest

from zs_env.task.rewards import exact_match, token_f1

WORDS = "the a an The An theory Paris paris U.S. U.S.A. it's rock'n'roll 14 1,400 3.5 %".split()
MARKS = ["", "", "", ".", ",", "!", "?", "'", '"', " ", "  ", "\t", "-", "(", ")"]


def squad_normalise(text):
    """Return an answer as Rajpurkar et al. 2016 (arXiv 1606.05250, section 6) compare it."""
    kept = "".join(char for char in text.lower() if char not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def squad_exact_match(prediction, answer):
    return float(squad_normalise(prediction) == squad_normalise(answer))


def squad_f1(prediction, answer):
    predicted, golden = (squad_normalise(text).split() for text in (prediction, answer))
    same = sum((collections.Counter(predicted) & collections.Counter(golden)).values())
    if not predicted or not golden:
        return float(predicted == golden)
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(golden)
    return 2 * precision * recall / (precision + recall)


def make_pairs(num=1000):
    """Return pairs of an answer and one to three golden ones, some of them nearly the same."""
    rng = random.Random(0)

    def text():
        words = [rng.choice(WORDS) + rng.choice(MARKS) for _ in range(rng.randint(0, 5))]
        return " ".join(words)

    def like(answer):
        return rng.choice([answer, answer.upper(), f"the {answer}.", f"{answer} Paris", text()])

    golden = [[text() for _ in range(rng.randint(1, 3))] for _ in range(num)]
    return [(like(rng.choice(answers)), answers) for answers in golden]


PAIRS = make_pairs()


def test_pairs_are_of_all_kinds():
    grades = [token_f1(*pair) for pair in PAIRS]
    assert len(PAIRS) == 1000
    assert sum(grade == 1 for grade in grades) > 100
    assert sum(0 < grade < 1 for grade in grades) > 100
    assert sum(grade == 0 for grade in grades) > 100


@pytest.mark.parametrize("pair", range(0, 1000, 100))
def test_metrics_equal_the_published_definition(pair):
    for prediction, answers in PAIRS[pair : pair + 100]:
        expected = max(squad_exact_match(prediction, answer) for answer in answers)
        assert exact_match(prediction, answers) == expected
        expected = max(squad_f1(prediction, answer) for answer in answers)
        assert token_f1(prediction, answers) == pytest.approx(expected)


def as_squad(prediction, answers):
    """Return a prediction and its reference as the libraries want them."""
    reference = {"text": answers, "answer_start": [0] * len(answers)}
    return (
        [{"id": "0", "prediction_text": prediction}],
        [{"id": "0", "answers": reference}],
    )


def test_metrics_equal_torchmetrics():
    """An implementation that others wrote, on all pairs; its numbers are of single precision."""
    library = pytest.importorskip("torchmetrics.functional.text")
    for prediction, answers in PAIRS:
        found = library.squad(*as_squad(prediction, answers))
        assert found["exact_match"] == 100 * exact_match(prediction, answers)
        assert found["f1"].item() == pytest.approx(100 * token_f1(prediction, answers))


def test_metrics_equal_the_library_evaluate():
    library = pytest.importorskip("evaluate", reason="the library `evaluate` is not installed")
    try:
        squad = library.load("squad")
    except (OSError, ValueError) as error:
        pytest.skip(f"the squad metric of `evaluate` is not at hand: {error}")
    # Its F1 of two answers of which nothing is left is 0.
    pairs = [(p, a) for p, a in PAIRS if squad_normalise(p) and all(map(squad_normalise, a))]
    for prediction, answers in pairs:
        predictions, references = as_squad(prediction, answers)
        found = squad.compute(predictions=predictions, references=references)
        assert found["exact_match"] == 100 * exact_match(prediction, answers)
        assert found["f1"] == pytest.approx(100 * token_f1(prediction, answers))
