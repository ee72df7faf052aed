"""Whole batches: what is in order passes, and every fault that is planted is found in its place."""

import copy
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper

import zs_env  # noqa: F401 - registers the environment
from agents.audit import Check, Witness, audit
from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy
from agents.rollout import collect
from agents.trajectory import Trajectory, Turn
from zs_env.search.engine import Document

MAX_NEW_TOKENS = 40


def make_env(num_envs=24, group_size=4, **kwargs):
    return gym.make_vec(
        "ZeroSearch-v0",
        num_envs=num_envs,
        group_size=group_size,
        autoreset_mode=AutoresetMode.DISABLED,
        **({"engine": "world", "max_turns": 4, "noise": 0.5} | kwargs),
    )


class Played:
    """A batch that was played before a witness."""

    def __init__(self, policy, env, temperature=1.0, max_new_tokens=MAX_NEW_TOKENS, seed=1):
        self.policy, self.env, self.witness = policy, env, Witness()
        self.sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens}
        sampler, watched = self.witness.sampler(policy), self.witness.environment(env)
        self.trajectories = collect(sampler, watched, seed=seed, **self.sampling).trajectories

    def audit(self, trajectories=None, witness=None, **kwargs):
        """Audit the batch, or what has been made of it; by default before no witness."""
        chosen = self.trajectories if trajectories is None else trajectories
        sampling = self.sampling | kwargs
        metadata = self.env.metadata
        return audit(self.policy, chosen, metadata=metadata, witness=witness, **sampling)

    def spoil(self, number, change):
        """Return the batch with one episode changed: `change` gets a copy, and may replace it."""
        trajectories = copy.deepcopy(self.trajectories)
        trajectories[number] = change(trajectories[number]) or trajectories[number]
        return trajectories

    def find(self, wanted):
        """Return the number of the first episode of which `wanted` is true."""
        return next(i for i, t in enumerate(self.trajectories) if wanted(t))


@pytest.fixture(scope="module")
def base():
    """Return a batch of the shipped base policy; some of its episodes search."""
    return Played(CausalLMPolicy.load("base"), make_env())


def remade(trajectory, parts):
    """Return the episode with other tokens: `parts` holds what was read and acted, by turns."""
    new = Trajectory(
        group=trajectory.group,
        question_id=trajectory.question_id,
        outcome=trajectory.outcome,
        prompt=trajectory.prompt,
    )
    for turn, (read, ids, logprobs) in zip(trajectory.turns, parts, strict=True):
        new.observe(read)
        start = len(new.token_ids)
        new.act(ids, logprobs)
        new.turns.append(replace(turn, start=start, end=len(new.token_ids)))
    return new


def parts_of(trajectory):
    """Return what was read, sampled, and how likely that was, turn by turn."""
    parts, before = [], 0
    for turn in trajectory.turns:
        span = slice(turn.start, turn.end)
        read = trajectory.token_ids[before : turn.start]
        parts.append([read, trajectory.token_ids[span], trajectory.logprobs[span]])
        before = turn.end
    return parts


def test_batch_of_the_shipped_base_passes(base):
    report = base.audit(witness=base.witness)
    assert report.violations == ()
    assert report.passed
    assert 0 < report.mean_gap <= report.max_gap < 1e-4
    assert report.num_episodes == 24
    assert [result.check for result in report.results] == list(Check)
    counts = {result.check: result.num_checked for result in report.results}
    num_turns = sum(len(t.turns) for t in base.trajectories)
    assert counts[Check.IDS] == counts[Check.STOPS] == counts[Check.REWARDS] == num_turns > 24
    assert counts[Check.MASK] == sum(len(t.token_ids) for t in base.trajectories)
    assert counts[Check.LOGPROBS] == sum(t.num_action_tokens for t in base.trajectories)
    assert counts[Check.ANSWERS] == counts[Check.LENGTHS] == 24


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_batch_of_a_random_policy_passes(make_policy, temperature):
    """Whose actions are not tokenised as an encoder would, and which ends texts at random."""
    played = Played(make_policy(max_position_embeddings=1024), make_env(), temperature)
    report = played.audit(witness=played.witness)
    assert report.violations == ()
    encode, decode = played.policy.encode, played.policy.decode
    actions = [ids for t in played.trajectories for _, ids, _ in parts_of(t)]
    assert any(encode(decode(ids)) != ids for ids in actions)


