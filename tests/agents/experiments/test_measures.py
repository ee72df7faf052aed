import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.experiments.measures import MEASURES, measure_all

UNIT = st.floats(0, 1)


def rows(rewards: list[float]) -> list[dict[str, float]]:
    return [
        {"rollout/reward": reward, "rollout/searches": float(number)}
        for number, reward in enumerate(rewards)
    ]


def test_unsteadiness_looks_at_the_later_half_only() -> None:
    found = measure_all({}, rows([0.0, 1.0, 0.0, 0.5, 0.5, 0.6, 0.5]))
    assert found["unsteadiness"] == pytest.approx(0.2 / 3)


def test_searches_are_those_of_the_last_five_updates() -> None:
    assert measure_all({}, rows([0.0] * 8))["last_searches"] == 5.0


@pytest.mark.parametrize("rewards", [[], [0.5]])
def test_curve_of_fewer_than_two_updates_is_not_measured(rewards: list[float]) -> None:
    assert measure_all({"noisy": {"exact_match": 0.5}}, rows(rewards)) == {"noisy": 0.5}


@given(st.lists(UNIT, min_size=2, max_size=12))
def test_measures_stay_in_range_and_are_known(rewards: list[float]) -> None:
    found = measure_all({"bm25": {"exact_match": 1}}, rows(rewards))
    assert found.keys() <= MEASURES.keys()
    assert 0 <= found["unsteadiness"] <= 1
    assert min(rewards) - 1e-9 <= found["mean_reward"] <= max(rewards) + 1e-9
