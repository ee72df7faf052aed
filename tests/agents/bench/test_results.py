"""The tables of a benchmark, held against what is counted by hand and by simulation."""

import numpy as np
import pytest

from agents.bench.plan import Chunk
from agents.bench.play import failed_rows
from agents.bench.results import summarise
from agents.bench.rows import Condition, EpisodeRow, TurnRow
from agents.evaluate import wilson_interval
from agents.experiments.statistics import holm
from zs_env.task.questions import Question

ENV = "ZeroSearch-v0"
SIMULATOR, REAL = "simulator", "bm25"


def make_row(agent, right, question="0", *, engine=REAL, noise=0.0, seed=0, **values):
    turn = TurnRow("<answer>x</answer>", "answer", "", False, "")
    defaults = {
        "data_source": "s",
        "num_hops": 1,
        "question": f"Who is {question}?",
        "golden_answers": ("x",),
        "answer": "x",
        "f1": float(right),
        "sub_exact_match": float(right),
        "reward": float(right),
        "searches": 1,
        "turns": (turn, turn),
        "invalid": 0,
        "tokens": 7,
        "seconds": 0.5,
        "stop_reason": "answered",
    }
    return EpisodeRow(
        condition=Condition(agent, ENV, engine, noise, seed),
        question_id=str(question),
        exact_match=float(right),
        **(defaults | values),
    )


def rows_of(agent, outcomes, **values):
    return [make_row(agent, right, index, **values) for index, right in enumerate(outcomes)]


def test_rows_go_through_json_and_back():
    row = make_row("a", 1, num_hops=None)
    assert EpisodeRow.from_json(row.to_json()) == row


def test_condition_has_every_number_with_its_interval():
    rows = rows_of("a", [1, 0, 1, 1], searches=2)
    [condition] = summarise(rows)["conditions"]
    assert {condition[name] for name in ("agent", "environment", "engine")} == {"a", ENV, REAL}
    assert (condition["noise"], condition["num_episodes"], condition["num_failed"]) == (0, 4, 0)
    low, high = wilson_interval(3, 4)
    assert condition["metrics"]["exact_match"] == {"mean": 0.75, "low": low, "high": high}
    assert condition["metrics"]["searches"] == {"mean": 2, "low": 2, "high": 2}
    assert condition["metrics"]["turns"]["mean"] == 2
    assert set(condition["metrics"]) == {
        *("exact_match", "f1", "sub_exact_match", "searches", "tokens", "turns"),
        *("invalid", "seconds"),
    }


def test_parts_of_a_condition_are_told_by_source_and_by_hops():
    rows = rows_of("a", [1, 0], data_source="one", num_hops=2)
    rows += rows_of("a", [1, 1, 0], data_source="two", num_hops=None)
    [condition] = summarise(rows)["conditions"]
    assert {name: part["num_episodes"] for name, part in condition["by_source"].items()} == {
        "one": 2,
        "two": 3,
    }
    assert condition["by_source"]["two"]["exact_match"]["mean"] == pytest.approx(2 / 3)
    assert condition["by_hops"]["2"]["exact_match"]["mean"] == 0.5
    assert condition["by_hops"]["?"]["num_episodes"] == 3


def test_order_of_rows_does_not_matter_but_for_that_of_places():
    rows = rows_of("a", [1, 0, 1], data_source="one") + rows_of("a", [0, 1], data_source="two")
    shuffled = [rows[i] for i in (0, 3, 1, 4, 2)]
    assert summarise(shuffled) == summarise(rows)


def test_failures_are_wrong_answers_and_counted():
    condition = Condition("a", ENV, REAL, 0.0, 0)
    failed = failed_rows(Chunk(condition, (Question("1", "Who is 1?", ("x",), "s", 1),)), "broke")
    [found] = summarise([make_row("a", 1), *failed])["conditions"]
    assert (found["num_failed"], found["metrics"]["exact_match"]["mean"]) == (1, 0.5)
    # What a failed episode took is not known.
    expected = {"tokens": 7, "searches": 1, "turns": 2, "seconds": 0.5, "invalid": 0, "f1": 0.5}
    assert {name: found["metrics"][name]["mean"] for name in expected} == expected
    [found] = summarise(failed)["conditions"]
    assert [name for name, value in found["metrics"].items() if value is None] == [
        *("searches", "tokens", "turns", "invalid", "seconds"),
    ]


def test_one_episode_has_the_widest_interval_there_is():
    found = summarise([make_row("a", 1), make_row("b", 0)])
    low, high = wilson_interval(1, 1)
    assert found["conditions"][0]["metrics"]["exact_match"] == {"mean": 1, "low": low, "high": high}
    [pair] = found["comparisons"]
    assert (pair["difference"], pair["p_value"], pair["p_mid"]) == (1, 1, 0.5)
    assert found["aggregates"][0]["iqm"]["mean"] == 1


def test_tokens_that_nobody_counted_are_null():
    [found] = summarise(rows_of("a", [1, 0], tokens=None))["conditions"]
    assert found["metrics"]["tokens"] is None


def test_several_seeds_are_pooled_by_question():
    rows = [row for seed in (0, 1) for row in rows_of("a", [1, 0, 1, 0], seed=seed)]
    [found], [alone] = summarise(rows)["conditions"], summarise(rows[:4])["conditions"]
    assert found["num_episodes"] == 8
    interval, single = (each["metrics"]["exact_match"] for each in (found, alone))
    # The same answers twice say no more than once.
    assert interval["high"] - interval["low"] >= 0.8 * (single["high"] - single["low"])


