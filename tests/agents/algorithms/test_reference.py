"""Every algorithm beside a second implementation: plain loops over lists, in double precision.

It shares no code with the first, and follows the papers' sums: over groups, episodes, turns and
tokens. Random episodes have several turns, and groups of several sizes.
"""

import math
import random
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

import pytest
import torch

from agents.algorithms.dapo import DAPO
from agents.algorithms.dr_grpo import DrGRPO
from agents.algorithms.grpo import GRPO
from agents.algorithms.gspo import GSPO
from agents.algorithms.ppo import PPO
from agents.algorithms.reinforce import REINFORCE
from agents.algorithms.reinforce_pp import REINFORCEpp
from agents.algorithms.rloo import RLOO

EPSILON = 1e-6


@dataclass
class Token:
    new: float
    old: float
    ref: float
    value: float
    reward: float = 0.0
    advantage: float = 0.0
    target: float | None = None


@dataclass
class Played:
    group: int
    turns: list[list[Token]]
    rewards: list[float]
    truncated: bool = False

    @property
    def tokens(self):
        return [token for turn in self.turns for token in turn]

    @property
    def total(self):
        return sum(token.reward for token in self.tokens)


def kl(policy, ref, estimator):
    d = policy - ref
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) + d - 1}[estimator]


def pay(episodes, algorithm):
    """Put rewards at the last token of each turn, and take the penalties off."""
    for episode in episodes:
        for turn, reward in zip(episode.turns, episode.rewards, strict=True):
            turn[-1].reward = reward
        for token in episode.tokens:
            if algorithm.kl_in_reward:
                token.reward -= algorithm.kl_coef * kl(token.old, token.ref, algorithm.kl_estimator)


def surrogate(ratio, advantage, low, high):
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def penalty(token, algorithm):
    if algorithm.kl_in_reward or algorithm.kl_coef == 0:
        return 0.0
    return algorithm.kl_coef * kl(token.new, token.ref, algorithm.kl_estimator)


def token_loss(token, algorithm, high=None):
    ratio = math.exp(token.new - token.old)
    high = algorithm.clip_range if high is None else high
    clipped = surrogate(ratio, token.advantage, algorithm.clip_range, high)
    return clipped + penalty(token, algorithm)


def compare_groups(episodes, scale):
    for episode in episodes:
        others = [each.total for each in episodes if each.group == episode.group]
        advantage = episode.total - fmean(others)
        if scale:
            advantage /= pstdev(others) + EPSILON
        for token in episode.tokens:
            token.advantage = advantage


def grpo(episodes, algorithm):
    compare_groups(episodes, algorithm.scale_rewards)
    return fmean(fmean(token_loss(t, algorithm) for t in e.tokens) for e in episodes)


def dr_grpo(episodes, algorithm):
    compare_groups(episodes, scale=False)
    losses = sum(token_loss(t, algorithm) for e in episodes for t in e.tokens)
    return losses / len(episodes) / algorithm.token_budget


def dapo(episodes, algorithm):
    for episode in episodes:
        over = len(episode.tokens) - (algorithm.max_tokens - algorithm.soft_tokens)
        if algorithm.max_tokens and over > 0:
            episode.tokens[-1].reward -= min(1.0, over / algorithm.soft_tokens)
    compare_groups(episodes, scale=True)
    taught = [e for e in episodes if not (algorithm.skip_truncated and e.truncated)]
    return fmean(
        token_loss(t, algorithm, algorithm.clip_range_high) for e in taught for t in e.tokens
    )


def gspo(episodes, algorithm):
    compare_groups(episodes, scale=True)
    losses = []
    for e in episodes:
        ratio = math.exp(fmean(t.new - t.old for t in e.tokens))
        advantage = e.tokens[0].advantage
        kept = surrogate(ratio, advantage, algorithm.clip_range, algorithm.clip_range_high)
        losses.append(kept + fmean(penalty(t, algorithm) for t in e.tokens))
    return fmean(losses)


