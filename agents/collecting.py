"""Episodes worth learning from: play until enough groups are, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agents.algorithms.algorithm import Algorithm
from agents.rollout import Rollout
from agents.trajectory import Trajectory
from zs_env.random import derive

_RETRY = 2  # of the counters that tell streams of one seed apart; a rollout has 0 and 1


@dataclass(frozen=True, slots=True)
class Collected:
    """What was played for one update.

    Attributes:
        rollout: Every episode: what is reported.
        kept: The episodes of as many groups as one rollout has, or of fewer where the bound was
            reached: what is learned from. In order of play, and whole groups only.
        num_rollouts: How often the environment was played.
    """

    rollout: Rollout
    kept: list[Trajectory]
    num_rollouts: int

    def metrics(self) -> dict[str, float]:
        """Return the numbers to log."""
        share = len(self.kept) / len(self.rollout.trajectories)
        return {"rollout/num_rollouts": float(self.num_rollouts), "rollout/kept_share": share}


def collect_kept(play: Callable[[int], Rollout], algorithm: Algorithm, seed: int) -> Collected:
    """Play, and play again for the groups that `algorithm` does not keep.

    Args:
        play: From a seed to a rollout.
        algorithm: Says which groups to keep, and how often to play again.
        seed: Of the first rollout; those of the others follow from it.
    """
    rollouts: list[Rollout] = []
    kept: list[Trajectory] = []
    missing = 1
    while len(rollouts) <= algorithm.max_resamples and missing > 0:
        attempt = len(rollouts)
        rollouts.append(play(derive(seed, _RETRY, attempt) if attempt else seed))
        groups = _groups(rollouts[-1].trajectories)
        if not attempt:
            missing = len(groups)
        chosen = [group for group, rewards in groups.items() if algorithm.keep_group(rewards)]
        kept += _members(rollouts[-1].trajectories, chosen[:missing], attempt)
        missing -= len(chosen)
    return Collected(_join(rollouts), kept, len(rollouts))


def _groups(trajectories: Sequence[Trajectory]) -> dict[int, list[float]]:
    """Return the rewards of each group."""
    groups: dict[int, list[float]] = {}
    for trajectory in trajectories:
        groups.setdefault(trajectory.group, []).append(trajectory.reward)
    return groups


def _members(
    trajectories: Sequence[Trajectory], groups: Sequence[int], attempt: int
) -> list[Trajectory]:
    """Return the members of some groups, in order; ids of later attempts are made their own."""
    chosen = [trajectory for trajectory in trajectories if trajectory.group in groups]
    if not attempt:
        return chosen
    return [replace(each, group=derive(each.group, attempt)) for each in chosen]


def _join(rollouts: Sequence[Rollout]) -> Rollout:
    return Rollout(
        [trajectory for rollout in rollouts for trajectory in rollout.trajectories],
        sum(rollout.policy_seconds for rollout in rollouts),
        sum(rollout.engine_seconds for rollout in rollouts),
    )
