"""PPO: proximal policy optimisation with a learned critic (arXiv 1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from agents.algorithms.advantages import whiten
from agents.algorithms.algorithm import CriticTargets, Loss, Need, Targets, TokenView
from agents.algorithms.checks import check_choice, check_not_negative, check_share
from agents.algorithms.gae import Decay, Estimate, bi_level_gae, token_gae, turn_gae
from agents.algorithms.losses import KLEstimator, clipped_surrogate, value_losses
from agents.algorithms.penalised import Penalised
from agents.algorithms.weights import token_weights
from agents.batch import Batch

Axis = Literal["token", "turn", "bi-level"]


@dataclass(frozen=True, kw_only=True)
class PPO(Penalised):
    """Compare each step with what a critic expected.

    Attributes:
        clip_range: Distance from 1 beyond which a probability ratio earns nothing more.
        value_clip_range: The same for a value's distance from its old one; 0 for no clipping.
        axis: What a step is: a token, a turn, or turns first and then tokens inside each turn.
        gamma: What a reward is worth one step earlier; of bi-level, one turn.
        gae_lambda: 0 trusts the critic's next value, 1 only what was earned; of bi-level, by turns.
        token_gamma: What a reward is worth one token earlier inside a turn; bi-level only.
        token_lambda: As `gae_lambda`, by tokens inside a turn; bi-level only.
        whiten_advantages: Whether advantages get mean 0 and deviation 1 over the action tokens.
    """

    clip_range: float = 0.2
    value_clip_range: float = 0.0
    kl_coef: float = 0.005
    kl_in_reward: bool = True
    kl_estimator: KLEstimator = "k1"
    num_epochs: int = 2
    axis: Axis = "token"
    gamma: float = 1.0
    gae_lambda: float = 1.0
    token_gamma: float = 1.0
    token_lambda: float = 1.0
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(clip_range=self.clip_range, value_clip_range=self.value_clip_range)
        check_choice("axis", self.axis, get_args(Axis))
        check_share(gamma=self.gamma, gae_lambda=self.gae_lambda)
        check_share(token_gamma=self.token_gamma, token_lambda=self.token_lambda)

    @property
    def needs(self) -> frozenset[Need]:
        """The critic, and the reference if there is a penalty."""
        return super().needs | {"critic"}

    def targets(self, batch: Batch) -> Targets:
        """Return advantages and returns; every token has the same say, and every step."""
        mask = batch.action_mask
        estimate = self._estimate(batch)
        advantages = estimate.advantages
        if self.whiten_advantages:
            advantages = whiten(advantages, mask)
        critic = CriticTargets(estimate.returns, token_weights(estimate.steps))
        return Targets(advantages, token_weights(mask), critic)

    def _estimate(self, batch: Batch) -> Estimate:
        assert batch.values is not None
        rewards, values = batch.token_rewards, batch.values
        decay = Decay(self.gamma, self.gae_lambda)
        if self.axis == "token":
            return token_gae(rewards, values, batch.action_mask, decay)
        if (batch.turn_ids[batch.action_mask] < 0).any():
            raise ValueError(f"`turns` must cover every action token if `axis` is {self.axis!r}")
        if self.axis == "turn":
            return turn_gae(rewards, values, batch.turn_ids, decay)
        inside = Decay(self.token_gamma, self.token_lambda)
        return bi_level_gae(rewards, values, batch.turn_ids, decay, inside)

    def loss(self, view: TokenView) -> Loss:
        """Return the clipped surrogate, the KL penalty and the critic's loss."""
        log_ratio = view.logprobs - view.old_logprobs
        loss = self.total(view, *clipped_surrogate(log_ratio, view.advantages, self.clip_range))
        critic = view.critic
        assert critic is not None
        errors = value_losses(
            critic.values, critic.old_values, critic.returns, self.value_clip_range
        )
        value_loss = (errors * critic.weights).sum()
        statistics = {**loss.statistics, "value_loss": value_loss.detach()}
        return Loss(loss.value + value_loss, statistics)
