"""All algorithms in one experiment: the same start, engine, noise and number of episodes.

Its arms differ in how the policy learns from an update's episodes, and in nothing else.
"""

from __future__ import annotations

from typing import Final

from agents.experiments.claims import Claim
from agents.experiments.design import EXAM_NOISE, SMALL, Arm
from agents.experiments.experiment import Experiment
from agents.experiments.measures import (
    BM25_EXAM,
    LAST_SEARCHES,
    MEAN_REWARD,
    NOISY_EXAM,
    ROLLOUTS,
    SIMULATOR_EXAM,
    UNSTEADINESS,
)
from zs_env.search.curriculum import ExponentialCurriculum

EASY_TO_HARD: Final = ExponentialCurriculum(0.0, EXAM_NOISE)


def make_arm(name: str) -> Arm:
    """Return the arm of an algorithm as `make_algorithm` reads it.

    Raises:
        ValueError: If there is no such algorithm.
    """
    from agents.algorithms.registry import make_algorithm  # which loads torch

    make_algorithm(name)
    return Arm(name, SMALL, EASY_TO_HARD, "named on the command line", name)


_ALGORITHMS: Final = {
    "reinforce": ("reinforce", "REINFORCE with the batch's mean reward as baseline"),
    "reinforce-plain": ("reinforce?baseline=false", "REINFORCE without a baseline"),
    "reinforce-pp": ("reinforce-pp", "REINFORCE++"),
    "rloo": ("rloo", "RLOO: the baseline is the mean of the group's other episodes"),
    "grpo": ("grpo", "GRPO"),
    "dr-grpo": ("dr-grpo", "Dr. GRPO: no division by the group's deviation or by length"),
    "dapo": ("dapo?max_resamples=0", "DAPO without playing again for groups of equal rewards"),
    "dapo-resampled": ("dapo", "DAPO; the only arm that plays more episodes (see rollouts)"),
    "gspo": ("gspo", "GSPO: one ratio an episode"),
    "ppo": ("ppo", "PPO with a critic, GAE over action tokens, λ = 1"),
    "ppo-0.95": ("ppo?gae_lambda=0.95", "the same, λ = 0.95"),
    "ppo-0.5": ("ppo?gae_lambda=0.5", "the same, λ = 0.5"),
    "ppo-turn": ("ppo?axis=turn", "PPO, GAE over turns, λ = 1"),
    "ppo-bi-level": ("ppo?axis=bi-level", "PPO, GAE over turns, then over each turn's tokens"),
}

COMPARISON: Final = Experiment(
    name="algorithms",
    title="The algorithms compared",
    about="Tiny policies, trained to search MiniWiki with the small simulator, noise 0 to "
    f"{EXAM_NOISE}, easy to hard; every algorithm with its own defaults, and with as many episodes "
    "to learn from.",
    arms={
        name: Arm(name, SMALL, EASY_TO_HARD, about, algorithm)
        for name, (algorithm, about) in _ALGORITHMS.items()
    },
    default_arms=tuple(_ALGORITHMS),
    measures=(
        SIMULATOR_EXAM,
        BM25_EXAM,
        NOISY_EXAM,
        MEAN_REWARD,
        UNSTEADINESS,
        LAST_SEARCHES,
        ROLLOUTS,
    ),
    claims=(
        Claim("REINFORCE is steadier than GRPO", (("grpo", "reinforce"),), measure=UNSTEADINESS),
        Claim("A baseline helps REINFORCE", (("reinforce", "reinforce-plain"),)),
        Claim("A learned critic helps", (("ppo", "reinforce"), ("ppo", "grpo"))),
        Claim(
            "GRPO's successors beat it",
            tuple((name, "grpo") for name in ("dr-grpo", "dapo", "gspo", "rloo", "reinforce-pp")),
            needs_all=False,
        ),
        Claim("PPO wants λ = 1", (("ppo", "ppo-0.95"), ("ppo", "ppo-0.5"))),
        Claim(
            "PPO learns better along turns than along tokens",
            (("ppo-turn", "ppo"), ("ppo-bi-level", "ppo")),
            needs_all=False,
        ),
        Claim("GRPO learns earlier than PPO", (("grpo", "ppo"),), measure=MEAN_REWARD),
    ),
    remarks=(
        "Hyper-parameters were not tuned for any of the algorithms: the learning rate and the "
        "number of mini-batches are the same for all of them.",
    ),
    make_arm=make_arm,
)
