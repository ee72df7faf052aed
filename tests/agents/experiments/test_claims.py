from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.experiments.claims import Claim, Verdict, judge
from agents.experiments.comparison import COMPARISON
from agents.experiments.measures import MEASURES
from agents.experiments.miniature import ARMS, MINIATURE
from agents.experiments.statistics import minimum_detectable

HOLDS, FAILS, OPEN = Verdict.HOLDS, Verdict.FAILS, Verdict.NOT_RESOLVED
NOISE = (0.004, -0.006, 0.002, -0.001, 0.005, -0.003, 0.001, -0.002)  # adds up to 0

ONE = Claim("a beats b", (("a", "b"),))
MATCHES = Claim("a matches b", (("a", "b"),), margin=0.02)
BOTH = Claim("a beats b and c", (("a", "b"), ("a", "c")))
EITHER = Claim("a or b matches c", (("a", "c"), ("b", "c")), margin=0.02, needs_all=False)


def scores(**means: float) -> dict[str, dict[int, float]]:
    """Return eight seeds an arm, spread a little differently in each."""
    return {
        name: {seed: mean + NOISE[(seed + shift) % 8] for seed in range(8)}
        for shift, (name, mean) in enumerate(means.items())
    }


@pytest.mark.parametrize(
    ("claim", "means", "verdict"),
    [
        (ONE, {"a": 0.85, "b": 0.80}, HOLDS),
        (ONE, {"a": 0.80, "b": 0.85}, FAILS),
        (ONE, {"a": 0.801, "b": 0.80}, OPEN),
        (MATCHES, {"a": 0.80, "b": 0.80}, HOLDS),
        (MATCHES, {"a": 0.79, "b": 0.80}, HOLDS),
        (MATCHES, {"a": 0.78, "b": 0.80}, OPEN),
        (MATCHES, {"a": 0.74, "b": 0.80}, FAILS),
        (BOTH, {"a": 0.85, "b": 0.80, "c": 0.75}, HOLDS),
        (BOTH, {"a": 0.85, "b": 0.80, "c": 0.85}, OPEN),
        (BOTH, {"a": 0.85, "b": 0.80, "c": 0.90}, FAILS),
        (EITHER, {"a": 0.70, "b": 0.80, "c": 0.80}, HOLDS),
        (EITHER, {"a": 0.70, "b": 0.78, "c": 0.80}, OPEN),
        (EITHER, {"a": 0.70, "b": 0.72, "c": 0.80}, FAILS),
    ],
)
def test_verdict(claim: Claim, means: dict[str, float], verdict: Verdict) -> None:
    assert judge(claim, scores(**means)).verdict is verdict


def test_difference_pairs_the_seeds_that_both_arms_have() -> None:
    [finding] = judge(ONE, {"a": {0: 0.5, 1: 0.7, 9: 0.0}, "b": {1: 0.6, 0: 0.2, 3: 1.0}}).findings
    assert finding.difference is not None
    assert finding.difference.num == 2
    assert finding.difference.value == pytest.approx(0.2)


def test_pairing_finds_what_the_spread_between_seeds_would_hide() -> None:
    easy = {seed: 0.2 + 0.1 * seed for seed in range(8)}
    better = {seed: score + 0.02 + NOISE[seed] / 4 for seed, score in easy.items()}
    assert judge(ONE, {"a": better, "b": easy}).verdict is HOLDS


@pytest.mark.parametrize("found", [{}, {"a": {0: 0.9}, "b": {0: 0.1}}, {"a": {0: 0.9}}])
def test_fewer_than_two_common_seeds_resolve_nothing(found: dict[str, dict[int, float]]) -> None:
    judgement = judge(ONE, found)
    assert judgement.verdict is OPEN
    assert judgement.findings[0].detectable is None


@pytest.mark.parametrize(("num_seeds", "verdict"), [(2, OPEN), (3, OPEN), (5, OPEN), (6, HOLDS)])
def test_few_equal_differences_resolve_nothing(num_seeds: int, verdict: Verdict) -> None:
    easy = {seed: 0.2 + 0.1 * seed for seed in range(num_seeds)}
    [finding] = judge(
        ONE, {"a": {seed: score + 0.02 for seed, score in easy.items()}, "b": easy}
    ).findings
    assert finding.p == 2.0 ** (1 - num_seeds)
    assert finding.verdict is verdict
    assert finding.detectable is finding.detectable_corrected is None


def test_missing_arm_leaves_a_claim_about_all_pairs_open() -> None:
    judgement = judge(BOTH, scores(a=0.85, b=0.80))
    assert [finding.verdict for finding in judgement.findings] == [HOLDS, OPEN]
    assert judgement.verdict is OPEN


def test_more_comparisons_ask_for_more_evidence() -> None:
    found = {"a": {0: 0.60, 1: 0.62, 2: 0.61}, "b": {0: 0.55, 1: 0.59, 2: 0.55}, "c": {0: 0.5}}
    alone, together = judge(ONE, found).findings[0], judge(BOTH, found).findings[0]
    assert (alone.verdict, together.verdict) == (HOLDS, OPEN)
    assert together.p == pytest.approx(2 * alone.p)
    assert alone.detectable == alone.detectable_corrected == together.detectable
    assert together.detectable_corrected > together.detectable


def test_detectable_difference_comes_from_the_spread_of_differences() -> None:
    found = scores(a=0.85, b=0.80)
    [finding] = judge(ONE, found).findings
    assert finding.difference is not None
    assert finding.detectable == minimum_detectable(finding.difference.sd, 8)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10), st.randoms())
def test_opposite_claims_have_opposite_verdicts(values: Sequence[float], rng) -> None:
    found = {"a": dict(enumerate(values)), "b": {i: rng.random() for i in range(len(values))}}
    opposite = {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}
    turned = Claim("b beats a", (("b", "a"),))
    assert judge(turned, found).verdict is opposite[judge(ONE, found).verdict]


def test_claims_compare_arms_of_the_default_experiment() -> None:
    named = {name for claim in MINIATURE.claims for pair in claim.pairs for name in pair}
    assert named == set(MINIATURE.default_arms) - {"untrained"}
    assert len(MINIATURE.claims) == 4


@pytest.mark.parametrize("experiment", [MINIATURE, COMPARISON], ids=lambda each: each.name)
def test_experiment_measures_what_it_claims(experiment) -> None:
    assert set(experiment.default_arms) <= set(experiment.arms)
    assert MEASURES[experiment.measures[0]].is_exam
    for claim in experiment.claims:
        assert {name for pair in claim.pairs for name in pair} <= set(experiment.arms)
        assert claim.measure in ("", *experiment.measures)


def test_claims_compare_arms_that_differ_in_one_thing_only() -> None:
    for claim in MINIATURE.claims:
        for better, worse in claim.pairs:
            first, second = ARMS[better], ARMS[worse]
            assert (first.engine == second.engine) != (first.curriculum == second.curriculum)
