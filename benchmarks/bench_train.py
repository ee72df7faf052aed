"""A GRPO update beside TRL's and beside a loop that asks the simulator one query each, in one run.

    python benchmarks/bench_train.py [--policies base skill] [--rounds 7]

All have the same policy, simulator, questions, token limits and draws, and therefore the same
episodes, which is checked, as is the loss of the same rows. The learning rate is 0, so that every
round has the work of an untrained policy. They take turns within each round, so that a busy
machine hurts them alike; medians of rounds are told, and the range of the rounds' ratios. On a
machine that is busy anyway, `--clock cpu` counts the processor's time instead, with one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import gymnasium as gym
import peer_trl
import torch
from gymnasium.vector import AutoresetMode
from machine import gemm_flops, peak_mb, resident_mb, write_result
from peer_trl import Episode, HuggingFacePlayer, TRLSettings, make_trl_trainer
from transformers import TrainerCallback

import agents.stages
import agents.trainer
import zs_env  # noqa: F401  (registers the ids)
from agents.algorithms.algorithm import Targets
from agents.algorithms.grpo import GRPO
from agents.algorithms.weights import episode_weights
from agents.batch import Batch
from agents.learner import Learner
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer import Trainer
from agents.trainer_config import TrainerConfig
from agents.trajectory import Trajectory, Turn
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.random import derive
from zs_env.search.engine import Document, SearchEngine, SearchRequest
from zs_env.search.registry import make_engine

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

NUM_THREADS: Final = 10  # as the reference implementation of ZeroSearch has
TOLERANCE: Final = 1e-4
SAME_EPISODES: Final = 0.95  # share that must be; rounding may turn a draw


class AllRows(Targets):
    """Targets that learn from groups of equal rewards, too: only the penalty is left of these."""

    @property
    def useful(self) -> torch.Tensor:
        """The indices of all rows."""
        return torch.arange(len(self.advantages))


@dataclass(frozen=True, kw_only=True)
class KeepingAll(GRPO):
    """GRPO that drops no group."""

    def targets(self, batch: Batch) -> Targets:
        """Return those of GRPO, but for what is useful."""
        found = super().targets(batch)
        return AllRows(found.advantages, found.weights)


OURS: Final = {
    "ours": KeepingAll(scale_rewards=False),
    "ours, equal groups dropped": GRPO(scale_rewards=False),
}


class OneByOne:
    """An engine that another one answers for one request at a time, perhaps from threads."""

    def __init__(self, engine: SearchEngine, num_threads: int) -> None:
        """Ask `engine`; without threads in the order of requests."""
        self._engine, self._num_threads = engine, num_threads

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return what each request alone brings."""
        if self._num_threads == 1:
            return [self._ask(request) for request in requests]
        with ThreadPoolExecutor(self._num_threads) as threads:
            return list(threads.map(self._ask, requests))

    def _ask(self, request: SearchRequest) -> list[Document]:
        return self._engine.search([request])[0]


@dataclass(frozen=True)
class Took:
    """Seconds of an update, by the clock that was chosen, and its work.

    Attributes:
        total: All of it.
        policy: Sampling.
        engine: The environment, which is nearly all the simulator.
        update: From episodes to new weights.
        tokens: In the contexts of all episodes.
        action_tokens: Sampled ones.
    """

    total: float
    policy: float
    engine: float
    update: float
    tokens: int
    action_tokens: int


