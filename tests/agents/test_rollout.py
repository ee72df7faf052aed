"""Playing a batch of episodes and keeping every token."""

import gymnasium as gym
import pytest
from gymnasium.vector import AutoresetMode

import zs_env  # noqa: F401  (registers the environment)
from agents.batch import Batch
from agents.rollout import collect
from zs_env.search.engine import Document
from zs_env.task.actions import STOPS

NUM_ENVS, GROUP_SIZE, MAX_TURNS = 6, 3, 4


def make_env(**kwargs):
    return gym.make_vec(
        "ZeroSearch-v0",
        num_envs=NUM_ENVS,
        group_size=GROUP_SIZE,
        autoreset_mode=AutoresetMode.DISABLED,
        **({"engine": "world", "max_turns": MAX_TURNS} | kwargs),
    )


def script(row, turn, read):
    """Answer after as many turns as the row's number; row 4 never does, row 5 stumbles."""
    if row == 5 and turn == 0:
        return "no action"
    if turn == row:
        return f"<answer>guess {row}</answer>"
    return f"<think>{turn}</think><search>who was born in {row}</search>"


@pytest.fixture
def played(scripted):
    """Return the scripted generator and the rollout that it played."""
    generator = scripted(script)
    return generator, collect(generator, make_env(), seed=3, options={"noise": 0.5})


def text_of(ids):
    return "".join(chr(i) for i in ids if i)


def test_trajectory_holds_the_ids_that_were_read_and_sampled(played):
    """Fault 8: ids decoded and encoded again."""
    generator, rollout = played
    assert [t.token_ids for t in rollout.trajectories] == generator.contexts


def test_mask_marks_the_sampled_tokens_and_no_others(played):
    _, rollout = played
    for row, trajectory in enumerate(rollout.trajectories):
        sampled = [i for turn in trajectory.turns for i in range(turn.start, turn.end)]
        assert [i for i, on in enumerate(trajectory.action_mask) if on] == sampled
        written = "".join(script(row, turn, "") for turn in range(len(trajectory.turns)))
        num_stop_tokens = len(trajectory.turns)
        assert sum(trajectory.action_mask) == len(written) + num_stop_tokens


def test_everything_the_environment_wrote_is_masked_out(played):
    _, rollout = played
    for trajectory in rollout.trajectories:
        ids = [
            i for i, on in zip(trajectory.token_ids, trajectory.action_mask, strict=True) if not on
        ]
        observations = [turn.observation for turn in trajectory.turns[:-1]]
        prompt, shown = text_of(ids).split("\n", 1)
        assert prompt.startswith("Question: ")
        assert shown == "".join(observations)
        assert all(
            turn.observation.startswith("<information>")
            for turn in trajectory.turns[:-1]
            if turn.kind == "search"
        )


def test_stop_token_is_kept_and_trained(played):
    _, rollout = played
    for trajectory in rollout.trajectories:
        for turn in trajectory.turns:
            assert trajectory.token_ids[turn.end - 1] == 0
            assert trajectory.action_mask[turn.end - 1]


def test_turns_tell_where_their_tokens_stand_and_what_they_did(played):
    _, rollout = played
    for row, trajectory in enumerate(rollout.trajectories):
        assert len(trajectory.turns) == min(row + 1, MAX_TURNS)
        for number, turn in enumerate(trajectory.turns):
            assert text_of(trajectory.token_ids[turn.start : turn.end]) == turn.action
            assert turn.action == script(row, number, "")
            expected = "malformed" if (row, number) == (5, 0) else "search"
            assert turn.kind == ("answer" if number == row else expected)
        assert trajectory.turns[-1].observation == ""


def test_logprobs_are_the_samplers(played):
    generator, rollout = played
    for turn, (rows, _, seeds, _) in enumerate(generator.calls):
        for row, seed in zip(rows, seeds, strict=True):
            trajectory = rollout.trajectories[row]
            start, end = trajectory.turns[turn].start, trajectory.turns[turn].end
            expected = [-(seed % 97) / 97 - place / 1000 for place in range(end - start)]
            assert trajectory.logprobs[start:end] == expected


def test_only_playing_slots_are_sampled(played):
    generator, _ = played
    assert [call[0] for call in generator.calls] == [
        [0, 1, 2, 3, 4, 5],
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5],
        [3, 4, 5],
    ]


def test_every_draw_has_a_seed_of_its_own(played):
    generator, _ = played
    seeds = [seed for call in generator.calls for seed in call[2]]
    assert len(set(seeds)) == len(seeds)