def test_environment_that_publishes_little_passes(make_policy, make_letters_env):
    played = Played(make_policy(), make_letters_env(num_turns=3), max_new_tokens=6)
    report = played.audit(witness=played.witness)
    assert report.violations == ()
    counts = {result.check: result.num_checked for result in report.results}
    assert counts[Check.ANSWERS] == 0
    assert counts[Check.IDS] == 24


def test_context_that_is_full_is_no_violation(make_policy, make_letters_env):
    env = make_letters_env(num_turns=4, observation=lambda turn: "!" * (200 if turn == 2 else 5))
    played = Played(make_policy(max_position_embeddings=100), env, max_new_tokens=10)
    assert any(len(t.token_ids) > 200 for t in played.trajectories)
    assert played.audit(witness=played.witness).violations == ()


def test_mask_that_is_shifted_is_found(base):
    def shift(trajectory):
        trajectory.action_mask = [False, *trajectory.action_mask[:-1]]

    number = base.find(lambda t: len(t.turns) > 1)
    first, second = base.trajectories[number].turns[:2]
    report = base.audit(base.spoil(number, shift))
    found = {(v.start, v.end): v for v in report.of(Check.MASK)}
    assert {v.episode for v in found.values()} == {number}
    assert "sampled by the agent" in found[first.start, first.start + 1].expected
    after = found[first.end, first.end + 1]
    assert "written by the environment" in after.expected
    assert after.turn == 1
    assert first.end < second.start


def not_canonical(base, trajectory):
    ids = trajectory.token_ids[trajectory.turns[0].start : trajectory.turns[0].end]
    return base.policy.encode(base.policy.decode(ids)) != ids


@pytest.fixture
def retokenised(base):
    """Return a batch with one action decoded and encoded again, its episode and its turn."""

    def again(trajectory):
        parts = parts_of(trajectory)
        parts[0][1] = base.policy.encode(trajectory.turns[0].action)
        parts[0][2] = (parts[0][2] * 9)[: len(parts[0][1])]
        return remade(trajectory, parts)

    number = base.find(lambda t: not_canonical(base, t))
    return base.spoil(number, again), number


def test_ids_that_were_tokenised_again_are_found_by_their_probability(base, retokenised):
    trajectories, number = retokenised
    [violation] = base.audit(trajectories).violations
    assert (violation.check, violation.episode, violation.turn) == (Check.LOGPROBS, number, 0)
    turn = trajectories[number].turns[0]
    assert turn.start <= violation.start < violation.end <= turn.end


def test_ids_that_were_tokenised_again_are_found_by_a_witness(base, retokenised):
    """Also if their probability was computed anew, which hides the fault from the other check."""
    trajectories, number = retokenised
    batch = Batch.from_trajectories([trajectories[number]])
    scored = iter(base.policy.score(batch).logprobs.tolist())
    trajectory = trajectories[number]
    trajectory.logprobs = [next(scored) if on else 0.0 for on in trajectory.action_mask]
    assert base.audit(trajectories).passed
    [violation] = base.audit(trajectories, base.witness).violations
    assert (violation.check, violation.episode, violation.turn) == (Check.IDS, number, 0)
    before = base.trajectories[number].token_ids
    assert trajectory.token_ids[: violation.start] == before[: violation.start]
    assert trajectory.token_ids[violation.start] != before[violation.start]
    assert base.policy.decode(trajectory.token_ids[violation.start : violation.end]) in str(
        violation
    )


def test_token_that_reaches_beyond_a_tag_is_kept(make_policy):
    """With byte-BPE a sampled token may end a tag and begin something else."""
    policy = make_policy()
    [straddling] = policy.tokenizer.convert_tokens_to_ids(["><"])
    assert policy.decode([straddling]) == "><"
    ids = [*policy.encode("<search> x</search"), straddling]
    trajectory = Trajectory(prompt="Question: who?\n", outcome={"answer": ""})
    trajectory.observe(policy.encode(trajectory.prompt))
    start = len(trajectory.token_ids)
    trajectory.act(ids, [0.0] * len(ids))
    scored = policy.score(Batch.from_trajectories([trajectory])).logprobs.tolist()
    trajectory.logprobs[start:] = scored
    text = policy.decode(ids)
    assert text == "<search> x</search><"
    trajectory.turns.append(Turn(text, "search", False, 0.0, start, len(trajectory.token_ids)))
    metadata = make_env(4).metadata
    assert audit(policy, [trajectory], metadata=metadata, max_new_tokens=40).passed
    cut = [*policy.encode("<search> x</search"), *policy.encode(">")]
    other = remade(trajectory, [[trajectory.token_ids[:start], cut, scored]])
    report = audit(policy, [other], metadata=metadata, max_new_tokens=40)
    assert {v.check for v in report.violations} == {Check.STOPS, Check.LOGPROBS}
    [dropped] = report.of(Check.STOPS)
    assert (dropped.text, dropped.end) == (">", len(other.token_ids))