def main() -> None:
    """Compare, print and write; or measure the memory of one side, in its own process."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.clock == "cpu":
        for module in (agents.stages, agents.trainer, peer_trl, sys.modules[__name__]):
            vars(module)["time"] = SimpleNamespace(perf_counter=time.process_time)
    if options.memory_of:
        print(json.dumps(_memory(options)))
        return
    peak = gemm_flops(time.perf_counter)
    found = {name: _compare(name, options, peak) for name in options.policies}
    lines = [line for name in found for line in found[name]["lines"]]
    results = {
        "rounds": options.rounds,
        "clock": options.clock,
        "num_episodes": options.num_questions * options.group_size,
        "num_minibatches": options.num_minibatches,
        "gemm_gflops": round(peak / 1e9, 1),
        "policies": found,
    }
    print(write_result(options.result, results))
    print("\n".join(lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", default=["base", "skill"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-questions", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--num-minibatches", type=int, default=TrainerConfig.num_minibatches)
    parser.add_argument("--trl-batch-size", type=int, default=16)
    parser.add_argument("--trl-attention", choices=("eager", "sdpa"), default="eager")
    threads = int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--result", default="train", help="name of the file in results/")
    parser.add_argument("--memory-of", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--episodes", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(name: str, options: argparse.Namespace, peak: float) -> dict[str, Any]:
    """Return what one policy's updates take on all sides."""
    rounds = Rounds(name, options)
    rounds.run()
    memory = {side: _memory_apart(side, name, rounds.example, options) for side in ("ours", "trl")}
    num_parameters = sum(p.numel() for p in rounds.ours["ours"].policy.parameters())
    took = {side: each[1:] for side, each in rounds.took.items()}  # the first is for warming up
    return {
        "median": {side: _median(each) for side, each in took.items()},
        "update_tokens_per_second": {
            side: round(statistics.median(t.tokens / t.update for t in each))
            for side, each in took.items()
        },
        "update_memory_mb": memory,
        "loss_difference": rounds.loss_difference,
        "same_episodes": min(rounds.same_episodes),
        "share_of_gemm_peak": _shares(took["ours"], num_parameters, peak),
        "lines": list(_lines(name, took)),
    }


class Rounds(TrainerCallback):  # type: ignore[misc]
    """Lets all sides take turns: TRL's loop is the outer one, and calls ours between updates.

    Attributes:
        ours: A trainer a side of ours.
        took: What each side's updates took, round by round.
        same_episodes: Share of episodes that were the same on both sides, round by round.
        example: Episodes of the last round.
        loss_difference: Of TRL's loss and ours, on the same rows.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        """Load everything."""
        self._options = options
        self._num_episodes = options.num_questions * options.group_size
        engine = make_engine("simulator")
        self.ours = {side: self._trainer(name, engine, each) for side, each in OURS.items()}
        self._lm = TransformersLM.from_pretrained(model_folder(name))
        self._players = {
            "trl": self._player(engine),
            "loop, one by one": self._player(OneByOne(engine, 1)),
            f"loop, {NUM_THREADS} threads": self._player(OneByOne(engine, NUM_THREADS)),
        }
        self._settings = _trl_settings(name, options)
        self.took: dict[str, list[Took]] = defaultdict(list)
        self.same_episodes: list[float] = []
        self.example: list[Trajectory] = []
        self.loss_difference = float("nan")
        self._loops = [side for side in self._players if side != "trl"]
        self._num_steps = self._round = 0
        self._episodes: list[Episode] = []
        self._since = 0.0

    def run(self) -> None:
        """Play all rounds, and check the loss once."""
        num_updates = self._options.rounds + 1
        tokenizer = self._lm.tokenizer
        make_trl_trainer(self._settings, tokenizer, self._play, num_updates, [self]).train()
        self.loss_difference = _loss_difference(
            self._settings, self.ours["ours"].learner, self.example
        )
        assert self.loss_difference < TOLERANCE, self.loss_difference
        assert min(self.same_episodes) >= SAME_EPISODES, self.same_episodes

    def _trainer(self, name: str, engine: SearchEngine, algorithm: GRPO) -> Trainer:
        config = TrainerConfig(num_minibatches=self._options.num_minibatches)
        trainer = Trainer(CausalLMPolicy.load(name), self._env(engine), algorithm, config=config)
        for group in trainer.learner.optimizer.param_groups:
            group["highest_lr"] = 0.0
        return trainer

    def _player(self, engine: SearchEngine) -> HuggingFacePlayer:
        return HuggingFacePlayer(self._lm, self._env(engine), TrainerConfig.max_new_tokens)

    def _env(self, engine: SearchEngine) -> gym.vector.VectorEnv[Any, Any, Any]:
        return gym.make_vec(
            "ZeroSearch-v0",
            num_envs=self._num_episodes,
            group_size=self._options.group_size,
            engine=engine,
            split="train",
            autoreset_mode=AutoresetMode.DISABLED,
        )

    @property
    def _seed(self) -> int:
        return derive(0, self._round)

    def _play(self, model: Any) -> list[Episode]:
        self._episodes = self._players["trl"].play(model, self._seed)
        return self._episodes

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """After an update of TRL's, note what it took, and let the others have their turns."""
        self._num_steps += 1
        if self._num_steps % self._options.num_minibatches:
            return
        trl = self._took_by("trl", time.perf_counter() - self._since)
        self.took["trl"].append(trl)
        for side in self.ours:
            self._update(side)
        self.same_episodes.append(_same_share(self.example, self._episodes))
        for side in self._loops:
            self._players[side].play(kwargs["model"], self._seed)
            loop = self._took_by(side)
            # What a loop learns from and how is what TRL learned from just now.
            whole = loop.policy + loop.engine + trl.update
            self.took[side].append(replace(loop, total=whole, update=trl.update))
        if self._round:
            self._loops = [min(self._loops, key=lambda side: self.took[side][-1].total)]
        self._round += 1
        self._since = time.perf_counter()

    def _took_by(self, side: str, total: float = 0.0) -> Took:
        player = self._players[side]
        tokens = sum(len(each.prompt) + len(each.ids) for each in self._episodes)
        actions = sum(sum(each.is_action) for each in self._episodes)
        learning = total - player.policy_seconds - player.engine_seconds
        times = (total, player.policy_seconds, player.engine_seconds, learning)
        return Took(*times, tokens, actions)

    def _update(self, side: str) -> None:
        trainer = self.ours[side]
        trainer.num_updates_done = self._round
        start = time.perf_counter()
        rollout, metrics = trainer.update(0.0)
        total, learning = time.perf_counter() - start, metrics["time/update_s"]
        times = (total, rollout.policy_seconds, rollout.engine_seconds, learning)
        tokens = sum(len(each.token_ids) for each in rollout.trajectories)
        actions = sum(each.num_action_tokens for each in rollout.trajectories)
        self.took[side].append(Took(*times, tokens, actions))
        self.example = rollout.trajectories


