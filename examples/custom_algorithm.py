"""Train with an algorithm of one's own: RAFT, imitation of the best (arXiv 2304.06767).

    python examples/custom_algorithm.py
    zerosearch train --engine world --algorithm "examples.custom_algorithm:Raft?min_reward=0.5"

Nothing has to be registered: an algorithm is a frozen dataclass, and its fields are the options
that the command line takes after `?`. An argument of this file is the number of updates.
"""

import sys
from dataclasses import dataclass

import gymnasium as gym
import torch

from agents.algorithms.algorithm import Algorithm, Loss, Targets, TokenView
from agents.batch import Batch
from agents.policies.causal_lm import CausalLMPolicy
from agents.trainer import Callback, Trainer


@dataclass(frozen=True)
class Raft(Algorithm):
    """Play each question several times, and make what the best episodes did likelier.

    Attributes:
        min_reward: Episodes are imitated only if their reward is above this.
        num_epochs: Passes over each batch.
    """

    min_reward: float = 0.0
    num_epochs: int = 1

    def targets(self, batch: Batch) -> Targets:
        """Return advantage 1 for the best episodes of each group, and the same say for a token."""
        none = torch.full_like(batch.rewards, -torch.inf)
        best = none.scatter_reduce(0, batch.groups, batch.rewards, "amax")[batch.groups]
        chosen = (batch.rewards == best) & (batch.rewards > self.min_reward)
        mask = (batch.action_mask & chosen[:, None]).float()
        return Targets(advantages=mask, weights=mask / mask.sum().clamp(min=1))

    def loss(self, view: TokenView) -> Loss:
        """Return the negative log-likelihood of what was chosen."""
        value = -(view.advantages * view.logprobs * view.weights).sum()
        return Loss(value, {"loss": value.detach()})


class PrintF1(Callback):
    """Prints a line an update."""

    def on_update_end(self, trainer, rollout, metrics):
        """Say how good the answers were, and how many episodes were imitated."""
        chosen = f"{metrics['train/useful_share']:.0%} of the episodes imitated"
        print(f"update {trainer.num_updates_done}: F1 {metrics['rollout/f1']:.3f}, {chosen}")


def main(num_updates: int) -> None:
    """Train the shipped start policy."""
    env = gym.make_vec(
        "envs_registry:ZeroSearch-v0",
        num_envs=64,
        group_size=8,
        engine="world",
        autoreset_mode="Disabled",
    )
    Trainer(CausalLMPolicy.load("base"), env, Raft()).learn(num_updates, [PrintF1()])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