@pytest.mark.parametrize("cut_text", [False, True])
def test_dropped_stop_token_is_found(base, cut_text):
    def drop(trajectory):
        parts = [[read, ids, logprobs] for read, ids, logprobs in parts_of(trajectory)]
        parts[-1][1], parts[-1][2] = parts[-1][1][:-1], parts[-1][2][:-1]
        new = remade(trajectory, parts)
        if cut_text:
            text = base.policy.decode(parts[-1][1])
            new.turns[-1] = replace(new.turns[-1], action=text)
        return new

    number = base.find(lambda t: t.turns[-1].action.endswith("</answer>"))
    trajectories = base.spoil(number, drop)
    [violation] = base.audit(trajectories).of(Check.STOPS)
    last = trajectories[number].turns[-1]
    assert (violation.episode, violation.turn) == (number, len(trajectories[number].turns) - 1)
    assert (violation.start, violation.end) == (last.end - 1, last.end)
    assert "</answer>" in violation.expected


def test_action_without_a_stop_is_left_open_where_its_limit_is_unknown(base):
    def drop(trajectory):
        parts = parts_of(trajectory)
        parts[-1][1], parts[-1][2] = parts[-1][1][:-1], parts[-1][2][:-1]
        new = remade(trajectory, parts)
        new.turns[-1] = replace(new.turns[-1], action=base.policy.decode(parts[-1][1]))
        return new

    number = base.find(lambda t: t.turns[-1].action.endswith("</answer>"))
    report = base.audit(base.spoil(number, drop), max_new_tokens=None)
    assert not report.of(Check.STOPS)
    stops = next(result for result in report.results if result.check is Check.STOPS)
    assert stops.num_checked < sum(len(t.turns) for t in base.trajectories)


def test_reward_on_an_observation_is_found(base):
    def reward(trajectory):
        end = len(trajectory.token_ids)
        last = replace(trajectory.turns[-1], observation="!")
        trajectory.observe(base.policy.encode("!"))
        late = Turn("", "malformed", False, 0.5, end + 1, end + 1)
        trajectory.turns[-1:] = [last, late]

    report = base.audit(base.spoil(3, reward))
    [violation] = report.of(Check.REWARDS)
    assert violation.episode == 3
    assert violation.turn == len(base.trajectories[3].turns)
    assert (violation.start, violation.text) == (len(base.trajectories[3].token_ids), "!")
    assert "0.5" in violation.expected


def test_reward_that_the_environment_did_not_give_is_found_by_a_witness(base):
    def raise_reward(trajectory):
        trajectory.turns[0] = replace(trajectory.turns[0], reward=trajectory.turns[0].reward + 1)

    trajectories = base.spoil(5, raise_reward)
    assert base.audit(trajectories).passed
    [violation] = base.audit(trajectories, base.witness).violations
    assert (violation.check, violation.episode, violation.turn) == (Check.REWARDS, 5, 0)


class GradesTheTranscript(VectorWrapper):
    """Fault 4: finds the answer in the whole transcript, documents and prompt included."""

    def reset(self, *, seed=None, options=None):
        observations, infos = self.env.reset(seed=seed, options=options)
        self.transcripts = list(observations)
        return observations, infos

    def step(self, actions):
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        for slot, (action, text) in enumerate(zip(actions, observations, strict=True)):
            self.transcripts[slot] += action + text
            if "answer" in infos and infos["_answer"][slot]:
                last = self.transcripts[slot].split("ANSWER[")[-1].split("]")[0]
                infos["answer"][slot], infos["f1"][slot] = last, 1.0
        return observations, rewards, terminated, truncated, infos


class Leaky:
    """An engine whose documents hold something that looks like an answer."""

    def search(self, requests):
        return [[Document(f"He said ANSWER[{r.golden_answers[0]}] aloud.")] for r in requests]


