"""Playing until enough groups are worth learning from."""

import pytest

from agents.algorithms.dapo import DAPO
from agents.algorithms.grpo import GRPO
from agents.collecting import collect_kept
from agents.rollout import Rollout
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn

SAME, DIFFERENT = [1.0, 1.0], [0.0, 1.0]


class Play:
    """Plays given rewards: one list a call, of the groups' rewards."""

    def __init__(self, *calls):
        self.calls = list(calls)
        self.seeds = []

    def __call__(self, seed):
        self.seeds.append(seed)
        made = [
            Trajectory(group=group, turns=[Turn("", "answer", False, reward, 0, 0)])
            for group, rewards in enumerate(self.calls[len(self.seeds) - 1])
            for reward in rewards
        ]
        return Rollout(made, policy_seconds=1.0, engine_seconds=2.0)


def test_algorithm_that_keeps_all_plays_once_and_changes_nothing():
    play = Play([SAME, DIFFERENT])
    collected = collect_kept(play, GRPO(), 7)
    assert play.seeds == [7]
    assert collected.kept == collected.rollout.trajectories
    assert collected.metrics() == {"rollout/num_rollouts": 1, "rollout/kept_share": 1}


def test_groups_of_equal_rewards_are_played_for_again():
    play = Play([SAME, DIFFERENT], [SAME, SAME], [DIFFERENT, DIFFERENT])
    collected = collect_kept(play, DAPO(max_resamples=5), 7)
    assert len(play.seeds) == 3
    assert [t.reward for t in collected.kept] == [0, 1, 0, 1]  # two groups: the second's too many
    assert len(collected.rollout.trajectories) == 12
    assert collected.rollout.policy_seconds == 3
    assert collected.metrics() == {"rollout/num_rollouts": 3, "rollout/kept_share": 4 / 12}


def test_every_attempt_has_a_seed_of_its_own_and_the_same_next_time():
    seeds = []
    for seed in (7, 7, 8):
        play = Play(*[[SAME]] * 4)
        collect_kept(play, DAPO(max_resamples=3), seed)
        seeds.append(play.seeds)
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 8


def test_bound_is_kept_with_fewer_groups_or_none():
    play = Play(*[[SAME, SAME]] * 3)
    collected = collect_kept(play, DAPO(max_resamples=2), 7)
    assert len(play.seeds) == 3
    assert collected.kept == []
    assert collect_kept(Play([SAME, DIFFERENT]), DAPO(max_resamples=0), 7).kept != []


def test_fault_14_groups_of_different_attempts_are_never_taken_for_one():
    """Fault 14: group ids collide. Both attempts call their group 0."""
    play = Play([DIFFERENT, SAME], [[3.0, 5.0], SAME])
    kept = collect_kept(play, DAPO(), 7).kept
    assert [t.reward for t in kept] == [0, 1, 3, 5]
    assert kept[0].group == kept[1].group != kept[2].group == kept[3].group


def test_order_within_a_rollout_is_kept_where_groups_are_interleaved():
    class Interleaved(Play):
        def __call__(self, seed):
            rollout = super().__call__(seed)
            return Rollout(rollout.trajectories[::2] + rollout.trajectories[1::2], 0.0, 0.0)

    collected = collect_kept(Interleaved([[1.0, 2.0], [3.0, 4.0]]), GRPO(), 7)
    assert [t.reward for t in collected.kept] == [1, 3, 2, 4]


def train(policy, env, algorithm):
    config = TrainerConfig(max_new_tokens=1, seed=3)
    return Trainer(policy, env, algorithm, config=config).update(0.0)[1]


def test_trainer_learns_from_what_was_kept_and_reports_all(make_policy, make_letters_env):
    """Questions called low always earn 1: only the others' groups can be kept."""
    score = lambda question, action: 1.0 if question == "low" else float(len(action) % 2)  # noqa: E731
    env = make_letters_env(num_envs=16, group_size=4, score=score)
    metrics = train(make_policy(), env, DAPO(max_resamples=10))
    assert metrics["rollout/num_rollouts"] > 1
    assert metrics["train/useful_share"] == 1
    again = train(make_policy(), env, DAPO(max_resamples=10))
    shown = {k: v for k, v in metrics.items() if not k.startswith("time/")}
    assert {k: v for k, v in again.items() if not k.startswith("time/")} == shown


def test_update_without_any_kept_group_is_logged_and_no_crash(make_policy, make_letters_env):
    policy = make_policy()
    before = [p.detach().clone() for p in policy.parameters()]
    env = make_letters_env(num_envs=8, score=lambda question, action: 0.5)
    metrics = train(policy, env, DAPO(max_resamples=2))
    assert metrics["rollout/num_rollouts"] == 3
    assert metrics["rollout/kept_share"] == 0
    assert metrics["rollout/reward"] == pytest.approx(0.5)
    assert metrics["train/num_steps"] == 0
    assert all((p == b).all() for p, b in zip(policy.parameters(), before, strict=True))