def rloo(episodes, algorithm):
    losses = []
    for i, e in enumerate(episodes):
        others = [x.total for j, x in enumerate(episodes) if j != i and x.group == e.group]
        advantage = e.total - fmean(others) if others else 0.0
        ratio = math.exp(sum(t.new - t.old for t in e.tokens))
        losses.append(surrogate(ratio, advantage, algorithm.clip_range, algorithm.clip_range))
    return fmean(losses)


def reinforce(episodes, algorithm):
    baseline = fmean(e.total for e in episodes) if algorithm.baseline else 0.0
    return fmean(
        -t.new * (e.total - baseline) + penalty(t, algorithm) for e in episodes for t in e.tokens
    )


def whiten(episodes):
    advantages = [t.advantage for e in episodes for t in e.tokens]
    mean, deviation = fmean(advantages), pstdev(advantages)
    for episode in episodes:
        for token in episode.tokens:
            token.advantage = (token.advantage - mean) / (deviation + EPSILON)


def reinforce_pp(episodes, algorithm):
    for e in episodes:
        group = fmean(x.total for x in episodes if x.group == e.group)
        for i, token in enumerate(e.tokens):
            following = (t.reward * algorithm.gamma**j for j, t in enumerate(e.tokens[i:]))
            token.advantage = sum(following) - (group if algorithm.group_baseline else 0.0)
    whiten(episodes)
    return fmean(token_loss(t, algorithm) for e in episodes for t in e.tokens)


def estimate(steps, gamma, lam):
    """Return advantages of (reward, value) steps as the sum of discounted errors."""
    values = [value for _, value in steps] + [0.0]
    errors = [r + gamma * values[i + 1] - v for i, (r, v) in enumerate(steps)]
    return [
        sum((gamma * lam) ** (j - i) * errors[j] for j in range(i, len(steps)))
        for i in range(len(steps))
    ]


def ppo(episodes, algorithm):
    for e in episodes:
        {"token": by_token, "turn": by_turn, "bi-level": by_both}[algorithm.axis](e, algorithm)
    asked = [t for e in episodes for t in e.tokens if t.target is not None]
    value_loss = fmean((t.value - t.target) ** 2 / 2 for t in asked)
    if algorithm.whiten_advantages:
        whiten(episodes)
    return fmean(token_loss(t, algorithm) for e in episodes for t in e.tokens) + value_loss


def by_token(episode, algorithm):
    steps = [(t.reward, t.value) for t in episode.tokens]
    found = estimate(steps, algorithm.gamma, algorithm.gae_lambda)
    for token, advantage in zip(episode.tokens, found, strict=True):
        token.advantage, token.target = advantage, advantage + token.value


def turn_advantages(episode, algorithm):
    steps = [(sum(t.reward for t in turn), turn[0].value) for turn in episode.turns]
    return steps, estimate(steps, algorithm.gamma, algorithm.gae_lambda)


def by_turn(episode, algorithm):
    _, found = turn_advantages(episode, algorithm)
    for turn, advantage in zip(episode.turns, found, strict=True):
        for token in turn:
            token.advantage = advantage
        turn[0].target = advantage + turn[0].value


def by_both(episode, algorithm):
    steps, found = turn_advantages(episode, algorithm)
    for turn, (earned, value), advantage in zip(episode.turns, steps, found, strict=True):
        inside = [(t.reward, t.value) for t in turn]
        following = advantage + value - earned
        inside[-1] = (inside[-1][0] + following, inside[-1][1])
        advantages = estimate(inside, algorithm.token_gamma, algorithm.token_lambda)
        for token, inner in zip(turn, advantages, strict=True):
            token.advantage, token.target = inner, inner + token.value


def draw(seed, sizes=(4, 3, 1)):
    """Return random episodes of some groups."""
    rng = random.Random(seed)
    episodes = []
    for group, size in enumerate(sizes):
        for _ in range(size):
            lengths = [rng.randint(1, 4) for _ in range(rng.randint(1, 3))]
            turns = [[_token(rng) for _ in range(length)] for length in lengths]
            rewards = [rng.choice([0.0, 0.5, 1.0, -0.25]) for _ in turns]
            episodes.append(Played(group, turns, rewards, rng.random() < 0.3))
    return episodes


