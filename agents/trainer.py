"""The training loop: collect episodes, compute targets, take gradient steps, report.

trainer = Trainer(policy, env, GRPO(), curriculum=ExponentialCurriculum(0.0, 0.5))
trainer.learn(num_updates=30)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from agents.algorithms.algorithm import Algorithm
from agents.algorithms.grpo import GRPO
from agents.checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from agents.collecting import collect_kept
from agents.distributed import ALONE, Processes
from agents.learner import Learner, load_tensors, tensors
from agents.policies.agent import PolicyAgent, PolicyState
from agents.policies.policy import Policy
from agents.recipe import describe, rebuild
from agents.rollout import Rollout, side_by_side
from agents.rollout_metrics import rollout_metrics, time_metrics
from agents.samplers.sampler import Sampler
from agents.trainer_config import TrainerConfig
from agents.waves import collect_in_waves
from zs_env.random import derive
from zs_env.search.curriculum import CurriculumSource, make_curriculum

Metrics = dict[str, float]

POLICY_FOLDER = "policy"
_REFERENCE = "reference"


class Callback:
    """Hooks into training; override what is needed.

    Attributes:
        in_every_process: Whether all of several processes call it. Else the first one does, and
            the others wait for it; what it decides is decided for all.
    """

    in_every_process: ClassVar[bool] = False

    def on_training_start(self, trainer: Trainer) -> None:
        """Run before the first update of a call of `learn`."""

    def on_rollout_start(self, trainer: Trainer) -> None:
        """Run before the episodes of an update are played."""

    def on_rollout_end(self, trainer: Trainer, rollout: Rollout) -> None:
        """Run after they were played, before the weights change."""

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> bool | None:
        """Run after each update.

        Args:
            trainer: What trains; its `num_updates_done` counts this update.
            rollout: The episodes.
            metrics: What is logged of the update; callbacks further back see what is added.

        Returns:
            False to stop training, after all callbacks have seen the update; anything else goes
            on.
        """
        return None

    def on_training_end(self, trainer: Trainer) -> None:
        """Run after the last update, also where a callback stopped training."""


CallbackLike: TypeAlias = (
    Callback | Callable[["Trainer", Rollout, Metrics], bool | None] | Sequence["CallbackLike"]
)


class CallbackList(Callback):
    """Several callbacks as one, called in their order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        """Call `callbacks`."""
        self.callbacks = list(callbacks)

    def on_training_start(self, trainer: Trainer) -> None:
        """Pass it on."""
        for callback in self.callbacks:
            callback.on_training_start(trainer)

    def on_rollout_start(self, trainer: Trainer) -> None:
        """Pass it on."""
        for callback in self.callbacks:
            callback.on_rollout_start(trainer)

    def on_rollout_end(self, trainer: Trainer, rollout: Rollout) -> None:
        """Pass it on."""
        for callback in self.callbacks:
            callback.on_rollout_end(trainer, rollout)

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> bool | None:
        """Pass it on; return False if any of them does."""
        verdicts = [each.on_update_end(trainer, rollout, metrics) for each in self.callbacks]
        return False if any(verdict is False for verdict in verdicts) else None

    def on_training_end(self, trainer: Trainer) -> None:
        """Pass it on."""
        for callback in self.callbacks:
            callback.on_training_end(trainer)


class _UpdateFunction(Callback):
    """A plain function as a callback: it is called at the end of each update."""

    def __init__(self, function: Callable[[Trainer, Rollout, Metrics], bool | None]) -> None:
        self._function = function

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> bool | None:
        return self._function(trainer, rollout, metrics)


def make_callback(callback: CallbackLike | None) -> Callback:
    """Return one callback for what `Trainer.learn` takes.

    Raises:
        TypeError: If it is neither a callback, a function nor a sequence of such.
    """
    if callback is None:
        return Callback()
    if isinstance(callback, Callback):
        return callback
    if isinstance(callback, Sequence) and not isinstance(callback, str):
        return CallbackList([make_callback(each) for each in callback])
    if isinstance(callback, type) or not callable(callback):
        raise TypeError(
            f"`callback` must be a Callback, a function or a sequence of such, got {callback!r}"
        )
    return _UpdateFunction(callback)


def _called_here(callback: Callback, processes: Processes) -> Callback:
    """Return what this process has to call of a callback."""
    if processes.is_first:
        return callback
    if isinstance(callback, CallbackList):
        return CallbackList([_called_here(each, processes) for each in callback.callbacks])
    return callback if callback.in_every_process else Callback()


