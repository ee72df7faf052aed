"""The training loop: collect episodes, compute targets, take gradient steps, report.

trainer = Trainer(policy, env, GRPO(), curriculum=ExponentialCurriculum(0.0, 0.5))
trainer.learn(num_updates=30)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import torch

from agents.algorithms.algorithm import Algorithm, Targets, TokenView
from agents.batch import Batch
from agents.memory import peak_memory_mb
from agents.policies.policy import Policy
from agents.rollout import Rollout, collect
from agents.trajectory import Trajectory
from zs_env.random import derive


@dataclass(frozen=True)
class TrainerConfig:
    """Hyper-parameters that all algorithms share.

    Attributes:
        learning_rate: Of AdamW; constant.
        max_grad_norm: Gradients are scaled down to this norm.
        num_minibatches: Gradient steps a pass over a batch; groups are never split.
        max_tokens_per_pass: Padded tokens of one forward and backward pass; bounds memory only.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling during training, above 0.
        seed: Key of questions, noise and sampling.
    """

    learning_rate: float = 1.5e-4
    max_grad_norm: float = 1.0
    num_minibatches: int = 2
    max_tokens_per_pass: int = 2048
    max_new_tokens: int = 48
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be greater than 0, got {getattr(self, name)!r}")
        for name in ("num_minibatches", "max_tokens_per_pass", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)!r}")


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
        """Set up optimiser and, where the algorithm needs one, the frozen reference.

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
        self.reference = policy.frozen_copy() if algorithm.needs_reference else None
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

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
        rollout = collect(
            self.policy,
            self.env,
            seed=derive(self.config.seed, self.num_updates_done),
            options=options,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
        )
        collected = time.perf_counter()
        metrics = rollout_metrics(rollout.trajectories) | self._optimise(rollout.trajectories)
        metrics |= {f"rollout/{name}": value for name, value in options.items()}
        metrics |= _time_metrics(rollout, collected - start, time.perf_counter() - collected)
        self.num_updates_done += 1
        return rollout, metrics

    def _optimise(self, trajectories: Sequence[Trajectory]) -> dict[str, float]:
        batch = Batch.from_trajectories(trajectories)
        targets = self.algorithm.targets(batch)
        # A group of equal rewards has no advantage: its episodes would cost time and teach
        # nothing but what their KL penalty says, which is given up with them.
        useful = torch.nonzero(targets.advantages.abs().sum(1) > 0).flatten()
        tally = _Tally()
        for epoch in range(self.algorithm.num_epochs):
            parts = self._minibatches(batch.groups, useful, epoch)
            for part in parts:
                self.optimizer.zero_grad()
                for indices in batch.buckets(self.config.max_tokens_per_pass, part):
                    self._accumulate(batch, targets, indices, len(parts), tally)
                self._step(tally)
        return {f"train/{name}": value for name, value in tally.means().items()} | {
            "train/useful_share": len(useful) / len(batch),
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
        }

    def _minibatches(
        self, groups: torch.Tensor, rows: torch.Tensor, epoch: int
    ) -> list[torch.Tensor]:
        """Split `rows` into whole groups, in an order that the seed decides."""
        generator = torch.Generator().manual_seed(
            derive(self.config.seed, self.num_updates_done, epoch)
        )
        present = groups[rows].unique()
        present = present[torch.randperm(len(present), generator=generator)]
        parts = present.tensor_split(min(self.config.num_minibatches, max(1, len(present))))
        return [rows[torch.isin(groups[rows], part)] for part in parts if len(part)]

    def _accumulate(
        self,
        batch: Batch,
        targets: Targets,
        indices: torch.Tensor,
        num_parts: int,
        tally: _Tally,
    ) -> None:
        """Add the gradient of some rows, in one of `num_parts` gradient steps."""
        rows = batch.rows(indices)
        view = self._view(rows, targets.rows(indices, rows.token_ids.shape[1]), tally)
        loss = self.algorithm.loss(view)
        # Weights add up to 1 over the batch, and each gradient step sees a part of it.
        (loss.value * num_parts).backward()
        tally.add(loss.statistics)

    def _view(self, rows: Batch, targets: Targets, tally: _Tally) -> TokenView:
        mask = rows.action_mask[:, 1:]
        scores = self.policy.score(rows, self.config.temperature)
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference = self.reference.score(rows, self.config.temperature).logprobs
        device = scores.logprobs.device
        old, advantages, weights = (
            tensor[:, 1:][mask].to(device)
            for tensor in (rows.logprobs, targets.advantages, targets.weights)
        )
        tally.add({"entropy": (scores.entropy * weights).sum(), "weight": weights.sum()})
        tally.see_gap(scores.logprobs.detach() - old)
        return TokenView(scores.logprobs, old, reference, advantages, weights)

    def _step(self, tally: _Tally) -> None:
        norm = torch.nn.utils.clip_grad_norm_(
            list(self.policy.parameters()), self.config.max_grad_norm
        )
        self.optimizer.step()
        tally.end_step(float(norm))


class _Tally:
    """Adds up the statistics of one update."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._norms: list[float] = []
        self._gap = 0.0

    def add(self, statistics: dict[str, torch.Tensor]) -> None:
        for name, value in statistics.items():
            self._sums[name] += float(value)

    def see_gap(self, differences: torch.Tensor) -> None:
        """Remember how far sampler and trainer disagree, while the weights are still the same."""
        if not self._norms and differences.numel():
            self._gap = max(self._gap, float(differences.abs().max()))

    def end_step(self, grad_norm: float) -> None:
        self._norms.append(grad_norm)

    def means(self) -> dict[str, float]:
        """Return means over the tokens that were learned from, all epochs together."""
        weight = self._sums.pop("weight", 0.0)
        means = {name: value / weight for name, value in self._sums.items() if weight > 0}
        norm = sum(self._norms) / max(1, len(self._norms))
        return {**means, "grad_norm": norm, "logprob_gap": self._gap}


def rollout_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the means over a batch of episodes that are worth logging."""
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    searches = [turn for turn in turns if turn.kind == "search"]
    count = len(trajectories)
    return {
        "rollout/reward": sum(t.reward for t in trajectories) / count,
        "rollout/searches": len(searches) / count,
        "rollout/turns": len(turns) / count,
        "rollout/noisy_share": sum(turn.noisy for turn in searches) / max(1, len(searches)),
        "rollout/invalid_share": sum(turn.kind == "malformed" for turn in turns) / len(turns),
        "rollout/answered": sum(t.turns[-1].kind == "answer" for t in trajectories) / count,
        "rollout/action_tokens": sum(t.num_action_tokens for t in trajectories) / count,
        "rollout/context_tokens": sum(len(t.token_ids) for t in trajectories) / count,
    } | _grades(trajectories)


def _grades(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Return the means of those grades that the environment reports."""
    return {
        f"rollout/{name}": sum(t.outcome[name] for t in trajectories) / len(trajectories)
        for name in ("f1", "exact_match")
        if all(name in t.outcome for t in trajectories)
    }


def _time_metrics(rollout: Rollout, collecting: float, optimising: float) -> dict[str, float]:
    tokens = sum(trajectory.num_action_tokens for trajectory in rollout.trajectories)
    return {
        "time/policy_s": rollout.policy_seconds,
        "time/engine_s": rollout.engine_seconds,
        "time/update_s": optimising,
        "time/step_s": collecting + optimising,
        "time/policy_tokens_per_s": tokens / max(rollout.policy_seconds, 1e-9),
        "time/peak_memory_mb": peak_memory_mb(),
    }