def _token(rng):
    old = -3 * rng.random() - 0.1
    return Token(old + rng.gauss(0, 0.3), old, old + rng.gauss(0, 0.5), rng.gauss(0, 1))


def ours(episodes, algorithm, episode, look, stack):
    """Return the loss by the package, from its batch to its sum."""
    rng = random.Random(5)
    made = [
        episode(
            *[(rng.randint(1, 3), len(turn)) for turn in e.turns],
            rewards=e.rewards,
            group=e.group,
            logprobs=[t.old for t in e.tokens],
            truncated=e.truncated,
        )
        for e in episodes
    ]
    batch = stack(*made)

    def spread(name):
        tokens = torch.zeros_like(batch.logprobs)
        tokens[batch.action_mask] = torch.tensor(
            [getattr(t, name) for e in episodes for t in e.tokens]
        )
        return tokens

    batch = replace(batch, values=spread("value"), reference_logprobs=spread("ref"))
    targets = algorithm.targets(algorithm.shape_rewards(batch))
    reference = spread("ref") if "reference_in_loss" in algorithm.needs else None
    return algorithm.loss(look(batch, targets, spread("new"), reference)).value


CASES = [
    (grpo, GRPO(kl_coef=0.3)),
    (grpo, GRPO(kl_coef=0.3, kl_estimator="k2", scale_rewards=False)),
    (grpo, GRPO(kl_coef=0.3, kl_in_reward=True, kl_estimator="k3")),
    (grpo, GRPO(kl_coef=0.3, kl_in_reward=True, kl_estimator="k1")),
    (dr_grpo, DrGRPO(token_budget=7)),
    (dr_grpo, DrGRPO(kl_coef=0.2, clip_range=0.1)),
    (dapo, DAPO()),
    (dapo, DAPO(max_tokens=6, soft_tokens=4, clip_range_high=0.5)),
    (dapo, DAPO(skip_truncated=True, kl_coef=0.1)),
    (gspo, GSPO()),
    (gspo, GSPO(clip_range=0.1, clip_range_high=0.2, kl_coef=0.3)),
    (rloo, RLOO(kl_coef=0.3)),
    (rloo, RLOO(kl_coef=0.0)),
    (reinforce, REINFORCE(kl_coef=0.3)),
    (reinforce, REINFORCE(baseline=False, kl_coef=0.3, kl_in_reward=True, kl_estimator="k2")),
    (reinforce_pp, REINFORCEpp(kl_coef=0.3)),
    (reinforce_pp, REINFORCEpp(gamma=0.9, group_baseline=True)),
    (ppo, PPO(kl_coef=0.3)),
    (ppo, PPO(gamma=0.9, gae_lambda=0.8, whiten_advantages=False)),
    (ppo, PPO(axis="turn", gamma=0.9, gae_lambda=0.8, whiten_advantages=False)),
    (ppo, PPO(axis="turn", kl_coef=0.3)),
    (ppo, PPO(axis="bi-level", kl_coef=0.3, gamma=0.9, gae_lambda=0.8)),
    (
        ppo,
        PPO(
            axis="bi-level",
            gamma=0.9,
            gae_lambda=0.8,
            token_gamma=0.95,
            token_lambda=0.7,
            whiten_advantages=False,
        ),
    ),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("reference", "algorithm"), CASES, ids=[str(algorithm) for _, algorithm in CASES]
)
def test_loss_is_that_of_the_second_implementation(
    reference, algorithm, seed, episode, look, stack
):
    episodes = draw(seed)
    found = float(ours(episodes, algorithm, episode, look, stack))
    pay(episodes, algorithm)
    assert found == pytest.approx(reference(episodes, algorithm), abs=1e-5, rel=1e-5)
