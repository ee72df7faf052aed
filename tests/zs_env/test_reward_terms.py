"""Rewards put together from terms."""

import math
import pickle

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zs_env.task.actions import parse
from zs_env.task.reward_terms import (
    AnswerGrade,
    ExtraWords,
    FormatError,
    PerTurn,
    RewardSum,
    RewardTerm,
    SearchCost,
    Turn,
    make_reward,
)
from zs_env.task.rewards import GRADES, exact_match, token_f1

PENALTY = AnswerGrade(exact_match) - 0.5 * SearchCost()
NUMBER = 3


def turn(text, **changes):
    values = {
        "action": parse(text),
        "golden_answers": ("Mars",),
        "observation": "",
        "turn": 1,
        "searched": "<search>" in text,
        "num_searches": 1,
        "ended": "<answer>" in text,
    }
    return Turn(**(values | changes))


ANSWER, SEARCH, NOTHING = turn("<answer>Mars</answer>"), turn("<search>q</search>"), turn("hm")


def test_grade_is_paid_for_answers_only():
    assert [AnswerGrade()(each) for each in (ANSWER, SEARCH, NOTHING)] == [1.0, 0.0, 0.0]
    half = turn("<answer>Mars it is, I say</answer>")
    assert AnswerGrade(exact_match)(half) == 0.0
    assert AnswerGrade(token_f1)(half) == pytest.approx(1 / 3)


def test_extra_words_counts_words_beyond_the_free_ones():
    long = turn("<answer>it is the planet Mars</answer>")
    assert [ExtraWords(free)(long) for free in (0, 3, 4, 9)] == [4.0, 1.0, 0.0, 0.0]
    assert ExtraWords()(SEARCH) == 0.0


def test_format_error_marks_malformed_turns_and_missing_thoughts():
    assert [FormatError()(each) for each in (ANSWER, SEARCH, NOTHING)] == [0.0, 0.0, 1.0]
    thinking = turn(" <think>hm</think><answer>x</answer>")
    assert [FormatError(thought=True)(each) for each in (ANSWER, thinking)] == [1.0, 0.0]
    assert FormatError(thought=True)(turn("<think>hm<answer>x</answer>")) == 1.0


def test_search_cost_begins_after_the_free_searches():
    second = turn("<search>q</search>", num_searches=2)
    assert [SearchCost(1)(each) for each in (SEARCH, second, ANSWER)] == [0.0, 1.0, 0.0]
    assert SearchCost()(turn("<search>on the last turn</search>", searched=False)) == 0.0


@given(st.floats(-9, 9), st.floats(-9, 9))
def test_terms_add_up_with_their_weights(left, right):
    reward = left * (AnswerGrade() + ExtraWords()) - FormatError() * right
    for each in (ANSWER, SEARCH, NOTHING):
        parts = left * (AnswerGrade()(each) + ExtraWords()(each)) - right * FormatError()(each)
        assert reward(each) == pytest.approx(parts)


def test_sums_are_values():
    assert AnswerGrade(exact_match) - 0.5 * SearchCost() == PENALTY
    assert pickle.loads(pickle.dumps(PENALTY)) == PENALTY
    assert len(PENALTY.parts) == 2


