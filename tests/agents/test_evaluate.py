"""Playing every question once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.evaluate import EpisodeRecord, Evaluation, evaluate, replay, wilson_interval
from agents.policies.agent import PolicyAgent
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.keyed import KeyedPolicyAgent
from zs_env.search.world import WorldSearchEngine
from zs_env.task.actions import STOPS
from zs_env.task.miniwiki import RELATIONS, default_world
from zs_env.task.questions import Question

QUESTIONS = default_world().questions("validation")


class FixedAgent:
    """Writes the same text in every slot; keeps how many slots it was asked for."""

    def __init__(self, text):
        self.text = text
        self.sizes = []

    def predict(self, observations, state, episode_start, deterministic=True):
        self.sizes.append(len(observations))
        return [self.text] * len(observations), None


class OracleAgent:
    """Knows each question's plan, searches its facts in turn and answers."""

    def __init__(self, plans):
        self.plans = {f"Question: {plan.question.text}\n": plan for plan in plans}

    def predict(self, observations, state, episode_start, deterministic=True):
        state = state or [None] * len(observations)
        actions = []
        for slot, observation in enumerate(observations):
            if episode_start[slot]:
                state[slot] = (self.plans[observation], 0)
            plan, done = state[slot]
            actions.append(self._act(plan, done))
            state[slot] = (plan, done + 1)
        return actions, state

    def _act(self, plan, done):
        if done >= len(plan.facts):  # an idle slot's action does not matter
            return f"<answer>{plan.question.golden_answers[0]}</answer>"
        fact = plan.facts[done]
        query = RELATIONS[fact.relation].queries[0].format(s=fact.subject)
        return f"<search>{query}</search>"


class SpyAgent:
    """Keeps the actions of a keyed agent."""

    def __init__(self, agent):
        self.agent, self.actions = agent, []

    def keyed(self, keys):
        self.agent = self.agent.keyed(keys)
        return self

    def predict(self, observations, state, episode_start, deterministic=True):
        actions, state = self.agent.predict(observations, state, episode_start, deterministic)
        self.actions.append(actions)
        return actions, state


class RecordingEngine(WorldSearchEngine):
    """Keeps every request by its question."""

    def __init__(self):
        super().__init__(default_world())
        self.requests = {}

    def search(self, requests):
        for request in requests:
            self.requests.setdefault(request.question, []).append((request.noisy, request.seed))
        return super().search(requests)


def play(agent, questions, **kwargs):
    return evaluate(agent, questions, **({"env_kwargs": {"engine": "world"}} | kwargs))


@pytest.mark.parametrize(("num", "num_envs"), [(1, 4), (7, 3), (8, 4), (9, 4), (10, 100), (5, 1)])
def test_every_question_is_counted_once_when_the_last_round_is_short_too(num, num_envs):
    """Fault 6: validation that drops the last partial batch."""
    progress = []
    agent = FixedAgent("<answer>x</answer>")
    result = play(agent, QUESTIONS[:num], num_envs=num_envs, on_progress=progress.append)
    assert [record.question_id for record in result.records] == [q.id for q in QUESTIONS[:num]]
    assert sum(progress) == result.summary()["num_questions"] == num
    assert max(agent.sizes) <= num_envs


def test_perfect_play_scores_one():
    world = default_world().world("validation")
    plans = [*world.plans[::20], *[p for p in world.hard_plans if len(p.facts) == 3][::20]]
    result = play(OracleAgent(plans), [plan.question for plan in plans], num_envs=7)
    assert result.mean("exact_match") == result.mean("f1") == result.mean("reward") == 1
    for plan, record in zip(plans, result.records, strict=True):
        assert record.searches == len(plan.facts) == record.num_hops == record.turns - 1
        assert (record.invalid, record.stop_reason) == (0, "answered")


def test_agent_that_never_answers_scores_zero():
    """Fault 3: graded with the example answer of the prompt."""
    kwargs = {"engine": "world", "max_turns": 3}
    result = play(FixedAgent("<search>x</search>"), QUESTIONS[:5], env_kwargs=kwargs)
    assert result.mean("f1") == 0
    assert {r.stop_reason for r in result.records} == {"max_turns"}
    assert result.mean("turns") == 3
    assert result.mean("searches") == 2


def test_invalid_actions_are_counted():
    result = play(FixedAgent("hm"), QUESTIONS[:5], env_kwargs={"engine": "world", "max_turns": 4})
    assert result.mean("invalid") == 4
    assert result.summary()["invalid_share"] == 1