def _trl_settings(name: str, options: argparse.Namespace) -> TRLSettings:
    return TRLSettings(
        str(model_folder(name)),
        options.group_size,
        options.num_questions * options.group_size,
        options.num_minibatches,
        options.trl_batch_size,
        options.trl_attention,
        OURS["ours"].kl_coef,
    )


def _episode(trajectory: Trajectory) -> Episode:
    """Return an episode of ours as TRL takes it."""
    start = trajectory.turns[0].start
    ids, mask, logprobs = trajectory.token_ids, trajectory.action_mask, trajectory.logprobs
    actions = [int(is_action) for is_action in mask[start:]]
    return Episode(ids[:start], ids[start:], actions, logprobs[start:], trajectory.reward)


def _same_share(ours: Sequence[Trajectory], theirs: Sequence[Episode]) -> float:
    """Return the share of episodes that are the same, token by token, and have the same reward."""
    same = [
        (mine.prompt, mine.ids, mine.is_action) == (other.prompt, other.ids, other.is_action)
        and abs(mine.reward - other.reward) < 1e-9
        for mine, other in zip(map(_episode, ours), theirs, strict=True)
    ]
    return sum(same) / len(same)


def _loss_difference(
    settings: TRLSettings, learner: Learner, trajectories: Sequence[Trajectory]
) -> float:
    """Return how far TRL's loss and gradient are from ours.

    Taken are the episodes that did better than their group: over whole groups the loss is 0.
    """
    tokenizer = TransformersLM.from_pretrained(settings.folder).tokenizer
    trainer = make_trl_trainer(settings, tokenizer, lambda _: [*map(_episode, trajectories)])
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([{"prompt": ""} for _ in trajectories])
    batch = Batch.from_trajectories(trajectories)
    advantages = learner.algorithm.targets(batch).advantages
    better = torch.nonzero(advantages.sum(1) > 0).flatten()
    for key in [key for key, value in inputs.items() if torch.is_tensor(value) and value.ndim]:
        inputs[key] = inputs[key][better]
    theirs = trainer._compute_loss(trainer.model, inputs)
    rows = batch.rows(better)
    length = rows.token_ids.shape[1]
    targets = Targets(advantages[better, :length], episode_weights(rows.action_mask))
    view, _ = learner._view(rows, targets)
    ours = learner.algorithm.loss(view).value
    assert ours.detach().abs() > 100 * TOLERANCE, ours
    gradients = []
    for loss, model in ((ours, learner.policy.module), (theirs, trainer.model)):
        model.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
    distance = float((gradients[0] - gradients[1]).norm() / gradients[1].norm())
    return max(float((ours - theirs).detach().abs()), distance)


