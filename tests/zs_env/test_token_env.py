"""A step a token: the same rules, seen through a window of ids."""

import json
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from zs_env import SearchEngineError, ZeroSearchEnv
from zs_env.models import model_folder
from zs_env.token_env import ZeroSearchTokenEnv, load_tokenizer

QUESTIONS = [{"question": "Who was first?", "answers": ["Armstrong"]}]


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer.backend_tokenizer


@pytest.fixture
def make(tokenizer):
    def build(**kwargs):
        kwargs = {"questions": QUESTIONS, "tokenizer": tokenizer, "window": 64} | kwargs
        return ZeroSearchTokenEnv(**kwargs)

    return build


def write(env, tokenizer, text):
    """Take the tokens of a text one by one; return all steps."""
    return [env.step(token) for token in tokenizer.encode(text, add_special_tokens=False).ids]


def shown(observation, tokenizer):
    """Return the text in a window."""
    ids = [token for token in observation.tolist() if token < tokenizer.get_vocab_size()]
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_window_holds_the_transcript(make, tokenizer):
    env = make(engine="empty", window=200)
    observation, info = env.reset(seed=0)
    assert shown(observation, tokenizer) == "Question: Who was first?\n"
    assert observation[0] == tokenizer.get_vocab_size()  # nothing there yet, and no token
    assert info["num_tokens"] == 0
    steps = write(env, tokenizer, "<search>first</search>")
    assert shown(steps[-1][0], tokenizer) == (
        "Question: Who was first?\n<search>first</search><information></information>\n"
    )
    assert [step[4]["num_tokens"] for step in steps] == list(range(1, len(steps) + 1))


def test_turn_is_played_with_the_token_that_completes_it(make, tokenizer):
    env = make(engine="empty")
    env.reset(seed=0)
    *early, last = write(env, tokenizer, "<answer>Armstrong</answer>")
    assert all(step[1:4] == (0.0, False, False) for step in early)
    assert all("action" not in step[4] for step in early)
    assert last[1:4] == (1.0, True, False)
    assert last[4]["answer"] == "Armstrong"


def test_plays_what_the_text_environment_plays(make, tokenizer):
    env, text_env = (
        make(engine="world", noise=0.5),
        ZeroSearchEnv(questions=QUESTIONS, engine="world", noise=0.5),
    )
    assert env.reset(seed=3)[1]["group"] == text_env.reset(seed=3)[1]["group"]
    for action in ("<search>first</search>", "<answer>nobody</answer>"):
        *values, info = write(env, tokenizer, action)[-1][1:]
        assert info.pop("num_tokens") > 0
        assert (*values, info) == text_env.step(action)[1:]
    assert env.transcript == text_env.transcript


@pytest.mark.parametrize(
    "text",
    [
        "<think>maybe <search>x</search> no</think><answer>Armstrong</answer>",
        "<think>a <answer>b</answer></think><think>c</think><search>who</search>",
        "</search></answer><search>who</search>",
        "<search>one<think></search></think>two</search>",
        "<search></search>",
        "<think><information></think> <information>",
    ],
)
def test_action_ends_where_the_text_environment_ends_it(make, tokenizer, text):
    """A closing tag inside a thought, or with nothing to close, used to end the action."""
    env, text_env = make(engine="empty"), ZeroSearchEnv(questions=QUESTIONS, engine="empty")
    env.reset(seed=0)
    text_env.reset(seed=0)
    *early, last = write(env, tokenizer, text)
    assert all("action" not in step[4] for step in early)
    *values, info = last[1:]
    info.pop("num_tokens")
    assert (*values, info) == text_env.step(text)[1:]
    assert env.transcript == text_env.transcript


def test_open_thought_ends_at_its_first_action_once_the_agent_stops(make, tokenizer):
    env = make(engine="empty")
    env.reset(seed=0)
    *_, last = write(env, tokenizer, "<think>hm <search>who</search> perhaps")
    assert "action" not in last[4]
    assert env.step(tokenizer.token_to_id("<|endoftext|>"))[4]["query"] == "who"


class Flaky:
    """Fails the first time it is asked."""

    def __init__(self):
        self.num_calls = 0

    def search(self, requests):
        self.num_calls += 1
        if self.num_calls == 1:
            raise SearchEngineError("out of order")
        return [[] for _ in requests]


def test_token_whose_search_failed_can_be_tried_again(make, tokenizer):
    env, smooth = make(engine=Flaky()), make(engine="empty")
    ids = tokenizer.encode("<search>first</search>", add_special_tokens=False).ids
    for each in (env, smooth):
        each.reset(seed=0)
        for token in ids[:-1]:
            each.step(token)
    with pytest.raises(SearchEngineError, match="out of order"):
        env.step(ids[-1])
    observation, *values, info = env.step(ids[-1])
    expected, *others, other_info = smooth.step(ids[-1])
    np.testing.assert_array_equal(observation, expected)
    assert (values, info) == (others, other_info)
    assert info["num_tokens"] == len(ids)


