"""Play a batch of episodes with a policy and keep every token.

Any text vector environment will do that publishes `action_stops` in its metadata and leaves ended
slots idle (autoreset mode DISABLED). Sampling is keyed by (seed, slot, turn, token), so a rollout
can be repeated, whatever finished when. Slots may be a part of more, which other processes play:
they are numbered in all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode

from agents.policies.opening import encode_opening
from agents.stages import Stages
from agents.trajectory import Trajectory, Turn
from zs_env.lm.generator import Completion, SamplingParams, TokenGenerator
from zs_env.random import derive


@dataclass(frozen=True, slots=True)
class Rollout:
    """Episodes and where the time went.

    Attributes:
        trajectories: One a slot.
        policy_seconds: Time spent sampling.
        engine_seconds: Time spent in the environment, which is nearly all its search engine's.
    """

    trajectories: list[Trajectory]
    policy_seconds: float
    engine_seconds: float


def collect(
    policy: TokenGenerator,
    env: gym.vector.VectorEnv[Any, Any, Any],
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    first_slot: int = 0,
    stages: Stages | None = None,
) -> Rollout:
    """Play one episode in every slot of `env`.

    Args:
        policy: What writes the actions.
        env: A text vector environment in autoreset mode DISABLED.
        seed: Key of the questions, the noise and all sampling, at least 0.
        options: Reset options.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling; 0 is greedy.
        first_slot: Number of the first slot, where others play those before. By Gymnasium's rule
            a seed s of an environment gives slot i the seed s + i, so that an environment of some
            slots can play what a larger one would have played in them.
        stages: Where others play at the same time, what they take turns in.

    Raises:
        ValueError: If `env` resets ended slots by itself.
    """
    if env.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
        raise ValueError(
            f"`env` must be in autoreset mode DISABLED, got {env.metadata.get('autoreset_mode')!r}"
        )
    params = SamplingParams(max_new_tokens, temperature, tuple(env.metadata["action_stops"]))
    key = derive(seed, 0) % 2**31 + first_slot
    stages = stages or Stages()
    with stages.engine:
        observations, infos = env.reset(seed=key, options=dict(options or {}))
    trajectories = [
        Trajectory(group=int(group), question_id=str(question_id), prompt=prompt)
        for group, question_id, prompt in zip(
            infos["group"], infos["question_id"], observations, strict=True
        )
    ]
    with stages.policy:
        session = policy.session(env.num_envs)
    active, turn = list(range(env.num_envs)), 0
    while active:
        with stages.policy:
            encode = policy.encode if turn else partial(encode_opening, policy)
            new_tokens = [encode(observations[slot]) for slot in active]
            seeds = [derive(seed, 1, first_slot + slot, turn) for slot in active]
            completions = session.generate(active, new_tokens, seeds, params)
        with stages.engine:
            step = _step(env, active, completions)
        for slot, tokens, completion in zip(active, new_tokens, completions, strict=True):
            trajectories[slot].observe(tokens)
            _record(trajectories[slot], completion, step, slot)
        active = [slot for slot in active if not step.ended(slot)]
        observations, turn = step.observations, turn + 1
    return Rollout(trajectories, stages.policy.seconds, stages.engine.seconds)


def side_by_side(rollouts: Sequence[Rollout]) -> Rollout:
    """Return what several processes or waves played at the same time as one rollout.

    Raises:
        ValueError: If episodes of two of them are in one group.
    """
    groups = [{trajectory.group for trajectory in rollout.trajectories} for rollout in rollouts]
    if sum(map(len, groups)) > len(set[int]().union(*groups)):
        raise ValueError("`group` of an episode must tell groups of all processes and waves apart")
    return Rollout(
        [trajectory for rollout in rollouts for trajectory in rollout.trajectories],
        max(rollout.policy_seconds for rollout in rollouts),
        max(rollout.engine_seconds for rollout in rollouts),
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """What the environment returned for one step of all slots."""

    observations: Sequence[str]
    rewards: Sequence[float]
    terminated: Sequence[bool]
    truncated: Sequence[bool]
    infos: Mapping[str, Any]

    def ended(self, slot: int) -> bool:
        return bool(self.terminated[slot] or self.truncated[slot])


def _step(
    env: gym.vector.VectorEnv[Any, Any, Any],
    active: Sequence[int],
    completions: Sequence[Completion],
) -> _Step:
    actions = [""] * env.num_envs
    for slot, completion in zip(active, completions, strict=True):
        actions[slot] = completion.text
    return _Step(*env.step(actions))


def _record(trajectory: Trajectory, completion: Completion, step: _Step, slot: int) -> None:
    start = len(trajectory.token_ids)
    trajectory.act(completion.token_ids, completion.logprobs)
    trajectory.turns.append(
        Turn(
            action=completion.text,
            kind=str(step.infos["action"][slot]),
            noisy=bool(step.infos["noisy"][slot]),
            reward=float(step.rewards[slot]),
            start=start,
            end=len(trajectory.token_ids),
            observation=step.observations[slot],
        )
    )
    if step.ended(slot):
        trajectory.outcome = slot_info(step.infos, slot)
        trajectory.truncated = bool(step.truncated[slot])


def slot_info(infos: Mapping[str, Any], slot: int) -> dict[str, Any]:
    """Return one slot's part of the infos of a vector environment."""
    return {
        key: values[slot]
        for key, values in infos.items()
        if not key.startswith("_") and infos[f"_{key}"][slot]
    }