def test_terms_can_be_summed_and_negated():
    terms = [AnswerGrade(exact_match), -0.5 * SearchCost()]
    assert sum(terms) == PENALTY
    assert sum([AnswerGrade()])(ANSWER) == 1.0
    assert -SearchCost() == -1.0 * SearchCost()
    assert (-PENALTY)(ANSWER) == -1.0


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: AnswerGrade() + 0.5, TypeError, "added to a RewardTerm .* another one, got 0.5"),
        (lambda: 0.5 + AnswerGrade(), TypeError, "added to a RewardTerm .* another one, got 0.5"),
        (lambda: AnswerGrade() + exact_match, TypeError, "another one, got <function exact_match"),
        (lambda: AnswerGrade() - exact_match, TypeError, "another one, got <function exact_match"),
        (lambda: AnswerGrade() + AnswerGrade, TypeError, "another one, got <class"),
        (lambda: sum([AnswerGrade(), 1]), TypeError, "another one, got 1"),
        (lambda: "2" * AnswerGrade(), TypeError, "weight of .* must be a number, got '2'"),
        (lambda: AnswerGrade() * PENALTY, TypeError, "weight of .* must be a number, got Rew"),
        (lambda: AnswerGrade() * True, TypeError, "must be a number, got True"),
        (lambda: math.nan * PENALTY, ValueError, "must be finite, got nan"),
        (lambda: math.inf * PENALTY, ValueError, "must be finite, got inf"),
        (lambda: RewardSum(((1.0, len),)), TypeError, "another one, got <built-in function len>"),
        (lambda: AnswerGrade("f1"), TypeError, r"`grade` must be a function of .*, got 'f1'"),
        (lambda: AnswerGrade(SearchCost()), TypeError, "`grade` must be a function .*, got Search"),
        (lambda: AnswerGrade(int), TypeError, "`grade` must be a function of .*, got <cla"),
        (lambda: PerTurn(3), TypeError, "`function` must be a function of the turn, got 3"),
        (lambda: ExtraWords("5"), TypeError, "`free` must be an integer, got '5'"),
        (lambda: ExtraWords(2.5), TypeError, "`free` must be an integer, got 2.5"),
        (lambda: SearchCost(-1), ValueError, "`free` must be at least 0, got -1"),
        (lambda: SearchCost(True), TypeError, "`free` must be an integer, got True"),
        (lambda: FormatError("yes"), TypeError, "`thought` must be True or False, got 'yes'"),
    ],
)
def test_what_cannot_be_part_of_a_reward_is_refused_at_once(build, error, message):
    """It used to fail at the first answer."""
    with pytest.raises(error, match=message):
        build()


def test_per_turn_wraps_any_function():
    assert PerTurn(lambda played: played.turn * 2)(ANSWER) == 2


@pytest.mark.parametrize("name", GRADES)
def test_make_reward_takes_names(name):
    assert make_reward(name) == AnswerGrade(GRADES[name])


def test_make_reward_takes_functions_terms_and_paths():
    assert make_reward(exact_match) == AnswerGrade(exact_match)
    assert make_reward(PENALTY) is PENALTY
    assert make_reward("zs_env.task.rewards:exact_match") == AnswerGrade(exact_match)
    assert isinstance(make_reward("zs_env.task.reward_terms:make_reward"), RewardTerm)


@pytest.mark.parametrize(
    ("reward", "error", "message"),
    [
        ("bleu", ValueError, r"`reward` must be f1, em, sub_em.*got 'bleu'"),
        ("math:nothing", ValueError, r"`reward` must name something in 'math', got 'math:nothing'"),
        ("no_such_module:f", ImportError, "no_such_module"),
        ("math:pi", TypeError, r"`reward` must be a name, a function or a RewardTerm, got 3.14"),
        (3, TypeError, r"`reward` must be a name, a function or a RewardTerm, got 3"),
        (AnswerGrade, TypeError, r"`reward` must be a name, a function or a RewardTerm, got <cl"),
    ],
)
def test_make_reward_refuses_the_rest(reward, error, message):
    with pytest.raises(error, match=message):
        make_reward(reward)


def test_environment_pays_every_turn():
    env = gym.make(
        "ZeroSearch-v0",
        questions=[{"question": "Where?", "answers": ["Rome"]}],
        engine="empty",
        max_turns=4,
        reward=AnswerGrade() - 0.5 * SearchCost(free=1) - 0.25 * FormatError(),
    )
    env.reset(seed=0)
    actions = ["<search>a</search>", "<search>b</search>", "hm", "<answer>Rome</answer>"]
    assert [env.step(action)[1] for action in actions] == [0.0, -0.5, -0.25, 1.0]