def test_metadata_is_that_of_the_text_environment(make):
    env = make(prompt="zerosearch")
    text_env = ZeroSearchEnv(questions=QUESTIONS, engine="world", prompt="zerosearch")
    for key in ("prompt", "action_stops", "grammar", "render_modes"):
        assert env.metadata[key] == text_env.metadata[key]


@pytest.mark.parametrize("text", ["", "<search>fir", "<search>first</search>", "x<answer>Arm"])
def test_state_holds_window_and_half_written_action(make, tokenizer, text):
    env, other = make(engine="world", noise=0.5), make(engine="world", noise=0.5)
    env.reset(seed=3)
    write(env, tokenizer, text)
    other.set_state(json.loads(json.dumps(env.get_state())))
    assert other.transcript == env.transcript
    for token in tokenizer.encode("st</search><answer>strong</answer>").ids:
        observation, *values = env.step(token)
        expected, *others = other.step(token)
        np.testing.assert_array_equal(observation, expected)
        assert values == others
        if values[1] or values[2]:
            break
    for (observation, info), (expected, other_info) in [(env.reset(), other.reset())]:
        np.testing.assert_array_equal(observation, expected)
        assert info == other_info


def test_chosen_ids_stay_as_they_were_chosen(make, tokenizer):
    """Fault 8: ids decoded and encoded again."""
    env = make(engine="empty")
    env.reset(seed=0)
    letters = [tokenizer.token_to_id(letter) for letter in "search"]
    assert tokenizer.encode("search", add_special_tokens=False).ids != letters
    for letter in letters:
        observation, *_ = env.step(letter)
    assert observation[-6:].tolist() == letters


def test_window_keeps_the_latest_tokens(make):
    """Fault 9: a context cut on the left here and on the right there."""
    env = make(engine="empty", window=3, max_action_tokens=99)
    env.reset(seed=0)
    for token in (5, 6, 7, 8):
        observation, *_ = env.step(token)
    assert observation.tolist() == [6, 7, 8]


def test_padding_is_no_token(make, tokenizer):
    """Fault 10: padding found by an id that is also a real one."""
    env = make()
    assert env.observation_space.high.max() == env.action_space.n == tokenizer.get_vocab_size()
    assert not env.action_space.contains(np.int64(tokenizer.get_vocab_size()))


def test_end_of_text_and_the_budget_complete_an_action(make, tokenizer):
    end = tokenizer.token_to_id("<|endoftext|>")
    env = make(engine="empty", max_action_tokens=4)
    env.reset(seed=0)
    assert env.step(end)[4]["action"] == "malformed"
    infos = [env.step(5)[4] for _ in range(4)]
    assert ["action" in info for info in infos] == [False, False, False, True]
    assert infos[-1]["num_tokens"] == 4


def test_episode_ends_with_the_turns(make, tokenizer):
    env = make(engine="empty", max_turns=2, max_action_tokens=1)
    env.reset(seed=0)
    assert env.step(5)[2:4] == (False, False)
    assert env.step(5)[2:4] == (False, True)
    with pytest.raises(ResetNeeded):
        env.step(5)


def test_reset_forgets_a_half_written_action(make, tokenizer):
    env = make(engine="empty")
    first, _ = env.reset(seed=0)
    write(env, tokenizer, "<search>first")
    np.testing.assert_array_equal(env.reset(seed=0)[0], first)
    *_, last = write(env, tokenizer, "</search><search>second</search>")
    assert last[4]["query"] == "second"


def test_tokenizer_is_taken_from_a_file_or_a_folder(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for source in (tokenizer, tmp_path, str(tmp_path / "tokenizer.json")):
        assert load_tokenizer(source).get_vocab_size() == tokenizer.get_vocab_size()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tokenizer": 3}, TypeError, r"`tokenizer` must be a tokenizers.Tokenizer or a path"),
        ({"tokenizer": "no/such"}, FileNotFoundError, r"`tokenizer` must be an existing file"),
        ({"window": 0}, ValueError, r"`window` must be an integer of at least 1, got 0"),
        ({"window": "5"}, ValueError, r"`window` must be an integer of at least 1, got '5'"),
        ({"max_action_tokens": 0}, ValueError, r"`max_action_tokens` must be .* got 0"),
        ({"max_action_tokens": 2.5}, ValueError, r"`max_action_tokens` must be .* got 2.5"),
        ({"max_action_tokens": math.nan}, ValueError, r"`max_action_tokens` must be .* got nan"),
    ],
)
def test_wrong_argument_is_refused(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)


def test_shipped_tokenizer_is_the_default():
    env = gym.make("ZeroSearchToken-v0")
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    shipped = load_tokenizer(model_folder("base"))
    assert env.action_space.n == shipped.get_vocab_size()
    assert shown(observation, shipped).startswith("Question: ")
    *_, last = write(env, shipped, "<think> hm</think><search> who is it</search>")
    assert last[4]["query"] == "who is it"


def test_make_passes_arguments_on(tokenizer):
    env = gym.make("ZeroSearchToken-v0", tokenizer=tokenizer, window=8, engine="empty")
    assert env.observation_space.shape == (8,)