def test_searches_after_noise_are_counted():
    kwargs = {"engine": "world", "max_turns": 4}
    searching = play(FixedAgent("<search>x</search>"), QUESTIONS[:5], env_kwargs=kwargs, noise=1.0)
    assert {(r.noisy_replies, r.searched_again) for r in searching.records} == {(3, 3)}
    assert searching.summary()["searched_again_share"] == 1
    assert play(FixedAgent("hm"), QUESTIONS[:5], noise=1.0).searched_again_share is None


class GivingUpAgent:
    """Searches once, then answers."""

    def predict(self, observations, state=None, episode_start=None, deterministic=False):
        action = "<answer>x</answer>" if state else "<search>x</search>"
        return [action] * len(observations), True


@pytest.mark.parametrize(("noise", "share"), [(0.0, None), (1.0, 0.0)])
def test_answers_after_noise_are_no_searches(noise, share):
    result = play(GivingUpAgent(), QUESTIONS[:5], noise=noise)
    assert result.searched_again_share == share


def noise_by_question(questions, **kwargs):
    engine = RecordingEngine()
    agent = FixedAgent("<search>who directed it</search>")
    evaluate(agent, questions, env_kwargs={"engine": engine}, **({"noise": 0.5} | kwargs))
    return engine.requests


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 12), st.integers(1, 12))
def test_noise_of_a_question_does_not_depend_on_the_others(order, num, num_envs):
    questions = QUESTIONS[:12]
    expected = noise_by_question(questions, num_envs=12)
    some = [questions[i] for i in order[:num]]
    found = noise_by_question(some, num_envs=num_envs)
    for question in some:
        # A spare slot of a short round repeats the last question, with the same draws.
        assert set(found[question.text]) == set(expected[question.text])


def test_noise_depends_on_the_seed():
    assert noise_by_question(QUESTIONS[:12], seed=1) != noise_by_question(QUESTIONS[:12], seed=2)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_noise_is_the_share_of_noisy_searches(noise):
    draws = [
        noisy
        for found in noise_by_question(QUESTIONS[:5], noise=noise).values()
        for noisy, _ in found
    ]
    assert set(draws) == {noise == 1.0}


def test_agent_is_told_whether_to_be_deterministic():
    class Spy(FixedAgent):
        def predict(self, observations, state, episode_start, deterministic=True):
            self.told = deterministic
            return super().predict(observations, state, episode_start)

    for deterministic in (True, False):
        agent = Spy("<answer>x</answer>")
        play(agent, QUESTIONS[:2], deterministic=deterministic)
        assert agent.told is deterministic


def test_episode_starts_are_marked_once_an_episode():
    class Spy(FixedAgent):
        def predict(self, observations, state, episode_start, deterministic=True):
            self.starts.append(episode_start.tolist())
            return super().predict(observations, state, episode_start)

    agent = Spy("<search>x</search>")
    agent.starts = []
    play(agent, QUESTIONS[:2], env_kwargs={"engine": "world", "max_turns": 3})
    assert agent.starts == [[True, True], [False, False], [False, False]]


def test_policy_plays_the_same_whatever_is_beside_it(make_policy):
    results = []
    for num_envs in (5, 2):
        agent = PolicyAgent(make_policy(), STOPS, max_new_tokens=8)
        results.append(play(agent, QUESTIONS[:5], num_envs=num_envs).records)
    assert results[0] == results[1]


def test_results_and_transcripts_do_not_depend_on_how_many_play_side_by_side():
    policy, found = CausalLMPolicy.load("skill"), []
    for num_envs in (3, 16):
        turns = [[] for _ in QUESTIONS[:16]]
        result = play(
            PolicyAgent(policy, STOPS),
            QUESTIONS[:16],
            num_envs=num_envs,
            noise=0.3,
            on_turn=lambda i, turn, turns=turns: turns[i].append((turn.action, turn.observation)),
        )
        replayed = replay(policy, QUESTIONS[:4], env_kwargs={"engine": "world"}, noise=0.3)
        assert [[t.action for t in each.turns] for each in replayed] == [
            [action for action, _ in each] for each in turns[:4]
        ]
        found.append((result, turns))
    assert found[0] == found[1]
    assert found[0][0].mean("exact_match") > 0
    assert len({len(each) for each in found[0][1]}) > 1  # episodes of several lengths


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
def test_sampling_of_a_question_does_not_depend_on_the_others(make_policy, order):
    asked = [QUESTIONS[i] for i in order]
    agent = KeyedPolicyAgent(make_policy(), STOPS, max_new_tokens=8)
    together = play(agent, QUESTIONS[:5], deterministic=False).records
    found = play(agent, asked, num_envs=2, deterministic=False).records
    assert [found[order.index(i)] for i in range(5)] == list(together)