def test_pairs_of_agents_are_compared_on_the_same_questions():
    rows = rows_of("a", [1] * 8 + [0] * 2) + rows_of("b", [0] * 8 + [1] * 2)
    rows += rows_of("c", [1] * 10)
    found = summarise(rows)["comparisons"]
    assert [(each["agent_a"], each["agent_b"]) for each in found] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    first = found[0]
    assert first["difference"] == pytest.approx(0.6)
    assert first["low"] < 0.6 < first["high"]
    assert first["p_value"] == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert first["p_mid"] < first["p_value"]
    assert (first["num_pairs"], first["test"]) == (10, "mcnemar-exact")
    assert [each["p_holm"] for each in found] == list(holm([each["p_value"] for each in found]))


def test_agents_are_not_compared_across_engines_or_noise():
    rows = rows_of("a", [1, 0]) + rows_of("b", [1, 0], engine=SIMULATOR)
    rows += rows_of("b", [1, 0], engine=SIMULATOR, noise=0.5)
    assert summarise(rows)["comparisons"] == []


def test_comparison_of_several_seeds_has_a_test_of_its_own():
    rows = [
        r for s in (0, 1) for r in rows_of("a", [1] * 6, seed=s) + rows_of("b", [0] * 6, seed=s)
    ]
    [found] = summarise(rows)["comparisons"]
    assert (found["test"], found["p_mid"]) == ("sign-flip-exact", None)
    assert found["p_value"] == pytest.approx(2 / 2**6)


def test_aggregates_are_over_tasks():
    """Four tasks: two sources with two engines."""
    rows = []
    for source, engine, outcomes in (
        ("one", REAL, [1, 1, 1, 1]),
        ("two", REAL, [0, 0]),
        ("one", SIMULATOR, [1, 1, 0, 0]),
        ("two", SIMULATOR, [1, 0]),
    ):
        rows += rows_of("a", outcomes, data_source=source, engine=engine)
    [found] = summarise(rows)["aggregates"]
    assert found["iqm"]["mean"] == 0.5  # of 0, 1/2, 1/2, 1
    assert found["mean"]["mean"] == 0.5
    profile = found["profile"]
    shares = dict(zip(profile["thresholds"], profile["share"], strict=True))
    assert (shares[0.0], shares[0.45], shares[0.5], shares[0.95]) == (0.75, 0.75, 0.25, 0.25)
    for low, share, high in zip(profile["low"], profile["share"], profile["high"], strict=True):
        assert low <= share <= high


def test_robustness_is_the_area_under_the_curve_of_engines_that_take_noise():
    rows = rows_of("a", [1, 1, 1, 0], engine=SIMULATOR, noise=0.0)
    rows += rows_of("a", [0, 0, 0, 0], engine=SIMULATOR, noise=1.0)
    rows += rows_of("a", [1, 0, 0, 0], engine=SIMULATOR, noise=0.5)
    rows += rows_of("a", [1, 0, 0, 0], engine=REAL)
    [found] = summarise(rows)["robustness"]
    assert (found["engine"], [p["noise"] for p in found["points"]]) == (SIMULATOR, [0, 0.5, 1])
    assert [point["mean"] for point in found["points"]] == [0.75, 0.25, 0.0]
    assert found["area"]["mean"] == pytest.approx((0.75 + 2 * 0.25) / 4)


def test_gap_is_simulator_less_real_engine_without_noise():
    rows = rows_of("a", [1, 1, 1, 0], engine=SIMULATOR)
    rows += rows_of("a", [0, 0, 0, 0], engine=SIMULATOR, noise=0.5)
    rows += rows_of("a", [1, 0, 0, 0], engine=REAL) + rows_of("a", [1] * 4, engine="world")
    [found] = summarise(rows)["sim_to_real"]
    assert (found["simulator"], found["real"]) == (SIMULATOR, REAL)
    assert found["gap"]["mean"] == 0.5


def test_incomplete_benchmarks_are_refused():
    with pytest.raises(ValueError, match=r"`rows` must hold every question of .*agent='b'"):
        summarise(rows_of("a", [1, 0]) + rows_of("b", [1]))
    twice = [make_row("a", 1), make_row("a", 0)]
    with pytest.raises(ValueError, match="once, got it twice"):
        summarise(twice)
    with pytest.raises(ValueError, match="`rows` must not be empty"):
        summarise([])


def test_same_rows_give_the_same_numbers():
    rows = rows_of("a", [1, 0, 1, 1, 0], f1=0.5)
    assert summarise(rows) == summarise(rows)
    assert summarise(rows, seed=1)["statistics"]["seed"] == 1


def test_intervals_of_whole_benchmarks_cover_nominally():
    """Simulated agents of known accuracy: each number's interval holds the truth 95 % of times."""
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        luck = rng.random(100)
        clean, noisy, real = (luck * 0.5 + rng.random(100) * 0.5 < cut for cut in (0.6, 0.4, 0.5))
        rows = rows_of("a", clean.astype(int), engine=SIMULATOR)
        rows += rows_of("a", noisy.astype(int), engine=SIMULATOR, noise=0.5)
        rows += rows_of("a", real.astype(int))
        found = summarise(rows, num=400)
        truths = 1 - 2 * 0.4**2, 2 * 0.4**2, 0.5
        intervals = [each["metrics"]["exact_match"] for each in found["conditions"]]
        intervals += [found["robustness"][0]["area"], found["sim_to_real"][0]["gap"]]
        intervals += [found["aggregates"][0]["mean"]]
        expected = [*truths, sum(truths[:2]) / 2, truths[0] - truths[2], sum(truths) / 3]
        held.append([i["low"] <= t <= i["high"] for i, t in zip(intervals, expected, strict=True)])
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
    assert np.mean(held, axis=0).min() > 0.91  # of each kind, with its Monte-Carlo error
