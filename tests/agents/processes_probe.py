"""Started once a process by test_distributed.py: does some things, and writes what came of them."""

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import torch

import zs_env  # noqa: F401 - registers the environments
from agents.algorithms.grpo import GRPO
from agents.algorithms.ppo import PPO
from agents.callbacks import CheckpointCallback
from agents.distributed import PeerError, Processes, join
from agents.learner import Learner, NonFiniteLossError
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.trainer import Callback, Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn


def episode(length, group, reward, logprob=-1.0):
    trajectory = Trajectory(group=group)
    trajectory.observe([5, 6, 7])
    trajectory.act(list(range(10, 10 + length)), [logprob] * length)
    trajectory.turns.append(Turn("", "answer", False, reward, 3, 3 + length))
    return trajectory


def episodes():
    return [episode(2 + i, i // 2, float(i % 2)) for i in range(6)]


def learner(processes, dtype="auto", **config):
    policy = CausalLMPolicy.load("skill", options=ModelOptions(dtype=dtype))
    settings = TrainerConfig(max_tokens_per_pass=8, **config)
    return Learner(policy, PPO(kl_coef=0.0), settings, processes)


def weights(learner):
    tensors = learner.state_dict()["modules"]["policy"].values()
    return sum(float(tensor.detach().double().abs().sum()) for tensor in tensors)


def errors(processes: Processes):
    """A failure anywhere is one everywhere, and the first one tells which."""

    def fail():
        if processes.rank == 1:
            raise KeyError("lost")
        return 1

    try:
        processes.together(fail)
    except KeyError:
        return "own"
    except PeerError as error:
        return str(error)


def meeting(processes: Processes):
    """One that fails on its way to where the others wait ends them, there and further out."""

    def act():
        if processes.is_first:
            raise KeyError("lost")
        processes.together(lambda: None)

    try:
        processes.together(act)
    except KeyError:
        return "own"
    except PeerError as error:
        return str(error)


def checkpoint(processes: Processes):
    """A first process that fails before it writes lets nobody wait who holds a shard."""
    callbacks = [CheckpointCallback("unused")]
    if processes.is_first:
        callbacks.insert(0, Failing())
    trainer = Trainer(CausalLMPolicy.load("skill"), tiny_env(processes), processes=processes)
    try:
        trainer.learn(1, callbacks)
    except (KeyError, PeerError) as error:
        return type(error).__name__


def adapter(processes: Processes):
    """What is trained of a model with an adapter, of which every process has all."""
    options = ModelOptions(lora_rank=2)
    policy = CausalLMPolicy.load("skill", options=options)
    config = TrainerConfig(max_tokens_per_pass=8, learning_rate=1e-2)
    taught = Learner(policy, GRPO(kl_coef=0.1), config, processes)
    rows = [taught.update(episodes(), number) for number in range(2)]
    copy = CausalLMPolicy.load("skill", options=options)
    other = Learner(copy, GRPO(kl_coef=0.1), config, processes)
    other.load_state_dict(taught.state_dict())
    return [weights(taught), rows, weights(other) == weights(taught)]


class Failing(Callback):
    """Fails."""

    def on_update_end(self, trainer, rollout, metrics):
        """Fail."""
        raise KeyError("lost")


def tiny_env(processes):
    return gym.make_vec(
        "ZeroSearch-v0",
        num_envs=2 * len(processes.share(2)),
        group_size=2,
        engine="world",
        max_turns=1,
        autoreset_mode="Disabled",
    )


def gradients(processes: Processes):
    """Gradients are added up; one that only some have counts as 0 in the others."""
    both, one, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    both.grad = torch.full((2,), processes.rank + 1.0)
    if processes.rank:
        one.grad = torch.ones(2)
    processes.sum_gradients([both, one, none])
    return [None if each.grad is None else each.grad.tolist() for each in (both, one, none)]


def first_weights(processes: Processes):
    """All begin with the weights of the first."""
    layer = torch.nn.Linear(2, 1)
    torch.nn.init.constant_(layer.weight, float(processes.rank + 3))
    processes.copy_from_first(layer)
    return layer.weight.tolist()


def nonfinite(processes: Processes):
    """A loss that is no number in one process ends the update in all, before any step."""
    taught = learner(processes, num_minibatches=1)
    before = weights(taught)
    # Rows are dealt out by length, the shortest one to the first process.
    broken = [replace(each, logprobs=[*each.logprobs[:-1], float("nan")]) for each in episodes()]
    batch = [*episodes()[:1], broken[1], *episodes()[2:]]
    try:
        taught.update(batch, 0)
    except (NonFiniteLossError, PeerError) as error:
        return [type(error).__name__, weights(taught) == before]


def target_kl(processes: Processes):
    """All stop an update at the same gradient step."""
    found = learner(processes, target_kl=1e-9, num_minibatches=3).update(episodes(), 0)
    return [found["train/stopped_early"], found["train/num_steps"]]


def learned(processes: Processes):
    """All have the same weights and the same numbers after two updates."""
    taught = learner(processes)
    rows = [taught.update(episodes(), number) for number in range(2)]
    return [weights(taught), rows]


def bfloat16(processes: Processes):
    """A policy in bfloat16, and a critic whose head is in float32, learn and are put back."""
    taught, other = (learner(processes, "bfloat16") for _ in range(2))
    found = taught.update(episodes(), 0)
    other.load_state_dict(copy.deepcopy(taught.state_dict()))
    return [found["train/grad_norm"], found["train/value_loss"], weights(taught) == weights(other)]


def restored(processes: Processes):
    """Weights and moments that are written and read back lead to the same update."""
    taught, other = learner(processes), learner(processes)
    taught.update(episodes(), 0)
    other.load_state_dict(copy.deepcopy(taught.state_dict()))
    rows = [each.update(episodes(), 1) for each in (taught, other)]
    return [rows[0] == rows[1], weights(taught) == weights(other)]


def threads(kind: str) -> list[str]:
    """Return the names of this process's threads that have `kind` in them."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if kind in name]


def main() -> None:
    out, *names = sys.argv[1:]
    with join() as processes:
        answers = {name: globals()[name](processes) for name in names}
    answers["threads"] = threads("gloo")
    Path(out, f"{processes.rank}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
