"""What gradient steps change: the policy's and the critic's weights, whole or in shards.

With sharded weights (PyTorch's FSDP2) every forward and backward pass is a collective: all
processes take equally many, and there is one way into the modules, `Trainee.forward`. Sampling
has no such order, so that a policy which is trained in shards samples with a whole copy, which
`publish` renews after each update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from agents.batch import Batch
from agents.distributed import Processes, Sharing
from agents.policies.policy import Policy


class Answers(NamedTuple):
    """What the current weights say about a batch, flat over its action tokens.

    A tuple, for FSDP finds tensors in tuples.

    Attributes:
        logprobs: (N,) of the policy, or None if nobody asked.
        entropy: (N,) of the policy, without gradient, or None.
        values: (N,) of the critic, or None if nobody asked or there is none.
    """

    logprobs: torch.Tensor | None
    entropy: torch.Tensor | None
    values: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows of one forward pass.

    Attributes:
        rows: Their indices.
        counts: Whether anything is learned from it; others only keep the processes in step.
    """

    rows: torch.Tensor
    counts: bool = True


class Trainee(torch.nn.Module):
    """The modules that are trained, each process holding all their weights.

    Attributes:
        policy: What is trained.
        critic: What predicts rewards, or None.
    """

    def __init__(
        self, policy: Policy, critic: torch.nn.Module | None, processes: Processes
    ) -> None:
        """Hold both."""
        super().__init__()
        self.policy, self.critic, self._processes = policy, critic, processes
        self.model = policy.module

    def forward(
        self, rows: Batch, temperature: float, *, policy: bool = True, critic: bool = True
    ) -> Answers:
        """Answer for some rows, asking the policy, the critic, or both."""
        scores = self.policy.score(rows, temperature) if policy else None
        values = self.critic(rows) if critic and self.critic is not None else None
        if scores is None:
            return Answers(None, None, values)
        return Answers(scores.logprobs, scores.entropy, values)

    def passes(self, batch: Batch, rows: torch.Tensor, max_tokens: int) -> list[Pass]:
        """Return this process's forward passes over `rows`, which all processes share out.

        Args:
            batch: What the rows are of.
            rows: Indices, the same in every process.
            max_tokens: Padded tokens of a pass.
        """
        order = rows[torch.argsort(batch.lengths[rows], stable=True)]
        size = self._processes.size
        shares = [list(batch.buckets(max_tokens, order[rank::size])) for rank in range(size)]
        mine = [Pass(each) for each in shares[self._processes.rank]]
        return [*mine, *self._idle(shares, len(mine))]

    def _idle(self, shares: Sequence[Sequence[torch.Tensor]], num: int) -> Iterator[Pass]:
        """Yield what a process passes that has fewer passes than another."""
        yield from ()

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the optimiser, whose groups of parameters are the policy's and the critic's."""
        self.optimizer = optimizer
        self.groups = [list(group["params"]) for group in optimizer.param_groups]

    def forget_gradients(self) -> None:
        """Begin a gradient step, or give one up after all of its passes."""
        self.optimizer.zero_grad()

    def backward(self, loss: torch.Tensor, counts: bool = True, is_last: bool = True) -> None:
        """Add the gradient of this process's part of a loss.

        Args:
            loss: Of one forward pass.
            counts: Whether anything is learned from it.
            is_last: Whether no further pass belongs to the gradient step.
        """
        loss.backward()

    def clip(self, max_norm: float) -> list[torch.Tensor]:
        """Add up the gradients of all processes, and scale each group of them down to a norm.

        Returns:
            The norms before that, a group each.
        """
        for group in self.groups:
            self._sum_gradients(group)
        norms = [torch.nn.utils.clip_grad_norm_(group, max_norm) for group in self.groups]
        return [self.whole(norm) for norm in norms]

    def _sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._processes.sum_gradients(parameters)

    def step(self) -> None:
        """Change the weights along the gradients."""
        self.optimizer.step()

    def optimizer_state(self) -> dict[str, Any]:
        """Return what torch's `Optimizer.state_dict` does where weights are whole."""
        state = self.optimizer.state_dict()
        moments = {
            index: {name: self.kept(value) for name, value in entries.items()}
            for index, entries in state["state"].items()
        }
        return {**state, "state": moments}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Put back what `optimizer_state` returned, after the modules' tensors were."""
        parameters = [parameter for group in self.groups for parameter in group]
        moments = {
            index: {
                # A count of steps has no shape, and belongs to no shard.
                name: self.placed_like(parameters[index], value)
                if torch.is_tensor(value) and value.ndim
                else value
                for name, value in entries.items()
            }
            for index, entries in state["state"].items()
        }
        self.optimizer.load_state_dict({**state, "state": moments})

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the modules, of their gradients or of an optimiser, unsharded."""
        return tensor

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor as `whole` does, where there is room for many."""
        return tensor

    def placed_like(self, like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Return a whole tensor sharded as `like` is."""
        return tensor

    def publish(self, sampler: Policy) -> None:
        """Give the policy that samples the weights of the one that is trained."""


class ShardedTrainee(Trainee):
    """The modules that are trained, their weights and gradients shared out by FSDP2."""

    def forward(
        self, rows: Batch, temperature: float, *, policy: bool = True, critic: bool = True
    ) -> Answers:
        """Answer for some rows; no view of another tensor, through which FSDP could not see."""
        answers = super().forward(rows, temperature, policy=policy, critic=critic)
        return Answers(*(None if each is None else each.clone() for each in answers))

    def _idle(self, shares: Sequence[Sequence[torch.Tensor]], num: int) -> Iterator[Pass]:
        return idle_passes(shares, num)

    def backward(self, loss: torch.Tensor, counts: bool = True, is_last: bool = True) -> None:
        """Add the gradient of this process's part of a loss; FSDP takes the mean of all parts."""
        super().backward(loss * (self._processes.size if counts else 0))

    def _sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Do nothing: FSDP sums them up in its backward pass."""

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor unsharded; all processes have to ask."""
        from torch.distributed.tensor import DTensor

        if not isinstance(tensor, DTensor):
            return tensor
        whole: torch.Tensor = tensor.full_tensor().detach()
        return whole

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor unsharded, off the device, which cannot hold all of them at once."""
        return self.whole(tensor).cpu()

    def placed_like(self, like: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Return a whole tensor, which all processes have, sharded as `like` is."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(like, DTensor):
            return tensor
        here = tensor.to(like.device)
        placed: torch.Tensor = distribute_tensor(here, like.device_mesh, like.placements)
        return placed

    @torch.no_grad()
    def publish(self, sampler: Policy) -> None:
        """Give the policy that samples the weights of the one that is trained, one by one."""
        # Only what is trained changes, and the copy has its tensors in the same order.
        mine, theirs = self.model.parameters(), sampler.module.parameters()
        for trained, sampling in zip(mine, theirs, strict=True):
            if trained.requires_grad:
                sampling.copy_(self.whole(trained))


def make_trainee(policy: Policy, critic: torch.nn.Module | None, processes: Processes) -> Trainee:
    """Return what is trained of a policy: itself, or a sharded copy.

    An adapter is never shared out: it is small, and the model below, of which each process has to
    have a whole one to sample with, has neither gradients nor moments.
    """
    if processes.sharing is Sharing.NOTHING or _is_adapter(policy):
        return Trainee(policy, critic, processes)
    if processes.sharing is Sharing.DEEPSPEED:
        from agents.zero import ZeroTrainee

        return ZeroTrainee(policy, critic, processes)
    return _shard(ShardedTrainee(_trainable_copy(policy), critic, processes), processes)


def idle_passes(shares: Sequence[Sequence[torch.Tensor]], num: int) -> Iterator[Pass]:
    """Yield what keeps a process with `num` passes in step with the one that has most."""
    for _ in range(max(map(len, shares)) - num):
        # The first share has a row if any has.
        yield Pass(shares[0][0][:1], counts=False)


def _is_adapter(policy: Policy) -> bool:
    # Imported here: a policy of another kind must not need Hugging Face's libraries.
    from agents.policies.lora import LoraPolicy

    return isinstance(policy, LoraPolicy)


def _trainable_copy(policy: Policy) -> Policy:
    copy = policy.frozen_copy()
    for mine, theirs in zip(copy.module.parameters(), policy.module.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return copy


def _shard(trainee: ShardedTrainee, processes: Processes) -> ShardedTrainee:
    """Shard layer by layer, as the launcher was configured; what is in no layer, together."""
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import fully_shard

    # Accelerate's own `prepare` shards on accelerators only; its options are read by its plugin.
    options: Any = FullyShardedDataParallelPlugin()
    device = next(trainee.parameters()).device.type
    mesh = processes.mesh(device)
    layers = set(options.transformer_cls_names_to_wrap or _layer_names(trainee))
    named = [each for each in trainee.modules() if type(each).__name__ in layers]
    # Inner ones first, or their tensors would count as the outer one's.
    for module in dict.fromkeys([*_of_other_types(trainee), *named]):
        fully_shard(module, mesh=mesh, reshard_after_forward=options.reshard_after_forward)
    fully_shard(trainee, mesh=mesh)
    return trainee


def _of_other_types(trainee: Trainee) -> list[torch.nn.Module]:
    """Return modules whose own numbers are of another type than most, as a critic's head may be.

    What FSDP puts together has to be of one type.
    """
    usual = next(trainee.parameters()).dtype
    return [
        module
        for module in trainee.modules()
        if any(each.dtype != usual for each in module.parameters(recurse=False))
    ]


def _layer_names(trainee: Trainee) -> set[str]:
    """Return the classes that Transformers wants to be kept together: a model's layers."""
    names = (getattr(each, "_no_split_modules", None) or () for each in trainee.modules())
    return {name for some in names for name in some}
