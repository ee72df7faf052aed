"""Gradient steps on episodes: targets once a batch, then mini-batches, then micro-batches.

A learner owns what changes while learning: the policy's weights and the optimiser's moments. How
episodes came about does not matter to it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch

from agents.algorithms.algorithm import Algorithm, Targets, TokenView
from agents.batch import Batch
from agents.policies.policy import Policy
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory
from zs_env.random import derive


class NonFiniteLossError(FloatingPointError):
    """A loss that is no number, or infinite; nothing was learned from its batch.

    Attributes:
        batch: The episodes.
    """

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


class LearnerState(TypedDict):
    """What changes while learning.

    Attributes:
        modules: For each trained module its tensors by name; tied ones appear once.
        optimizer: What torch's `Optimizer.state_dict` returns.
    """

    modules: dict[str, dict[str, torch.Tensor]]
    optimizer: dict[str, Any]


class Learner:
    """Updates a policy from episodes."""

    def __init__(self, policy: Policy, algorithm: Algorithm, config: TrainerConfig) -> None:
        """Set up optimiser and, where the algorithm needs one, the frozen reference.

        Args:
            policy: What is trained, in place.
            algorithm: Hyper-parameters, targets and loss.
            config: Hyper-parameters that all algorithms share.
        """
        self.policy, self.algorithm, self.config = policy, algorithm, config
        self.reference = policy.frozen_copy() if algorithm.needs_reference else None
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def update(self, trajectories: Sequence[Trajectory], number: int) -> dict[str, float]:
        """Learn from one batch of episodes; return the numbers to log.

        Args:
            trajectories: The episodes, at least one.
            number: Of the update, from 0: with the seed it decides the order of the episodes.
        """
        batch = Batch.from_trajectories(trajectories)
        targets = self.algorithm.targets(batch)
        # A group of equal rewards has no advantage: its episodes would cost time and teach
        # nothing but what their KL penalty says, which is given up with them.
        useful = torch.nonzero(targets.advantages.abs().sum(1) > 0).flatten()
        tally = _Tally()
        for epoch in range(self.algorithm.num_epochs):
            parts = self._minibatches(batch.groups, useful, number, epoch)
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
        self, groups: torch.Tensor, rows: torch.Tensor, number: int, epoch: int
    ) -> list[torch.Tensor]:
        """Split `rows` into whole groups, in an order that the seed decides."""
        generator = torch.Generator().manual_seed(derive(self.config.seed, number, epoch))
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

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return what is trained, by name."""
        return {"policy": self.policy.module}

    def state_dict(self) -> LearnerState:
        """Return what changes while learning; the tensors are the learner's own, not copies."""
        return {
            "modules": {name: tensors(module) for name, module in self.modules().items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: LearnerState) -> None:
        """Put back what `state_dict` returned; bit for bit, where devices are the same.

        Raises:
            ValueError: If it is of other modules.
        """
        modules = self.modules()
        if modules.keys() != state["modules"].keys():
            raise ValueError(
                f"`state` must be of the modules {', '.join(modules)}, got "
                f"{', '.join(state['modules'])}"
            )
        for name, module in modules.items():
            load_tensors(name, module, state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])


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


def tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of a module by name, each once, also where several names share one."""
    seen: set[int] = set()
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor
    return kept


@torch.no_grad()
def load_tensors(name: str, module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into a module.

    Args:
        name: What to call the module in messages.
        module: Where they go.
        state: What `tensors` returned of a module built alike.

    Raises:
        ValueError: If they do not fit.
    """
    present = tensors(module)
    shapes, wanted = ({n: tuple(t.shape) for n, t in each.items()} for each in (state, present))
    if shapes != wanted:
        raise ValueError(f"`state` must hold the tensors of {name!r}, got those of another module")
    for key, tensor in present.items():
        tensor.copy_(state[key])