def _memory_apart(
    side: str, name: str, trajectories: Sequence[Trajectory], options: argparse.Namespace
) -> dict[str, float]:
    """Return the memory that one side's update of the same rows needs, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "episodes.json")
        rows = [asdict(replace(each, outcome={})) for each in trajectories]
        file.write_text(json.dumps(rows, default=float), encoding="utf-8")
        arguments = [*sys.argv[1:], "--policies", name, "--memory-of", side, "--episodes", file]
        command = [sys.executable, __file__, *map(str, arguments)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _memory(options: argparse.Namespace) -> dict[str, float]:
    """Return what this process needs at most, and how much of that came with the update."""
    rows = json.loads(options.episodes.read_text(encoding="utf-8"))
    episodes = [Trajectory(**row | {"turns": [Turn(**t) for t in row["turns"]]}) for row in rows]
    update = _update_alone(options, episodes)
    before = resident_mb()
    update()
    return {
        "peak": round(peak_mb()),
        "of_it_for_the_update": round(peak_mb() - before),
    }


def _update_alone(
    options: argparse.Namespace, episodes: Sequence[Trajectory]
) -> Callable[[], object]:
    """Return what makes one update of one side."""
    (name,) = options.policies
    if options.memory_of == "ours":
        config = TrainerConfig(num_minibatches=options.num_minibatches)
        learner = Learner(CausalLMPolicy.load(name), OURS["ours"], config)
        return lambda: learner.update(episodes, 0)
    tokenizer = TransformersLM.from_pretrained(model_folder(name)).tokenizer
    rows = [_episode(each) for each in episodes]
    trainer = make_trl_trainer(_trl_settings(name, options), tokenizer, lambda _: rows)
    return lambda: trainer.train()


def _median(took: Sequence[Took]) -> dict[str, float]:
    rows = [asdict(each) for each in took]
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def _shares(took: Sequence[Took], num_parameters: int, peak: float) -> dict[str, float]:
    """Return the shares of the machine's arithmetic that our sampling and learning reach.

    Reading a token is two operations a parameter; its gradient four more, and the reference two.
    """
    sampling = statistics.median(2 * num_parameters * t.tokens / t.policy for t in took)
    learning = statistics.median(8 * num_parameters * t.tokens / t.update for t in took)
    return {"sampling": round(sampling / peak, 3), "learning": round(learning / peak, 3)}


def _lines(name: str, took: dict[str, list[Took]]) -> Any:
    """Yield a line a comparison."""
    # The slower of the two loops was left after its first rounds.
    loop = max((side for side in took if side.startswith("loop")), key=lambda side: len(took[side]))
    parts: dict[str, Callable[[Took], float]] = {
        "update": lambda t: t.total,
        "rollouts": lambda t: t.policy + t.engine,
        "policy": lambda t: t.policy,
        "simulator": lambda t: t.engine,
        "learning": lambda t: t.update,
    }
    yield f"policy {name}:"
    for side in OURS:
        for label, other in (("vs TRL", "trl"), (f"vs reference {loop}", loop)):
            ratios = {
                part: [get(b) / get(a) for a, b in zip(took[side], took[other], strict=True)]
                for part, get in parts.items()
                if other == "trl" or part != "learning"
            }
            whole = ratios.pop("update")
            rest = ", ".join(f"{part} {statistics.median(r):.2f}x" for part, r in ratios.items())
            yield (
                f"{label}: {statistics.median(whole):.2f}x "
                f"[{min(whole):.2f}, {max(whole):.2f}] ({side}; {rest})"
            )


if __name__ == "__main__":
    main()
