"""Gradient steps on episodes: targets once a batch, then mini-batches, then micro-batches.

A learner owns what changes while learning: the weights of the policy and of the critic, and the
optimiser's moments. How episodes came about does not matter to it.

Of several processes each is given all episodes and computes the same targets from them; passes
through the models are shared out. The weights of the loss are those of the whole batch already,
so that gradients have to be added up, and no mean is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, TypedDict

import torch

from agents.algorithms.algorithm import Algorithm, CriticView, Targets, TokenView
from agents.batch import Batch
from agents.distributed import ALONE, Processes
from agents.importance import Importance, truncated_importance
from agents.learner_metrics import PassStatistics, Tally, batch_metrics
from agents.policies.policy import Policy
from agents.trainee import make_trainee
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
        policy: What is trained; where weights are sharded, the copy of it that samples.
        reference: What the policy was at first, where the algorithm needs it, or None.
        critic: What predicts rewards, where the algorithm needs it, or None.
        processes: Those that train together.
        optimizer: Of the policy in its first group of parameters, of the critic in its second.
    """

    def __init__(
        self,
        policy: Policy,
        algorithm: Algorithm,
        config: TrainerConfig,
        processes: Processes = ALONE,
    ) -> None:
        """Set up the optimiser, and the reference and the critic where they are needed.

        Args:
            policy: What is trained, in place; all processes get the weights of the first one.
            algorithm: Hyper-parameters, needs, targets and loss.
            config: Hyper-parameters that all algorithms share.
            processes: Those that train together, each with a learner that is made like this one.
        """
        self.policy, self.algorithm, self.config = policy, algorithm, config
        self.processes = processes
        processes.copy_from_first(policy.module)
        needs = algorithm.needs
        wants_reference = needs & {"reference_in_targets", "reference_in_loss"}
        self.reference = policy.frozen_copy() if wants_reference else None
        self.critic = policy.make_critic() if "critic" in needs else None
        if self.critic is not None:
            processes.copy_from_first(self.critic)
        self._trainee = make_trainee(policy, self.critic, processes)
        trained = list(self._trainee.policy.parameters())
        groups: list[dict[str, Any]] = [{"params": trained, "highest_lr": config.learning_rate}]
        if self.critic is not None:
            parameters = list(self.critic.parameters())
            groups.append({"params": parameters, "highest_lr": config.critic_learning_rate})
        self.optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self._trainee.begin(self.optimizer)

    def modules(self) -> dict[str, torch.nn.Module]:
        """Return everything whose weights are trained, by name."""
        modules = {"policy": self._trainee.model}
        return modules if self.critic is None else modules | {"critic": self.critic}

    def update(
        self, trajectories: Sequence[Trajectory], number: int, progress: float = 0.0
    ) -> dict[str, float]:
        """Learn from one batch of episodes; return the numbers to log.

        Args:
            trajectories: The episodes, those of all processes; with none there is no gradient
                step. Their `advantages` are set.
            number: Of the update, from 0: with the seed it decides the order of the episodes.
            progress: Of the training, in [0, 1]: it decides the learning rates.

        Raises:
            NonFiniteLossError: If an advantage, loss or gradient is no finite number; the step is
                not taken.
            TypeError: If the algorithm's targets are none.
            PeerError: If that, or anything else, happened in another process.
            ValueError: If a reward is no finite number, or the targets have another shape.
        """
        self._set_rates(number, progress)
        tally, metrics = Tally(), {"useful_share": 0.0}
        if trajectories:
            batch, importance = self._own_logprobs(Batch.from_trajectories(trajectories))
            batch = self._prepare(batch)
            targets = self._targets(batch)
            _note(targets.advantages, trajectories)
            weighed = targets if importance is None else importance.weigh(targets)
            self._learn(batch, weighed, number, tally)
            self._trainee.publish(self.policy)
            metrics = batch_metrics(batch, targets)
            metrics |= {} if importance is None else importance.metrics()
        rate = self.optimizer.param_groups[0]["lr"]
        metrics = tally.means() | metrics | {"learning_rate": rate}
        return {f"train/{name}": value for name, value in metrics.items()}

    def _set_rates(self, number: int, progress: float) -> None:
        share = self.config.rate_share(number, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group["highest_lr"] * share

    def _own_logprobs(self, batch: Batch) -> tuple[Batch, Importance | None]:
        """Return the batch with the policy's log-probabilities, and weights of its tokens.

        Without a correction the sampler's count as the policy's own.
        """
        if not self.config.importance_cap:
            return batch, None
        own = self._ask(batch, self._logprobs)
        importance = truncated_importance(batch, own, self.config.importance_cap)
        return replace(batch, logprobs=own), importance

    def _prepare(self, batch: Batch) -> Batch:
        """Return the batch with what the targets need, its rewards shaped."""
        if self.critic is not None:
            batch = replace(batch, values=self._ask(batch, self._values))
        if "reference_in_targets" in self.algorithm.needs:
            batch = replace(batch, reference_logprobs=self._ask(batch, self._reference_logprobs))
        return self.algorithm.shape_rewards(batch)

    def _targets(self, batch: Batch) -> Targets:
        targets = self.algorithm.checked_targets(batch)
        broken = torch.nonzero(~(targets.advantages * targets.weights).isfinite().all(1)).flatten()
        if len(broken):
            # Left alone, such an episode would count as one that nothing can be learned from.
            message = f"advantages and weights must be finite, got others in {len(broken)} episodes"
            raise NonFiniteLossError(message, batch.rows(broken))
        return targets

    def _ask(self, batch: Batch, question: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """Return a number for each action token of a whole batch, (B, T), 0 elsewhere."""
        answers = torch.zeros_like(batch.logprobs)
        for share in self.processes.together(lambda: self._answers(batch, question)):
            for indices, found in share:
                answers[indices, : found.shape[1]] = found
        return answers

    @torch.no_grad()
    def _answers(
        self, batch: Batch, question: Callable[[Batch], torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return indices and answers, padded, of this process's share of a batch."""
        answers = []
        acting = torch.nonzero(batch.action_mask[:, 1:].any(1)).flatten()
        for each in self._trainee.passes(batch, acting, self.config.max_tokens_per_pass):
            rows = batch.rows(each.rows)
            found = torch.zeros_like(rows.logprobs)
            found[:, 1:][rows.action_mask[:, 1:]] = question(rows).to(found)
            if each.counts:
                answers.append((each.rows, found))
        return answers

    def _logprobs(self, rows: Batch) -> torch.Tensor:
        logprobs = self._trainee(rows, self.config.temperature, critic=False).logprobs
        assert isinstance(logprobs, torch.Tensor)
        return logprobs

    def _values(self, rows: Batch) -> torch.Tensor:
        values = self._trainee(rows, self.config.temperature, policy=False).values
        assert isinstance(values, torch.Tensor)
        return values

    def _learn(self, batch: Batch, targets: Targets, number: int, tally: Tally) -> None:
        for part in self._parts(batch.groups, targets.useful, number):
            self._trainee.forget_gradients()
            accumulate = partial(self._accumulate, batch, targets, part)
            for share in self.processes.together(accumulate):
                for statistics in share:
                    tally.add(statistics)
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

    def _accumulate(self, batch: Batch, targets: Targets, part: _Part) -> list[PassStatistics]:
        """Add the gradient of this process's share of a gradient step."""
        statistics, failure = [], None
        passes = self._trainee.passes(batch, part.rows, self.config.max_tokens_per_pass)
        for each in passes:
            rows = batch.rows(each.rows)
            view, entropy = self._view(rows, targets.rows(each.rows, rows.token_ids.shape[1]))
            loss = self.algorithm.loss(view)
            if failure is None and not loss.value.isfinite():
                message = f"loss must be finite, got {loss.value.item()}"
                failure = NonFiniteLossError(message, rows)
            # Weights add up to 1 over the batch, and each gradient step sees a part of it.
            is_last = each is passes[-1]
            self._trainee.backward(loss.value * part.num_parts, each.counts, is_last)
            if each.counts:
                statistics.append(PassStatistics.of(view, entropy, loss))
        # Not before all passes: with sharded weights the other processes wait for each of them.
        if failure is not None:
            raise failure
        return statistics

    def _view(self, rows: Batch, targets: Targets) -> tuple[TokenView, torch.Tensor]:
        """Return what the loss looks at, and the policy's entropy."""
        logprobs, entropy, values = self._trainee(rows, self.config.temperature)
        in_loss = "reference_in_loss" in self.algorithm.needs
        view = TokenView(
            logprobs=logprobs,
            old_logprobs=_flat(rows, rows.logprobs, logprobs),
            advantages=_flat(rows, targets.advantages, logprobs),
            weights=_flat(rows, targets.weights, logprobs),
            rows=_row_numbers(rows).to(logprobs.device),
            reference_logprobs=self._reference_logprobs(rows) if in_loss else None,
            critic=None if values is None else self._critic_view(rows, targets, values),
        )
        return view, entropy

    def _critic_view(self, rows: Batch, targets: Targets, values: torch.Tensor) -> CriticView:
        assert rows.values is not None
        assert targets.critic is not None
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
        norms = self._trainee.clip(self.config.max_grad_norm)
        if not all(norm.isfinite() for norm in norms):
            self._trainee.forget_gradients()
            found = ", ".join(str(float(norm)) for norm in norms)
            message = f"gradient norms must be finite, got {found}"
            error = NonFiniteLossError(message, batch.rows(part.rows))
            # All processes find the same; one of them tells.
            self.processes.together(partial(_fail, error))
        self._trainee.step()
        tally.end_step(float(norms[0]))

    def state_dict(self) -> LearnerState:
        """Return what changes while learning; the tensors are the learner's own, not copies.

        Where weights are sharded they are put together, off the device, for which all processes
        have to ask.
        """
        kept = self._trainee.kept
        modules = {
            name: {key: kept(tensor) for key, tensor in tensors(module).items()}
            for name, module in self.modules().items()
        }
        return {"modules": modules, "optimizer": self._trainee.optimizer_state()}

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
        placed = self._trainee.placed_like
        for name, module in modules.items():
            load_tensors(name, module, state["modules"][name], placed)
        self._trainee.load_optimizer_state(state["optimizer"])
        self._trainee.publish(self.policy)


def _fail(error: Exception) -> NoReturn:
    raise error


def _note(advantages: torch.Tensor, trajectories: Sequence[Trajectory]) -> None:
    """Tell the episodes what is made of their tokens."""
    for row, trajectory in zip(advantages.tolist(), trajectories, strict=True):
        # In place: an episode whose group was renamed is a copy that shares the list.
        trajectory.advantages[:] = row[: len(trajectory.token_ids)]


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
def load_tensors(
    name: str,
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    placed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = lambda like, tensor: tensor,
) -> None:
    """Copy tensors into a module.

    Args:
        name: What to call the module in messages.
        module: Where they go.
        state: What `tensors` returned of a module built alike.
        placed: From a tensor of the module, and the one to copy, to what can be copied.

    Raises:
        ValueError: If they do not fit.
    """
    present = tensors(module)
    shapes, wanted = ({n: tuple(t.shape) for n, t in each.items()} for each in (state, present))
    if shapes != wanted:
        raise ValueError(f"`state` must hold the tensors of {name!r}, got those of another module")
    for key, tensor in present.items():
        tensor.copy_(placed(tensor, state[key]))
