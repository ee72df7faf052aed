"""What gradient steps change, its moments and gradients shared out by DeepSpeed's ZeRO 1 or 2.

Every process has all weights, samples with them, and changes a part of them, which the others
then get. DeepSpeed's engine sums gradients up as its backward passes end, and takes a step only
when it is told to; what lies between, clipping and whether there is to be a step, is decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch

from agents.batch import Batch
from agents.trainee import Answers, Pass, Trainee, idle_passes

EXTRA: Final = "pip install 'zs-env[deepspeed]'"

_ZERO_OPTIONS: Final = frozenset(
    "stage reduce_scatter reduce_bucket_size allgather_partitions allgather_bucket_size "
    "contiguous_gradients overlap_comm".split()
)
"""What is followed of a configuration's `zero_optimization`."""

_SET_HERE: Final = {
    "train_batch_size": None,
    "train_micro_batch_size_per_gpu": None,
    "steps_per_print": None,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 0.0,
}
"""Options that are training's own, and the value that may be given: None means any."""


def read_config() -> dict[str, Any]:
    """Return DeepSpeed's configuration, as accelerate's launcher was told of it.

    Raises:
        ImportError: If DeepSpeed is not installed.
        ValueError: If training cannot follow it.
    """
    from accelerate.utils import DeepSpeedPlugin, is_deepspeed_available

    if not is_deepspeed_available():
        raise ImportError(f"--use_deepspeed needs DeepSpeed: {EXTRA}")
    plugin: Any = DeepSpeedPlugin()
    return followed(plugin.deepspeed_config)


def followed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the engine is made with, of a configuration for DeepSpeed.

    Args:
        config: In DeepSpeed's own form; "auto", and what is switched off, counts as not given.

    Raises:
        ValueError: If training cannot follow it.

    Example:
        >>> followed({"zero_optimization": {"stage": 1, "overlap_comm": "auto"}})
        {'zero_optimization': {'stage': 1}}
    """
    given = _given(config)
    zero = given.pop("zero_optimization", {})
    if zero.get("stage") not in (1, 2):
        raise ValueError(
            f"`zero_optimization.stage` of DeepSpeed must be 1 or 2, got {zero.get('stage')!r}: "
            "--use_fsdp --fsdp_version 2 shares out weights, too, and --multi_gpu nothing"
        )
    for name, value in given.items():
        wanted = _SET_HERE.get(name)
        if name not in _SET_HERE or wanted not in (None, value):
            raise ValueError(f"`{name}` of DeepSpeed must be left to training, got {value!r}")
    for name in zero.keys() - _ZERO_OPTIONS:
        raise ValueError(
            f"`zero_optimization.{name}` of DeepSpeed must be left out, got {zero[name]!r}"
        )
    return {"zero_optimization": zero}


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a section that say anything."""
    found = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            is_off = value.get("enabled", True) is not True or value.get("device") == "none"
            value = {} if is_off else _given(value)
        is_said = value is not False or name in _ZERO_OPTIONS
        if is_said and value not in ("auto", None, {}):
            found[name] = value
    return found