@pytest.mark.parametrize("place", ["documents", "prompt"])
def test_answer_that_the_agent_did_not_write_is_found(base, place):
    prompt = "Say ANSWER[Beijing]. Question: {question}\n"
    engine = {"engine": Leaky(), "prompt": "Question: {question}\n"}
    settings = {"prompt": prompt} if place == "prompt" else engine
    played = Played(base.policy, GradesTheTranscript(make_env(num_envs=48, **settings)))
    guilty = [i for i, t in enumerate(played.trajectories) if "ANSWER[" in everything(base, t)]
    report = played.audit()
    assert {v.check for v in report.violations} == {Check.ANSWERS}
    assert {v.episode for v in report.violations} >= set(guilty) != set()
    for violation in report.violations:
        if violation.episode in guilty:
            trajectory = played.trajectories[violation.episode]
            assert trajectory.outcome["answer"] in violation.text
            sampled = trajectory.action_mask[violation.start : violation.end]
            assert not any(sampled)
            assert (violation.turn == 0) == (place == "prompt")


def everything(base, trajectory):
    return base.policy.decode(trajectory.token_ids)


def test_grade_without_an_answer_is_found(base):
    """Fault 3: an episode without an answer is graded with whatever stands somewhere."""

    def grade(trajectory):
        trajectory.outcome |= {"answer": "", "f1": 0.5, "exact_match": 0.0}

    [violation] = base.audit(base.spoil(2, grade)).violations
    assert (violation.check, violation.episode) == (Check.ANSWERS, 2)
    assert violation.expected == "graded f1 0.5 without an answer"


def test_logprobs_of_other_weights_are_found(base):
    other = base.policy.frozen_copy()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    report = audit(other, base.trajectories, metadata=base.env.metadata, max_new_tokens=40)
    assert {v.check for v in report.violations} == {Check.LOGPROBS}
    assert report.max_gap > 0.01
    [first, *_] = report.violations
    turn = base.trajectories[first.episode].turns[first.turn]
    assert turn.start <= first.start < first.end <= turn.end
    assert first.text == base.policy.decode(
        base.trajectories[first.episode].token_ids[first.start : first.end]
    )


def test_logprobs_at_another_temperature_are_found(base):
    report = base.audit(temperature=0.9)
    assert {v.check for v in report.violations} == {Check.LOGPROBS}
    assert len({v.episode for v in report.violations}) == 24


def test_single_logprob_is_found_in_its_place(base):
    place = base.trajectories[7].turns[0].start + 2

    def spoil(trajectory):
        trajectory.logprobs[place] -= 0.1

    [violation] = base.audit(base.spoil(7, spoil)).violations
    assert (violation.check, violation.episode, violation.turn) == (Check.LOGPROBS, 7, 0)
    assert (violation.start, violation.end) == (place, place + 1)


def test_logprob_that_is_no_number_is_found(base):
    def spoil(trajectory):
        trajectory.logprobs[trajectory.turns[0].start] = float("nan")

    report = base.audit(base.spoil(1, spoil))
    assert Check.LOGPROBS in {v.check for v in report.violations}
    assert {v.episode for v in report.violations} == {1}


def test_episode_that_is_cut_on_the_left_is_found(base):
    def cut(trajectory):
        trajectory.token_ids = trajectory.token_ids[3:]
        trajectory.action_mask = trajectory.action_mask[3:]
        trajectory.logprobs = trajectory.logprobs[3:]
        trajectory.turns = [
            replace(turn, start=turn.start - 3, end=turn.end - 3) for turn in trajectory.turns
        ]

    first = base.audit(base.spoil(4, cut)).violations[0]
    assert (first.check, first.episode, first.start) == (Check.LENGTHS, 4, 0)
    prompt = base.trajectories[4].prompt
    assert first.expected == f"cut on the left: the environment showed {prompt!r}"


def test_context_that_was_cut_while_sampling_is_found(base):
    """Fault 9: the sampler reads less than the trainer."""
    parts = parts_of(base.trajectories[0])
    parts[0][0] = parts[0][0][4:]
    short = remade(base.trajectories[0], parts)
    scored = iter(base.policy.score(Batch.from_trajectories([short])).logprobs.tolist())

    def sampled_without_the_beginning(trajectory):
        mask = trajectory.action_mask
        trajectory.logprobs = [next(scored) if on else 0.0 for on in mask]

    trajectories = base.spoil(0, sampled_without_the_beginning)
    assert {v.check for v in base.audit(trajectories).violations} == {Check.LOGPROBS}


