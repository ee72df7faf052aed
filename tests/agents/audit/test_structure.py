"""What the tokens of an episode tell by themselves: properties of random episodes."""

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agents.audit.answers import locate
from agents.audit.auditing import episode_violations
from agents.audit.case import Case, Facts, differing, runs
from agents.audit.report import Check
from agents.trajectory import Trajectory, Turn

END = 0
MAX_NEW_TOKENS = 12


class Letters:
    """An id a character; `END` ends a text."""

    max_context = 10_000

    def encode(self, text):
        return [ord(char) for char in text]

    def end_ids(self):
        return frozenset({END})

    def decode(self, token_ids):
        return "".join("<end>" if i == END else chr(i) for i in token_ids)


FACTS = Facts(Letters(), stops=("!",), max_new_tokens=MAX_NEW_TOKENS)
LETTERS = "abcdefgh"

read_texts = st.text(LETTERS, min_size=1, max_size=8)
words = st.text(LETTERS, max_size=MAX_NEW_TOKENS - 1)
limit_texts = st.text(LETTERS, min_size=MAX_NEW_TOKENS, max_size=MAX_NEW_TOKENS)
actions = st.one_of(
    words.map(lambda text: (f"{text}!", FACTS.codec.encode(f"{text}!"))),
    words.map(lambda text: (text, [*FACTS.codec.encode(text), END])),
    limit_texts.map(lambda text: (text, FACTS.codec.encode(text))),
)


@st.composite
def episodes(draw):
    """Draw an episode that was built as a rollout does: through `observe` and `act` only."""
    trajectory = Trajectory(prompt=draw(read_texts))
    shown = trajectory.prompt
    for _ in range(draw(st.integers(1, 4))):
        trajectory.observe(FACTS.codec.encode(shown))
        start = len(trajectory.token_ids)
        text, ids = draw(actions)
        trajectory.act(ids, [-1.0] * len(ids))
        shown = draw(read_texts)
        reward = draw(st.sampled_from([0.0, 1.0]))
        end = len(trajectory.token_ids)
        trajectory.turns.append(Turn(text, "search", False, reward, start, end, shown))
    return trajectory


def found(trajectory, facts=FACTS):
    return list(episode_violations(Case(0, trajectory, facts)))


@given(episodes())
def test_episode_of_observe_and_act_is_in_order(trajectory):
    assert found(trajectory) == []


@given(episodes(), st.data())
def test_any_flip_of_the_mask_is_found_in_its_place(trajectory, data):
    place = data.draw(st.integers(0, len(trajectory.token_ids) - 1))
    trajectory.action_mask[place] ^= True
    violation = next(v for v in found(trajectory) if v.check is Check.MASK)
    assert (violation.start, violation.end) == (place, place + 1)
    turn = trajectory.turns[violation.turn]
    sampled = turn.start <= place < turn.end
    assert ("sampled by the agent" in violation.expected) == sampled


@settings(max_examples=300)
@given(episodes(), st.data())
def test_any_other_id_is_found_in_its_turn(trajectory, data):
    place = data.draw(st.integers(0, len(trajectory.token_ids) - 1))
    token = data.draw(st.sampled_from([END, *FACTS.codec.encode(f"{LETTERS}!")]))
    assume(token != trajectory.token_ids[place])
    trajectory.token_ids[place] = token
    violations = found(trajectory)
    assert violations
    assert any(v.start <= place <= v.end for v in violations)
    assert {v.check for v in violations} <= {Check.IDS, Check.MASK, Check.STOPS}


@given(episodes(), st.data())
def test_any_dropped_token_is_found(trajectory, data):
    place = data.draw(st.integers(0, len(trajectory.token_ids) - 1))
    for entries in (trajectory.token_ids, trajectory.action_mask, trajectory.logprobs):
        del entries[place]
    assert found(trajectory)


@given(episodes(), st.data())
def test_reward_without_a_sampled_token_is_found(trajectory, data):
    number = data.draw(st.integers(0, len(trajectory.turns) - 1))
    turn = trajectory.turns[number]
    trajectory.action_mask[turn.start : turn.end] = [False] * (turn.end - turn.start)
    rewards = [v for v in found(trajectory) if v.check is Check.REWARDS]
    assert [v.turn for v in rewards] == ([number] if turn.reward else [])
    assert all((v.start, v.end) == (turn.end - 1, turn.end) for v in rewards)


@given(episodes())
def test_tokens_sampled_beyond_the_context_are_found(trajectory):
    class Short(Letters):
        max_context = trajectory.turns[-1].end - 1

    violations = found(trajectory, Facts(Short(), ("!",), max_new_tokens=MAX_NEW_TOKENS))
    [violation] = [v for v in violations if v.check is Check.LENGTHS]
    assert (violation.start, violation.end) == (Short.max_context, Short.max_context + 1)


def test_turns_out_of_order_are_told():
    trajectory = Trajectory()
    trajectory.observe([97, 98])
    trajectory.turns.append(Turn("", "search", False, 0.0, 1, 5))
    [violation] = found(trajectory)
    assert (violation.check, violation.turn) == (Check.MASK, 0)


def test_first_token_cannot_be_sampled():
    trajectory = Trajectory(turns=[Turn("a!", "search", False, 0.0, 0, 2)])
    trajectory.act(FACTS.codec.encode("a!"), [-1.0, -1.0])
    [violation] = found(trajectory)
    assert "nothing comes before it" in violation.expected


def test_prompt_that_was_not_written_down_is_not_judged():
    trajectory = Trajectory()
    trajectory.observe(FACTS.codec.encode("who"))
    trajectory.act(FACTS.codec.encode("a!"), [-1.0, -1.0])
    trajectory.turns.append(Turn("a!", "search", False, 0.0, 3, 5))
    assert found(trajectory) == []


@pytest.mark.parametrize(
    ("text", "span"), [("bc", (1, 3)), ("abcab", (0, 5)), ("ca", (2, 4)), ("x", None)]
)
def test_text_is_located_in_the_shortest_span_where_it_first_occurs(text, span):
    assert locate(Letters(), FACTS.codec.encode("abcabc"), text) == span


@given(st.sets(st.integers(0, 40)).map(sorted))
def test_runs_hold_the_same_numbers(places):
    spans = list(runs(places))
    assert [i for start, end in spans for i in range(start, end)] == places
    assert all(after > end for (_, end), (after, _) in pairwise(spans))


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_what_differs_is_all_that_differs(one, other):
    span = differing(one, other)
    if span is None:
        assert one == other
        return
    start, end = span
    rest = len(one) - end
    assert 0 <= start <= end <= len(one)
    assert one[:start] == other[:start]
    assert one[end:] == other[len(other) - rest :]