class ZeroTrainee(Trainee):
    """The modules that are trained, with DeepSpeed's engine around them."""

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the engine the optimiser, whose groups then hold a flat piece each.

        Raises:
            ValueError: If weights are no float32 numbers, which the engine would take for others.
        """
        super().begin(optimizer)
        for parameter in self.parameters():
            if parameter.dtype != torch.float32:
                raise ValueError(f"`dtype` must be float32 with DeepSpeed, got {parameter.dtype}")
        import deepspeed

        self._engine, self._zero, *_ = deepspeed.initialize(
            model=Trainee(self.policy, self.critic, self._processes),
            optimizer=optimizer,
            # Clipping would be that of all groups together, and is 1 unless told otherwise.
            config={**read_config(), "train_micro_batch_size_per_gpu": 1, "gradient_clipping": 0.0},
        )

    def forward(
        self, rows: Batch, temperature: float, *, policy: bool = True, critic: bool = True
    ) -> Answers:
        """Answer for some rows, asking the policy, the critic, or both."""
        answers: Answers = self._engine(rows, temperature, policy=policy, critic=critic)
        return answers

    def _idle(self, shares: Sequence[Sequence[torch.Tensor]], num: int) -> Iterator[Pass]:
        return idle_passes(shares, num)

    def forget_gradients(self) -> None:
        """Begin a gradient step, or give one up after all of its passes."""
        self._zero.zero_grad()
        for index in self._zero.averaged_gradients:
            self._zero.averaged_gradients[index] = None

    def backward(self, loss: torch.Tensor, counts: bool = True, is_last: bool = True) -> None:
        """Add the gradient of this process's part of a loss; ZeRO takes the mean of all parts."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * (self._processes.size if counts else 0))

    @torch.no_grad()
    def clip(self, max_norm: float) -> list[torch.Tensor]:
        """Scale each group of gradients, which the last pass has added up, down to a norm."""
        from deepspeed.utils import safe_get_full_grad, safe_set_full_grad

        norms = []
        for group in self.groups:
            # One by one: all gradients at once are what is not to be in one place.
            each = [torch.linalg.vector_norm(safe_get_full_grad(one)) for one in group]
            norms.append(torch.linalg.vector_norm(torch.stack(each)))
        for group, norm in zip(self.groups, norms, strict=True):
            share = max_norm / (norm + 1e-6)
            for parameter in group if share < 1 else ():
                safe_set_full_grad(parameter, safe_get_full_grad(parameter) * share)
        return norms

    def step(self) -> None:
        """Change the weights along the gradients, each process its part of them."""
        self._engine.step()

    def optimizer_state(self) -> dict[str, Any]:
        """Return what torch's `Optimizer.state_dict` does where weights are whole."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        state: dict[int, dict[str, torch.Tensor]] = {}
        groups: list[dict[str, Any]] = []
        for piece in self._pieces():
            groups.append({**piece.group, "params": list(piece.parameters)})
            entries = self.optimizer.state[piece.weights]
            for index, parameter in piece.parameters.items() if entries else ():
                state[index] = {
                    name: safe_get_full_optimizer_state(parameter, name)
                    if value.ndim
                    else value.clone()
                    for name, value in entries.items()
                }
        return {"state": state, "param_groups": groups}

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Put back what `optimizer_state` returned, after the modules' tensors were.

        Raises:
            ValueError: If parameters of one group have taken different numbers of steps.
        """
        from deepspeed.utils import safe_set_full_optimizer_state

        self._zero.refresh_fp32_params()
        moments = state["state"]
        for piece, described in zip(self._pieces(), state["param_groups"], strict=True):
            piece.group.update({n: value for n, value in described.items() if n != "params"})
            saved = [moments[index] for index in piece.parameters if index in moments]
            self.optimizer.state[piece.weights] = _without_moments(saved, piece.weights)
        self._link()
        for piece in self._pieces():
            for index in piece.parameters.keys() & moments.keys():
                for name, value in moments[index].items():
                    if value.ndim:
                        here = value.to(piece.weights.device)
                        safe_set_full_optimizer_state(piece.parameters[index], here, name)

    def _pieces(self) -> Iterator[_Piece]:
        """Yield what this process changes of each group."""
        first = 0
        for parameters, group in zip(self.groups, self.optimizer.param_groups, strict=True):
            [weights] = group["params"]
            yield _Piece(group, weights, dict(enumerate(parameters, first)))
            first += len(parameters)

    def _link(self) -> None:
        """Let the engine find the moments of each parameter in those of a group.

        It does so by itself, but once only: after the first step of the first group, when the
        others have no moments yet.
        """
        self._zero._hp_optimizer_states_linked = False
        self._zero._lazy_init_hp_params_optimizer_state()


class _Piece(NamedTuple):
    """What one process changes of a group of parameters.

    Attributes:
        group: Of the optimiser.
        weights: This process's part of all weights of the group, flat.
        parameters: Those of the group by their index among those of all groups.
    """

    group: dict[str, Any]
    weights: torch.Tensor
    parameters: dict[int, torch.nn.Parameter]


def _without_moments(
    saved: Sequence[Mapping[str, torch.Tensor]], piece: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return an optimiser's entries for a flat piece of parameters, with moments that are 0."""
    steps = {float(entries["step"]) for entries in saved}
    if len(steps) > 1:
        raise ValueError(
            f"`state` must be of parameters that have taken equally many steps, as those of "
            f"DeepSpeed have, got {sorted(steps)}"
        )
    return {
        name: torch.zeros_like(piece) if value.ndim else value.clone()
        for entries in saved[:1]
        for name, value in entries.items()
    }