class Trainer:
    """Trains a policy in a text vector environment.

    Attributes:
        policy: What is trained, in place.
        envs: Where it plays: one environment a wave.
        env: The first of them.
        algorithm: Hyper-parameters, targets and loss.
        config: Hyper-parameters that all algorithms share.
        curriculum: Where the curriculum stands; None leaves the environment's own.
        learner: The optimiser, and the frozen reference if there is one.
        processes: Those that train together.
        sampler: What plays the episodes in the policy's place; None where the policy does.
        num_updates_done: Updates since the weights were new.
        last_update: What that number will be when `learn` is done.
    """

    def __init__(
        self,
        policy: Policy,
        env: gym.vector.VectorEnv[Any, Any, Any] | Sequence[gym.vector.VectorEnv[Any, Any, Any]],
        algorithm: Algorithm | None = None,
        *,
        config: TrainerConfig | None = None,
        curriculum: CurriculumSource | None = None,
        processes: Processes = ALONE,
        sampler: Sampler | None = None,
    ) -> None:
        """Set up the learner.

        Args:
            policy: What is trained, in place.
            env: A text vector environment in autoreset mode DISABLED; its groups are the
                algorithm's. Of several processes each has one, of its share of the slots. Several
                environments are played in waves (see `agents.waves`), as one of all their slots.
            algorithm: Hyper-parameters, targets and loss; None means `GRPO()`.
            config: Hyper-parameters that all algorithms share.
            curriculum: From progress in [0, 1] to the noise probability, or a name of such; one
                that learns is told the exact match of every episode, or its reward where the
                environment reports none. None leaves the environment's own.
            processes: Those that train together, as `agents.distributed.join` returns them. All
                make a trainer that differs in `env.num_envs` at most, and call the same methods.
            sampler: What plays the episodes in the policy's place, with the weights that it is
                given before each update; whoever made it closes it. None lets the policy play.

        Raises:
            TypeError: If the policy or the algorithm is none, a name or a class, say.
            ValueError: If there is no environment.
        """
        if not hasattr(policy, "score"):
            raise TypeError(f"`policy` must be one, as CausalLMPolicy.load returns, got {policy!r}")
        if not isinstance(algorithm, Algorithm | None):
            raise TypeError(f"`algorithm` must be an instance of one, got {algorithm!r}")
        self.policy = policy
        self.envs = list(env) if isinstance(env, Sequence) else [env]
        if not self.envs:
            raise ValueError("`env` must be an environment, or at least one of several, got none")
        self.env = self.envs[0]
        self.algorithm = GRPO() if algorithm is None else algorithm
        self.config = config or TrainerConfig()
        self.curriculum = None if curriculum is None else make_curriculum(curriculum)
        self.num_updates_done = self.last_update = self._first_update = 0
        self.processes, self.sampler = processes, sampler
        num_slots = sum(each.num_envs for each in self.envs)
        self._first_slot = sum(processes.together(lambda: num_slots)[: processes.rank])
        self.learner = Learner(policy, self.algorithm, self.config, processes)

    def learn(
        self,
        num_updates: int | None = None,
        callback: CallbackLike | None = None,
        *,
        progress_bar: bool = False,
    ) -> Self:
        """Train.

        Args:
            num_updates: Updates to do; progress of the curriculum runs from 0 to 1 over them.
                None does those that are left of an earlier call, which a callback stopped, or
                from whose midst this trainer was loaded.
            callback: A callback, a function of (trainer, rollout, metrics) that is called at the
                end of each update, or a sequence of such; see `Callback.in_every_process`.
            progress_bar: Whether to show one.

        Returns:
            The trainer itself.

        Raises:
            ValueError: If `num_updates` is below 1, or missing where nothing was begun; or if the
                algorithm compares episodes of a group, and the environment's are single ones.
            NonFiniteLossError: If the loss is no number.
            PeerError: If another process failed.
        """
        if "group_size" in self.env.metadata:
            self.algorithm.check_group_size(self.env.metadata["group_size"])
        self._plan(num_updates)
        self._check_plan()
        callbacks = _called_here(make_callback(callback), self.processes)
        with ExitStack() as stack:
            if progress_bar and self.processes.is_first:
                from agents.callbacks import ProgressBarCallback

                bar = stack.enter_context(ProgressBarCallback())
                callbacks = CallbackList([callbacks, bar])
            self._learn(callbacks)
        return self

    def _learn(self, callbacks: Callback) -> None:
        together = self.processes.together
        together(partial(callbacks.on_training_start, self))
        while self.num_updates_done < self.last_update:
            rollout, metrics = self.update(self._progress(), callbacks)
            if not self._goes_on(callbacks, rollout, metrics):
                break
        together(partial(callbacks.on_training_end, self))

    def _goes_on(self, callbacks: Callback, rollout: Rollout, metrics: Metrics) -> bool:
        """Run what comes after an update; return whether nobody wants to stop."""
        verdicts = self.processes.together(
            lambda: callbacks.on_update_end(self, rollout, metrics) is False
        )
        return not any(verdicts)

    def _plan(self, num_updates: int | None) -> None:
        """Set the first and the last update of a call of `learn`."""
        if num_updates is None and not self.last_update:
            raise ValueError("`num_updates` must be given where no training was begun, got None")
        if num_updates is None:
            return
        if num_updates < 1:
            raise ValueError(f"`num_updates` must be at least 1, got {num_updates!r}")
        self._first_update = self.num_updates_done
        self.last_update = self.num_updates_done + num_updates

    def _check_plan(self) -> None:
        """Check that all processes are about to do the same.

        Raises:
            ValueError: If one of them has loaded another checkpoint, say.
        """
        plans = self.processes.together(lambda: (self.num_updates_done, self.last_update))
        if len(set(plans)) > 1:
            raise ValueError(f"`num_updates_done` must be the same in all processes, got {plans}")

    def _progress(self) -> float:
        """Return how far `learn` is: 0 in its first update, 1 in its last."""
        done, last = (n - self._first_update for n in (self.num_updates_done, self.last_update - 1))
        return done / max(1, last)

    def update(self, progress: float, callback: Callback | None = None) -> tuple[Rollout, Metrics]:
        """Collect one batch and learn from it; return it and the numbers to log.

        Args:
            progress: For the curriculum, in [0, 1].
            callback: Its hooks around the rollout are called.
        """
        hooks = callback or Callback()
        self.processes.together(partial(hooks.on_rollout_start, self))
        start = time.perf_counter()
        syncing = self._sync()
        options = {} if self.curriculum is None else {"noise": self.curriculum(progress)}
        collected = collect_kept(
            lambda seed: self._play(seed, options),
            self.algorithm,
            derive(self.config.seed, self.num_updates_done),
        )
        rollout, collecting = collected.rollout, time.perf_counter() - start
        self.processes.together(partial(hooks.on_rollout_end, self, rollout))
        start = time.perf_counter()
        metrics = rollout_metrics(rollout.trajectories) | collected.metrics()
        metrics |= self.learner.update(collected.kept, self.num_updates_done, progress)
        made = self.env.metadata.get("makes_noise", True)
        metrics |= {f"rollout/{name}": value if made else 0.0 for name, value in options.items()}
        metrics |= time_metrics(rollout, collecting, time.perf_counter() - start) | syncing
        self._teach_curriculum(rollout)
        self.num_updates_done += 1
        return rollout, metrics

    def _sync(self) -> Metrics:
        """Give the sampler the weights of this moment; return what to log of that."""
        if self.sampler is None:
            return {}
        start = time.perf_counter()
        # It has them for all processes.
        self.processes.together(self.sampler.sync if self.processes.is_first else lambda: None)
        return {"time/sync_s": time.perf_counter() - start}

    def _play(self, seed: int, options: dict[str, float]) -> Rollout:
        """Play one episode in every slot of all processes."""
        play = partial(
            collect_in_waves,
            self.sampler or self.policy,
            self.envs,
            seed=seed,
            options=options,
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            first_slot=self._first_slot,
        )
        return side_by_side(self.processes.together(play))

    def _teach_curriculum(self, rollout: Rollout) -> None:
        for trajectory in rollout.trajectories:
            if self.curriculum is not None:
                success = trajectory.outcome.get("exact_match", trajectory.reward)
                self.curriculum = self.curriculum.after(success)

    def predict(
        self,
        observations: Sequence[str],
        state: PolicyState | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[list[str], PolicyState]:
        """Return one action a slot, which makes the trainer an `agents.agent.Agent`.

        Args:
            observations: The latest observation of each slot; empty where a slot is idle.
            state: None at first, then what the last call returned.
            episode_start: (num_envs,) True where the observation opens an episode; None means
                everywhere in the first call, and nowhere in later ones.
            deterministic: Whether to take the best action rather than to sample one.
        """
        agent = PolicyAgent(
            self.policy,
            self.env.metadata["action_stops"],
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=self.config.seed,
        )
        if episode_start is None:
            episode_start = np.full(len(observations), state is None)
        return agent.predict(observations, state, episode_start, deterministic)

    def checkpoint(self, more: dict[str, Any] | None = None) -> Checkpoint:
        """Return all that changes in training, for `restore`; the tensors are not copied.

        Where weights are sharded, all processes have to ask.

        Args:
            more: JSON values to keep with it.
        """
        curriculum = {} if self.curriculum is None else self.curriculum.get_state()
        state = {
            "num_updates_done": self.num_updates_done,
            "first_update": self._first_update,
            "last_update": self.last_update,
            "curriculum": curriculum,
        }
        return Checkpoint(self.learner.state_dict(), {**state, **(more or {})}, {})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint of a trainer that was made like this one.

        The frozen reference stays what it is: the weights that this trainer was made with, which
        have to be the same ones.

        Raises:
            ValueError: If it is of another policy.
        """
        state = checkpoint.state
        self.learner.load_state_dict(checkpoint.learner)
        if self.curriculum is not None:
            self.curriculum = self.curriculum.with_state(state["curriculum"])
        self.num_updates_done = state["num_updates_done"]
        self._first_update, self.last_update = state["first_update"], state["last_update"]

    def save(self, folder: str | Path) -> None:
        """Write the trainer as a folder, whole or not at all, without any pickle.

        It is a checkpoint (see `agents.checkpoint`) that also holds the policy in Hugging Face
        format, the frozen reference, and the hyper-parameters. The environment is not saved. Of
        several processes the first one writes.

        Raises:
            OSError: If it cannot be written.
        """
        recipe = {name: describe(getattr(self, name)) for name in _RECIPE}
        checkpoint = self.checkpoint({"recipe": recipe})
        reference = self.learner.reference
        frozen = {} if reference is None else {_REFERENCE: tensors(reference.module)}
        write = partial(
            write_checkpoint,
            Path(folder),
            Checkpoint(checkpoint.learner, checkpoint.state, frozen),
            lambda aside: self.policy.save(aside / POLICY_FOLDER),
        )
        self.processes.together(lambda: write() if self.processes.is_first else None)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        env: gym.vector.VectorEnv[Any, Any, Any] | Sequence[gym.vector.VectorEnv[Any, Any, Any]],
        *,
        policy: Policy | None = None,
        algorithm: Algorithm | None = None,
        curriculum: CurriculumSource | None = None,
        device: str | torch.device = "cpu",
        processes: Processes = ALONE,
        sampler: Sampler | None = None,
    ) -> Trainer:
        """Return the trainer that `save` wrote; `learn()` does what was left to do.

        Args:
            folder: What was written.
            env: Where to go on training; made like the former, in as many waves.
            policy: Built like the one that was saved; its weights do not matter. None means a
                Hugging Face model, in the type of numbers that it was trained in, with the
                other `ModelOptions` at their defaults.
            algorithm: What was saved, needed only if its class is not this package's.
            curriculum: The same.
            device: Where a policy that is not given goes.
            processes: Those that train together, if it goes on in several.
            sampler: What plays the episodes in the policy's place, of the policy that is given.

        Raises:
            CheckpointError: If the folder is damaged or is none that `save` wrote.
            ValueError: If something has to be given, or does not fit.
        """
        folder = Path(folder)
        checkpoint = read_checkpoint(folder)
        recipe = checkpoint.state.get("recipe")
        if recipe is None:
            raise CheckpointError(f"{folder} must be what `save` wrote, got another checkpoint")
        trainer = cls(
            policy or _load_policy(folder / POLICY_FOLDER, device),
            env,
            algorithm or rebuild("algorithm", recipe["algorithm"]),
            config=rebuild("config", recipe["config"]),
            curriculum=curriculum or rebuild("curriculum", recipe["curriculum"]),
            processes=processes,
            sampler=sampler,
        )
        trainer.restore(checkpoint)
        if trainer.learner.reference is not None:
            reference = trainer.learner.reference.module
            load_tensors(_REFERENCE, reference, checkpoint.frozen[_REFERENCE])
        return trainer


_RECIPE = ("algorithm", "config", "curriculum")


def _load_policy(folder: Path, device: str | torch.device) -> Policy:
    # Imported here: a policy of another kind must not need Hugging Face's libraries.
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.folders import stored_options

    return CausalLMPolicy.load(folder, device, stored_options(folder))
