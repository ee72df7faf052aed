"""Episodes in waves: the policy decodes for one wave while the engine writes for another.

It pays where the two do not compute on the same cores: an engine behind a URL, or on another
device. What is played does not depend on it, for sampling is keyed by a slot's number among all.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, Final

import gymnasium as gym

from agents.rollout import Rollout, collect, side_by_side
from agents.stages import StageClosedError, Stages
from zs_env.lm.generator import TokenGenerator

_NO_FAILURE: Final = (StageClosedError, type(None))


def collect_in_waves(
    policy: TokenGenerator,
    envs: Sequence[gym.vector.VectorEnv[Any, Any, Any]],
    *,
    first_slot: int = 0,
    **settings: Any,
) -> Rollout:
    """Play one episode in every slot of several environments at the same time.

    Args:
        policy: What writes the actions; one wave at a time asks it.
        envs: One a wave, at least one, alike but for their number of slots; one at a time is
            stepped. Each is played in a thread of its own.
        first_slot: Number of the first slot of the first one; those of the others follow.
        settings: Further arguments of `agents.rollout.collect`.

    Returns:
        The episodes in the order of slots, and how long policy and environment were at work,
        which may add up to more than the time that passed.

    Raises:
        ValueError: If an environment resets ended slots by itself, or two share a group.
        Exception: What was raised in a wave first; all others have ended then.
    """
    if len(envs) == 1:
        return collect(policy, envs[0], first_slot=first_slot, **settings)
    stages = Stages()
    starts = accumulate((env.num_envs for env in envs), initial=first_slot)
    plays = [
        partial(collect, policy, env, first_slot=start, stages=stages, **settings)
        for env, start in zip(envs, starts, strict=False)
    ]
    with ThreadPoolExecutor(len(plays), thread_name_prefix="zs-wave") as threads:
        with stages.engine:  # none begins before all have their threads
            waves = [threads.submit(play) for play in plays]
        try:
            wait(waves, return_when=FIRST_EXCEPTION)
        finally:
            # If one failed, or the caller was interrupted, the others end where they next wait.
            stages.close()
    failed = [wave for wave in waves if not isinstance(wave.exception(), _NO_FAILURE)]
    played = side_by_side([wave.result() for wave in failed or waves])
    return replace(
        played, policy_seconds=stages.policy.seconds, engine_seconds=stages.engine.seconds
    )
