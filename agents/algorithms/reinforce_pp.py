"""REINFORCE++ (arXiv 2501.03262): PPO's tricks without its critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agents.algorithms.advantages import group_advantages, whiten
from agents.algorithms.algorithm import Loss, Targets, TokenView
from agents.algorithms.checks import check_not_negative, check_share
from agents.algorithms.gae import Decay, gae
from agents.algorithms.losses import KLEstimator, clipped_surrogate
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import token_weights
from agents.batch import Batch


@dataclass(frozen=True, kw_only=True)
class REINFORCEpp(Penalised):
    """Whiten over the batch what each token was followed by, the KL penalty included.

    Attributes:
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        gamma: What a reward is worth one action token earlier.
        group_baseline: Whether the mean reward of the group is taken off before whitening.
    """

    clip_range: float = 0.2
    kl_coef: float = 0.005
    kl_in_reward: bool = True
    kl_estimator: KLEstimator = "k1"
    gamma: float = 1.0
    group_baseline: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(clip_range=self.clip_range)
        check_share(gamma=self.gamma)

    @property
    def compares_groups(self) -> bool:
        """Whether the mean of the group is the baseline."""
        return self.group_baseline

    def targets(self, batch: Batch) -> Targets:
        """Return whitened returns-to-go, and weights that give every token the same say."""
        mask = batch.action_mask
        # With no value and lambda = 1 an advantage is the sum of what follows.
        nothing = torch.zeros_like(batch.token_rewards)
        returns = gae(batch.token_rewards, nothing, mask, Decay(self.gamma))
        if self.group_baseline:
            above = group_advantages(batch.rewards, batch.groups, scale=False)
            returns = returns - (batch.rewards - above)[:, None]
        return Targets(whiten(returns, mask), token_weights(mask))

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate."""
        log_ratio = view.logprobs - view.old_logprobs
        return self.total(view, *clipped_surrogate(log_ratio, view.advantages, self.clip_range))