def test_sampling_stops_where_the_environment_says(played):
    generator, _ = played
    assert {call[3].stop for call in generator.calls} == {STOPS}


def test_group_shares_question_and_noise(played):
    _, rollout = played
    for first in (0, GROUP_SIZE):
        members = rollout.trajectories[first : first + GROUP_SIZE]
        assert len({t.group for t in members}) == len({t.question_id for t in members}) == 1
    assert len({t.group for t in rollout.trajectories}) == 2
    assert Batch.from_trajectories(rollout.trajectories).groups.tolist() == [0, 0, 0, 1, 1, 1]


def test_outcome_is_that_of_the_episodes_end(played):
    _, rollout = played
    for row, trajectory in enumerate(rollout.trajectories):
        answered = row < MAX_TURNS
        assert trajectory.outcome["answer"] == (f"guess {row}" if answered else "")
        assert trajectory.outcome["stop_reason"] == ("answered" if answered else "max_turns")
        assert trajectory.reward == trajectory.outcome["f1"]


def test_answer_in_a_document_earns_nothing(scripted):
    """Fault 4: scoring that reads the whole transcript. Fault 3: grading without an answer."""

    class Leaky:
        def search(self, requests):
            return [[Document(f"<answer>{r.golden_answers[0]}</answer>")] for r in requests]

    generator = scripted(lambda row, turn, read: "<search>x</search>")
    rollout = collect(generator, make_env(engine=Leaky()), seed=0)
    assert [t.reward for t in rollout.trajectories] == [0.0] * NUM_ENVS
    assert {t.outcome["f1"] for t in rollout.trajectories} == {0.0}


def test_same_seed_plays_the_same_episodes(scripted):
    generators = [scripted(script) for _ in range(3)]
    seeds = (3, 3, 4)
    first, again, other = (
        collect(generator, make_env(), seed=seed, options={"noise": 0.5}).trajectories
        for generator, seed in zip(generators, seeds, strict=True)
    )
    assert first == again
    assert [t.question_id for t in first] != [t.question_id for t in other]
    assert generators[0].calls == generators[1].calls


def test_rollout_does_not_depend_on_what_was_played_before(scripted):
    env = make_env()
    collect(scripted(script), env, seed=9)
    used = collect(scripted(script), env, seed=3).trajectories
    assert used == collect(scripted(script), make_env(), seed=3).trajectories


def test_noise_comes_from_the_options(scripted):
    for noise in (0.0, 1.0):
        generator = scripted(lambda row, turn, read: "<search>who directed</search>")
        rollout = collect(generator, make_env(), seed=1, options={"noise": noise})
        turns = [turn for t in rollout.trajectories for turn in t.turns[:-1]]
        assert {turn.noisy for turn in turns} == {noise == 1.0}
        assert not any(t.turns[-1].noisy for t in rollout.trajectories)


def test_real_policy_stores_what_it_sampled(make_policy):
    policy = make_policy()
    env = make_env()
    rollout = collect(policy, env, seed=0, max_new_tokens=8)
    batch = Batch.from_trajectories(rollout.trajectories)
    stored = batch.logprobs[batch.action_mask]
    scored = policy.score(batch).logprobs.detach()
    assert float((scored - stored).abs().max()) < 1e-3
    for trajectory in rollout.trajectories:
        for turn in trajectory.turns:
            ids = trajectory.token_ids[turn.start : turn.end]
            assert policy.tokenizer.decode(ids).removesuffix("<|endoftext|>") == turn.action


def test_context_that_overflows_leaves_a_trajectory_that_is_consistent(
    make_policy, make_letters_env
):
    """Nothing more is sampled, even if a later observation would fit again by itself."""
    policy = make_policy(max_position_embeddings=100)
    env = make_letters_env(num_turns=4, observation=lambda turn: "!" * (200 if turn == 2 else 5))
    rollout = collect(policy, env, seed=0, max_new_tokens=10)
    for trajectory in rollout.trajectories:
        sampled = [turn.end - turn.start for turn in trajectory.turns]
        assert all(sampled[:2])
        assert sampled[2:] == [0, 0]
        assert len(trajectory.token_ids) > 200
    batch = Batch.from_trajectories(rollout.trajectories)
    scored = policy.score(batch).logprobs.detach()
    assert float((scored - batch.logprobs[batch.action_mask]).abs().max()) < 1e-3
