"""The numbers that are logged of a batch of episodes."""

from __future__ import annotations

from collections.abc import Sequence

from agents.memory import peak_memory_mb
from agents.rollout import Rollout
from agents.trajectory import Trajectory


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the means over a batch of episodes that are worth logging."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    searches = sum(map(_num_searches, trajectories))
    count = len(trajectories)
    return {
        "rollout/reward": sum(t.reward for t in trajectories) / count,
        "rollout/searches": searches / count,
        "rollout/turns": len(turns) / count,
        "rollout/noisy_share": sum(turn.noisy for turn in turns) / max(1, searches),
        "rollout/invalid_share": sum(turn.kind == "malformed" for turn in turns) / len(turns),
        "rollout/answered": sum(t.turns[-1].kind == "answer" for t in trajectories) / count,
        "rollout/action_tokens": sum(t.num_action_tokens for t in trajectories) / count,
        "rollout/context_tokens": sum(len(t.token_ids) for t in trajectories) / count,
    } | _grades(trajectories)


def _num_searches(trajectory: Trajectory) -> int:
    """Return how many queries were sent: what the last turn asks for, nobody would read."""
    asked = sum(turn.kind == "search" for turn in trajectory.turns)
    return int(trajectory.outcome.get("num_searches", asked))


def _grades(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the means of those grades that the environment reports."""
    return {
        f"rollout/{name}": sum(t.outcome[name] for t in trajectories) / len(trajectories)
        for name in ("f1", "exact_match")
        if all(name in t.outcome for t in trajectories)
    }


def time_metrics(rollout: Rollout, collecting: float, optimising: float) -> dict[str, float]:
    """Return where the time of an update went; `collecting` and `optimising` in seconds."""
    tokens = sum(trajectory.num_action_tokens for trajectory in rollout.trajectories)
    return {
        "time/policy_s": rollout.policy_seconds,
        "time/engine_s": rollout.engine_seconds,
        "time/update_s": optimising,
        "time/step_s": collecting + optimising,
        "time/policy_tokens_per_s": tokens / max(rollout.policy_seconds, 1e-9),
        "time/peak_memory_mb": peak_memory_mb(),
    }