def test_sampling_depends_on_the_seed_and_on_the_question(make_policy):
    agent = KeyedPolicyAgent(make_policy(), STOPS, max_new_tokens=8)
    written = []
    for seed in (1, 1, 2):
        spy = SpyAgent(agent)
        play(spy, QUESTIONS[:3], seed=seed, deterministic=False)
        written.append(spy.actions[0])
    assert written[0] == written[1] != written[2]
    assert len(set(written[0])) == 3


def test_replayed_episodes_are_those_of_an_evaluation(make_policy):
    agent = PolicyAgent(make_policy(), STOPS, max_new_tokens=8)
    records = play(agent, QUESTIONS[:3], seed=5, noise=0.5).records
    arguments = {"env_kwargs": {"engine": "world"}, "seed": 5, "noise": 0.5, "max_new_tokens": 8}
    found = replay(make_policy(), QUESTIONS[:3], **arguments)
    assert [t.question_id for t in found] == [record.question_id for record in records]
    assert [len(t.turns) for t in found] == [record.turns for record in records]
    assert [t.outcome["answer"] for t in found] == [record.answer for record in records]
    assert all(len(t.logprobs) == len(t.token_ids) > 0 for t in found)


@pytest.mark.parametrize("num_envs", [2, 5])
def test_every_turn_is_told_by_its_question(num_envs):
    """The spare slots of a short round repeat a question and are not told of."""
    told = []
    result = play(
        GivingUpAgent(),
        QUESTIONS[:3],
        num_envs=num_envs,
        on_turn=lambda index, turn: told.append((index, turn)),
    )
    assert sorted(index for index, _ in told) == [0, 0, 1, 1, 2, 2]
    for index, record in enumerate(result.records):
        first, last = (turn for at, turn in told if at == index)
        assert (first.action, last.action) == ("<search>x</search>", "<answer>x</answer>")
        assert first.observation.startswith("<information>")
        assert last.observation == ""
        assert (last.info["question_id"], last.reward) == (record.question_id, record.reward)
        assert first.num_tokens is None


def test_tokens_of_a_policy_are_told(make_policy):
    told = []
    agent = PolicyAgent(make_policy(), STOPS, max_new_tokens=8)
    play(agent, QUESTIONS[:2], on_turn=lambda index, turn: told.append(turn.num_tokens))
    assert told[0] > 0
    assert all(0 <= number <= 8 for number in told)  # 0 where the context is full


def test_questions_of_ones_own_are_asked():
    questions = [Question("a", "What?", ("x",)), Question("b", "Why?", ("y", "x"))]
    result = play(FixedAgent("<answer>X.</answer>"), questions)
    assert result.mean("exact_match") == 1
    assert list(result.by_hops()) == ["?"]


def test_no_question_is_refused():
    with pytest.raises(ValueError, match="`questions` must not be empty"):
        evaluate(FixedAgent(""), [])


def record(exact_match=1.0, num_hops=1, **kwargs):
    values = {
        "question_id": "q",
        "data_source": "s",
        "f1": exact_match,
        "reward": exact_match,
        "searches": 1,
        "turns": 2,
        "invalid": 0,
        "noisy_replies": 0,
        "searched_again": 0,
        "answer": "x",
        "stop_reason": "answered",
    }
    return EpisodeRecord(exact_match=exact_match, num_hops=num_hops, **(values | kwargs))


def test_summary_splits_by_hops():
    result = Evaluation((record(1.0, 1), record(0.0, 2), record(1.0, 2), record(0.5, None)))
    summary = result.summary()
    assert {name: part["num_questions"] for name, part in summary["by_hops"].items()} == {
        "1": 1,
        "2": 2,
        "?": 1,
    }
    assert summary["by_hops"]["2"]["exact_match"] == 0.5
    assert summary["exact_match"] == 0.625


def test_mean_of_nothing_is_nan():
    assert math.isnan(Evaluation(()).mean("f1"))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_interval_holds_the_rate_and_stays_in_bounds(successes, trials):
    successes = min(successes, trials)
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert np.allclose((1 - high, 1 - low), mirrored)


def test_wilson_interval_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0.0, 1.0)
