"""The paper's experiment (arXiv 2505.04588) in miniature: can a simulator replace an engine?

Its arms differ in what answers queries while the policy learns, or in how noise rises.
"""

from __future__ import annotations

from typing import Final

from agents.experiments.claims import Claim
from agents.experiments.design import EXAM_NOISE, FORMAT_ONLY, MEDIUM, SMALL, TINY, Arm
from agents.experiments.experiment import Experiment
from agents.experiments.measures import BM25_EXAM, NOISY_EXAM
from zs_env.search.curriculum import ConstantCurriculum, ExponentialCurriculum, ReversedCurriculum

EASY_TO_HARD: Final = ExponentialCurriculum(0.0, EXAM_NOISE)

MARGIN: Final = 0.02
"""Exact match by which a simulator may be worse than the real engine and still match it."""

ARMS: Final = {
    arm.name: arm
    for arm in (
        Arm("tiny", TINY, EASY_TO_HARD, "the tiny simulator, noise 0 to 0.5, easy to hard"),
        Arm("small", SMALL, EASY_TO_HARD, "the small simulator, noise 0 to 0.5, easy to hard"),
        Arm("medium", MEDIUM, EASY_TO_HARD, "the medium simulator, noise 0 to 0.5, easy to hard"),
        Arm(
            "format-only",
            FORMAT_ONLY,
            EASY_TO_HARD,
            "a simulator of the small size that knows the format but not the world, noise 0 "
            "to 0.5, easy to hard; it stands for the paper's prompted simulator",
        ),
        Arm("real", "bm25", EASY_TO_HARD, "the real engine, BM25, which has no noise to give"),
        Arm(
            "hard-to-easy",
            SMALL,
            ReversedCurriculum(EASY_TO_HARD),
            "the small simulator, the same noise backwards",
        ),
        Arm("constant", SMALL, ConstantCurriculum(0.25), "the small simulator, noise 0.25"),
        Arm("no-noise", SMALL, ConstantCurriculum(0.0), "the small simulator without noise"),
        Arm("untrained", "", ConstantCurriculum(0.0), "the start policy, for comparison"),
        Arm(
            "constant-matched",
            SMALL,
            ConstantCurriculum(0.198),
            "the small simulator, constant noise of the same mean as easy to hard",
        ),
        Arm("exact", "world", EASY_TO_HARD, "a simulator without mistakes, easy to hard"),
    )
}
"""Every arm by name."""

_CLAIMS: Final = (
    Claim(
        "A bigger simulator makes a better policy",
        (("small", "tiny"), ("medium", "small"), ("medium", "tiny")),
    ),
    Claim(
        "A tuned simulator beats one that knows the format only",
        (("small", "format-only"),),
    ),
    Claim(
        "The best simulator matches or beats training with the real engine",
        (("tiny", "real"), ("small", "real"), ("medium", "real")),
        margin=MARGIN,
        needs_all=False,
    ),
    Claim(
        "Easy to hard beats the other schedules",
        (("small", "hard-to-easy"), ("small", "constant"), ("small", "no-noise")),
    ),
)

MINIATURE: Final = Experiment(
    name="miniature",
    title="The paper's experiment in miniature",
    about="Tiny policies, trained to search MiniWiki with simulators of several sizes and with the "
    "real engine, all examined with the real engine (BM25).",
    arms=ARMS,
    default_arms=tuple(name for name in ARMS if name not in ("constant-matched", "exact")),
    measures=(BM25_EXAM, NOISY_EXAM),
    claims=_CLAIMS,
    remarks=(
        f"The third claim is about matching: it is tested against a difference of −{MARGIN} (worse "
        "by more than that fails), holds if one simulator holds, and fails if all fail; which "
        "simulator is best is left open, as the correction allows, rather than picked by its "
        f"score. Its MDD counts from −{MARGIN}. The shipped simulators differ in how they were "
        "trained too: see their cards.",
        "Constant noise of 0.25 is the mean of a straight line from 0 to 0.5; the exponential "
        "schedule, which rises late, has a lower mean (see the table), and so does its reverse.",
    ),
)
