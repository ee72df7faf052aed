"""The training loop: collect episodes, compute targets, take gradient steps, report.

trainer = Trainer(policy, env, GRPO(), curriculum=ExponentialCurriculum(0.0, 0.5))
trainer.learn(num_updates=30)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from agents.algorithms.algorithm import Algorithm
from agents.collecting import collect_kept
from agents.learner import Learner
from agents.policies.policy import Policy
from agents.rollout import Rollout, collect
from agents.rollout_metrics import rollout_metrics, time_metrics
from agents.trainer_config import TrainerConfig
from zs_env.random import derive


class Callback:
    """Hooks into training; override what is needed."""

    def on_training_start(self, trainer: Trainer) -> None:
        """Run before the first update."""

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: dict[str, float]) -> None:
        """Run after each update; entries added to `metrics` are logged with it."""

    def on_training_end(self, trainer: Trainer) -> None:
        """Run after the last update."""


class Trainer:
    """Trains a policy in a text vector environment."""

    def __init__(
        self,
        policy: Policy,
        env: gym.vector.VectorEnv[Any, Any, Any],
        algorithm: Algorithm,
        *,
        config: TrainerConfig | None = None,
        curriculum: Callable[[float], float] | None = None,
    ) -> None:
        """Set up the learner.

        Args:
            policy: What is trained, in place.
            env: A text vector environment in autoreset mode DISABLED; its groups are the
                algorithm's.
            algorithm: Hyper-parameters, targets and loss.
            config: Hyper-parameters that all algorithms share.
            curriculum: From progress in [0, 1] to the noise probability; None leaves the
                environment's own.
        """
        self.policy, self.env, self.algorithm = policy, env, algorithm
        self.config = config or TrainerConfig()
        self.curriculum = curriculum
        self.num_updates_done = 0
        self.learner = Learner(policy, algorithm, self.config)

    def learn(self, num_updates: int, callbacks: Sequence[Callback] = ()) -> None:
        """Run `num_updates` updates; progress of the curriculum runs from 0 to 1 over them."""
        for callback in callbacks:
            callback.on_training_start(self)
        for update in range(num_updates):
            progress = update / max(1, num_updates - 1)
            rollout, metrics = self.update(progress)
            for callback in callbacks:
                callback.on_update_end(self, rollout, metrics)
        for callback in callbacks:
            callback.on_training_end(self)

    def update(self, progress: float) -> tuple[Rollout, dict[str, float]]:
        """Collect one batch and learn from it; return it and the numbers to log."""
        start = time.perf_counter()
        options = {} if self.curriculum is None else {"noise": self.curriculum(progress)}
        collected = collect_kept(
            lambda seed: self._play(seed, options),
            self.algorithm,
            derive(self.config.seed, self.num_updates_done),
        )
        rollout, collecting = collected.rollout, time.perf_counter() - start
        metrics = rollout_metrics(rollout.trajectories) | collected.metrics()
        start += collecting
        metrics |= self.learner.update(collected.kept, self.num_updates_done, progress)
        metrics |= {f"rollout/{name}": value for name, value in options.items()}
        metrics |= time_metrics(rollout, collecting, time.perf_counter() - start)
        self.num_updates_done += 1
        return rollout, metrics

    def _play(self, seed: int, options: dict[str, float]) -> Rollout:
        return collect(
            self.policy,
            self.env,
            seed=seed,
            options=options,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
        )