def spoiled_batch(base, **columns):
    """Return the batch's tensors; each of `columns` changes a copy of one in place."""
    batch = Batch.from_trajectories(base.trajectories)
    changed = {}
    for name, change in columns.items():
        changed[name] = getattr(batch, name).clone()
        change(changed[name])
    return replace(batch, **changed)


def test_row_that_is_cut_on_the_left_is_found(base):
    def shift(ids):
        ids[6, :-3] = ids[6, 3:].clone()

    def shorten(lengths):
        lengths[6] -= 3

    batch = spoiled_batch(base, token_ids=shift, lengths=shorten)
    violation = base.audit(batch=batch).of(Check.LENGTHS)[0]
    assert (violation.episode, violation.start, violation.end) == (6, 0, 3)
    assert violation.text == base.policy.decode(base.trajectories[6].token_ids[:3])


def test_other_ids_in_the_batch_are_found(base):
    def spoil(ids):
        ids[2, 9] = 7

    violation = base.audit(batch=spoiled_batch(base, token_ids=spoil)).violations[0]
    assert (violation.check, violation.episode) == (Check.IDS, 2)
    assert (violation.start, violation.end) == (9, 10)


def test_padding_that_is_told_by_its_id_is_found(base):
    """Fault 10: where the id of padding is that of the end of text, ends are not trained."""
    pad = 0
    trajectory = copy.deepcopy(base.trajectories[0])
    trajectory.act([pad], [-1.0])
    last = trajectory.turns[-1]
    trajectory.turns[-1] = replace(last, end=last.end + 1)
    batch = Batch.from_trajectories([trajectory])
    batch = replace(batch, action_mask=batch.action_mask & (batch.token_ids != pad))
    [violation] = audit(base.policy, [trajectory], batch=batch).of(Check.MASK)
    assert (violation.start, violation.end) == (last.end, last.end + 1)
    assert violation.text == "<|endoftext|>"


def test_padding_that_would_be_trained_is_found(base):
    lengths = [len(t.token_ids) for t in base.trajectories]
    number = int(np.argmin(lengths))

    def spoil(mask):
        mask[number, lengths[number] + 1] = True

    report = base.audit(batch=spoiled_batch(base, action_mask=spoil))
    [violation] = report.of(Check.LENGTHS)
    assert (violation.episode, violation.start) == (number, lengths[number])


def test_reward_of_another_row_is_found(base):
    def roll(rewards):
        rewards[8] += 0.25

    [violation] = base.audit(batch=spoiled_batch(base, rewards=roll)).violations
    assert (violation.check, violation.episode) == (Check.REWARDS, 8)


def test_comparison_with_another_question_is_found(base):
    def merge(groups):
        groups[4:8] = 0

    report = base.audit(batch=spoiled_batch(base, groups=merge))
    assert {v.check for v in report.violations} == {Check.REWARDS}
    assert {v.episode for v in report.violations} == {4, 5, 6, 7}


def test_lists_of_unequal_length_are_told_and_nothing_is_computed_from_them(base):
    def spoil(trajectory):
        del trajectory.action_mask[-2:]

    report = base.audit(base.spoil(9, spoil))
    [violation] = report.violations
    assert (violation.check, violation.episode) == (Check.MASK, 9)
    assert np.isnan(report.max_gap)
    assert report.summary()["max_logprob_gap"] is None


def test_observation_that_was_not_shown_is_found(base):
    number = base.find(lambda t: len(t.turns) > 1)

    def spoil(trajectory):
        parts = parts_of(trajectory)
        parts[1][0] = [*parts[1][0][:5], 7, *parts[1][0][6:]]
        return remade(trajectory, parts)

    violation = base.audit(base.spoil(number, spoil)).of(Check.MASK)[0]
    place = base.trajectories[number].turns[0].end + 5
    assert (violation.episode, violation.turn) == (number, 1)
    assert (violation.start, violation.end) == (place, place + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trajectories": []}, "`trajectories` must not be empty"),
        ({"tolerance": 0.0}, "`tolerance` must be greater than 0, got 0.0"),
    ],
)
def test_bad_argument_is_refused(base, arguments, message):
    with pytest.raises(ValueError, match=message):
        base.audit(**arguments)


def test_batch_of_other_episodes_is_refused(base):
    with pytest.raises(ValueError, match="`batch` must have 24 rows, got 2"):
        base.audit(batch=Batch.from_trajectories(base.trajectories[:2]))
