"""Gradient steps on episodes: targets once a batch, then mini-batches, then micro-batches.

A learner owns what changes while learning: the weights of the policy and of the critic, and the
optimiser's moments. How episodes came about does not matter to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch

from agents.algorithms.algorithm import Algorithm, CriticView, Targets, TokenView
from agents.batch import Batch
from agents.learner_metrics import Tally, batch_metrics
from agents.policies.policy import Policy
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory
from zs_env.random import derive


class NonFiniteLossError(RuntimeError):
    """A loss or a gradient was no finite number; no step was taken with it.

    Attributes:
        batch: The episodes that it came from.
    """

    def __init__(self, message: str, batch: Batch) -> None:
        """Keep the episodes with the message."""
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


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one gradient step, and how many steps share the weights of a batch."""

    rows: torch.Tensor
    num_parts: int


class Learner:
    """Updates a policy from episodes.

    Attributes:
        policy: What is trained.
        reference: What the policy was at first, where the algorithm needs it, or None.
        critic: What predicts rewards, where the algorithm needs it, or None.
        optimizer: Of the policy in its first group of parameters, of the critic in its second.
    """

    def __init__(self, policy: Policy, algorithm: Algorithm, config: TrainerConfig) -> None:
        """Set up the optimiser, and the reference and the critic where they are needed.

        Args:
            policy: What is trained, in place.
            algorithm: Hyper-parameters, needs, targets and loss.
            config: Hyper-parameters that all algorithms share.
        """
        self.policy, self.algorithm, self.config = policy, algorithm, config
        needs = algorithm.needs
        wants_reference = needs & {"reference_in_targets", "reference_in_loss"}
        self.reference = policy.frozen_copy() if wants_reference else None
        self.critic = policy.make_critic() if "critic" in needs else None
        groups: list[dict[str, Any]] = [
            {"params": list(policy.parameters()), "highest_lr": config.learning_rate}
        ]
        if self.critic is not None:
            parameters = list(self.critic.parameters())
            groups.append({"params": parameters, "highest_lr": config.critic_learning_rate})
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return everything whose weights are trained, by name."""
        modules = {"policy": self.policy.module}
        return modules if self.critic is None else modules | {"critic": self.critic}

    def update(
        self, trajectories: Sequence[Trajectory], number: int, progress: float = 0.0
    ) -> dict[str, float]:
        """Learn from one batch of episodes; return the numbers to log.

        Args:
            trajectories: The episodes; with none there is no gradient step.
            number: Of the update, from 0: with the seed it decides the order of the episodes.
            progress: Of the training, in [0, 1]: it decides the learning rates.

        Raises:
            NonFiniteLossError: If a loss or gradient is no finite number; the step is not taken.
            ValueError: If a reward is no finite number.
        """
        self._set_rates(number, progress)
        tally, metrics = Tally(), {"useful_share": 0.0}
        if trajectories:
            batch = self._prepare(Batch.from_trajectories(trajectories))
            targets = self.algorithm.targets(batch)
            self._learn(batch, targets, number, tally)
            metrics = batch_metrics(batch, targets)
        rate = self.optimizer.param_groups[0]["lr"]
        metrics = tally.means() | metrics | {"learning_rate": rate}
        return {f"train/{name}": value for name, value in metrics.items()}

    def _set_rates(self, number: int, progress: float) -> None:
        share = self.config.rate_share(number, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * share

    def _prepare(self, batch: Batch) -> Batch:
        """Return the batch with what the targets need, its rewards shaped."""
        if self.critic is not None:
            batch = replace(batch, values=self._ask(batch, self.critic))
        if "reference_in_targets" in self.algorithm.needs:
            batch = replace(batch, reference_logprobs=self._ask(batch, self._reference_logprobs))
        return self.algorithm.shape_rewards(batch)

    @torch.no_grad()
    def _ask(self, batch: Batch, question: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """Return a number for each action token of a whole batch, (B, T), 0 elsewhere."""
        answers = torch.zeros_like(batch.logprobs)
        acting = torch.nonzero(batch.action_mask[:, 1:].any(1)).flatten()
        for indices in batch.buckets(self.config.max_tokens_per_pass, acting):
            rows = batch.rows(indices)
            found = torch.zeros_like(rows.logprobs)
            found[:, 1:][rows.action_mask[:, 1:]] = question(rows).to(found)
            answers[indices, : found.shape[1]] = found
        return answers

    def _learn(self, batch: Batch, targets: Targets, number: int, tally: Tally) -> None:
        for part in self._parts(batch.groups, targets.useful, number):
            self.optimizer.zero_grad()
            for indices in batch.buckets(self.config.max_tokens_per_pass, part.rows):
                self._accumulate(batch, targets, indices, part.num_parts, tally)
            if tally.end_part() > (self.config.target_kl or torch.inf):
                tally.stopped_early = True
                return
            self._step(batch, part, tally)

    def _parts(self, groups: torch.Tensor, rows: torch.Tensor, number: int) -> Iterator[_Part]:
        """Yield all gradient steps: whole groups, in an order that the seed decides."""
        for epoch in range(self.algorithm.num_epochs):
            generator = torch.Generator().manual_seed(derive(self.config.seed, number, epoch))
            present = groups[rows].unique()
            present = present[torch.randperm(len(present), generator=generator)]
            num_parts = min(self.config.num_minibatches, len(present))
            for part in present.tensor_split(num_parts) if num_parts else ():
                yield _Part(rows[torch.isin(groups[rows], part)], num_parts)

    def _accumulate(
        self,
        batch: Batch,
        targets: Targets,
        indices: torch.Tensor,
        num_parts: int,
        tally: Tally,
    ) -> None:
        """Add the gradient of some rows, in one of `num_parts` gradient steps."""
        rows = batch.rows(indices)
        view = self._view(rows, targets.rows(indices, rows.token_ids.shape[1]), tally)
        loss = self.algorithm.loss(view)
        if not loss.value.isfinite():
            raise NonFiniteLossError(f"loss must be finite, got {loss.value.item()}", rows)
        # Weights add up to 1 over the batch, and each gradient step sees a part of it.
        (loss.value * num_parts).backward()
        tally.add(loss.statistics)

    def _view(self, rows: Batch, targets: Targets, tally: Tally) -> TokenView:
        scores = self.policy.score(rows, self.config.temperature)
        in_loss = "reference_in_loss" in self.algorithm.needs
        view = TokenView(
            logprobs=scores.logprobs,
            old_logprobs=_flat(rows, rows.logprobs, scores.logprobs),
            advantages=_flat(rows, targets.advantages, scores.logprobs),
            weights=_flat(rows, targets.weights, scores.logprobs),
            rows=_row_numbers(rows).to(scores.logprobs.device),
            reference_logprobs=self._reference_logprobs(rows) if in_loss else None,
            critic=self._critic_view(rows, targets),
        )
        tally.see(view, scores.entropy)
        return view

    def _critic_view(self, rows: Batch, targets: Targets) -> CriticView | None:
        if self.critic is None:
            return None
        assert rows.values is not None
        assert targets.critic is not None
        values = self.critic(rows)
        return CriticView(
            values=values,
            old_values=_flat(rows, rows.values, values),
            returns=_flat(rows, targets.critic.returns, values),
            weights=_flat(rows, targets.critic.weights, values),
        )

    @torch.no_grad()
    def _reference_logprobs(self, rows: Batch) -> torch.Tensor:
        assert self.reference is not None
        return self.reference.score(rows, self.config.temperature).logprobs

    def _step(self, batch: Batch, part: _Part, tally: Tally) -> None:
        norms = [
            torch.nn.utils.clip_grad_norm_(group["params"], self.config.max_grad_norm)
            for group in self.optimizer.param_groups
        ]
        if not all(norm.isfinite() for norm in norms):
            self.optimizer.zero_grad()
            found = ", ".join(str(float(norm)) for norm in norms)
            raise NonFiniteLossError(
                f"gradient norms must be finite, got {found}", batch.rows(part.rows)
            )
        self.optimizer.step()
        tally.end_step(float(norms[0]))

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


def _flat(rows: Batch, tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the action tokens, (N,), on the device of `like`."""
    return tokens[:, 1:][rows.action_mask[:, 1:]].to(like.device)


def _row_numbers(rows: Batch) -> torch.Tensor:
    """Return the row of each action token, (N,)."""
    return torch.nonzero(rows.action_mask[:, 1:])[:, 0]


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
