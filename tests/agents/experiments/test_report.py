import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from agents.cli.experiment import show_report
from agents.experiments.comparison import COMPARISON
from agents.experiments.design import Protocol
from agents.experiments.experiment import Experiment, find_arms
from agents.experiments.measures import MEASURES
from agents.experiments.miniature import ARMS, MINIATURE
from agents.experiments.report import Report, as_json, markdown, plot, plot_curves, summarise
from agents.experiments.run_files import FinishedRun

CLAIMS, DEFAULT_ARMS = MINIATURE.claims, MINIATURE.default_arms

MEANS = {
    "tiny": 0.80,
    "small": 0.84,
    "medium": 0.88,
    "format-only": 0.5,
    "real": 0.85,
    "hard-to-easy": 0.84,
    "constant": 0.90,
    "no-noise": 0.83,
    "untrained": 0.3,
}


def finished(seeds: int) -> list[FinishedRun]:
    return [
        FinishedRun(
            name,
            seed,
            {"bm25": mean + 0.001 * ((seed * (i + 3)) % 7), "noisy": mean / 2},
            100.0 + seed,
        )
        for i, (name, mean) in enumerate(MEANS.items())
        for seed in range(seeds)
    ]


def report(seeds: int) -> Report:
    return summarise(MINIATURE, Protocol(), find_arms(MINIATURE, DEFAULT_ARMS), finished(seeds))


def test_page_says_plainly_what_became_of_every_claim() -> None:
    page = markdown(report(8), "zerosearch miniature", "miniature.png")
    for number, verdict in enumerate(("holds", "holds", "holds", "fails"), 1):
        assert f"{number}. **{CLAIMS[number - 1].title}: {verdict}.**" in page


def test_page_states_detectable_differences_and_the_mean_noise_of_arms() -> None:
    page = markdown(report(8), "zerosearch miniature", "miniature.png")
    [row] = [line for line in page.splitlines() if line.startswith("| constant | 0.25")]
    assert row.startswith("| constant | 0.25 | 8 | 0.90")
    assert "| MDD |" in page
    assert "minimum detectable difference" in page
    assert "![Each arm, a dot a seed](miniature.png)" in page


@pytest.mark.parametrize("experiment", [MINIATURE, COMPARISON], ids=lambda each: each.name)
def test_terminal_of_80_columns_shows_every_cell_whole(experiment: Experiment) -> None:
    arms = find_arms(experiment, experiment.default_arms)
    scores = dict.fromkeys(MEASURES, 0.25)
    runs = [FinishedRun(arm.name, seed, scores, 100.0) for arm in arms for seed in range(3)]
    file = io.StringIO()
    show_report(summarise(experiment, Protocol(), arms, runs), Console(file=file, width=80))
    assert "…" not in file.getvalue()
    assert all(arm.name in file.getvalue() for arm in arms)
    assert file.getvalue().count("[0.25, 0.25]") >= len(arms)


def test_every_line_of_a_table_has_as_many_cells_as_its_head() -> None:
    page = markdown(report(2), "zerosearch miniature", "miniature.png")
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_report_of_few_runs_is_whole(seeds: int, tmp_path: Path) -> None:
    found = report(seeds)
    plot(found, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert markdown(found, "c", "f").count("not resolved") >= (len(CLAIMS) if seeds < 2 else 0)
    json.dumps(as_json(found), allow_nan=False)


def test_json_holds_arms_by_seed_and_claims() -> None:
    found = json.loads(json.dumps(as_json(report(3))))
    assert [arm["name"] for arm in found["arms"]] == list(DEFAULT_ARMS)
    small = found["arms"][1]
    assert small["measures"]["bm25"]["mean"]["num"] == 3
    assert list(small["measures"]["bm25"]["by_seed"]) == ["0", "1", "2"]
    assert [claim["claim"] for claim in found["claims"]] == [claim.title for claim in CLAIMS]
    assert found["claims"][2]["margin"] == 0.02
    comparison = found["claims"][1]["comparisons"][0]
    assert (comparison["better"], comparison["worse"]) == ("small", "format-only")
    assert comparison["verdict"] == "holds"


def test_noisy_exam_decides_no_verdict() -> None:
    runs = [
        FinishedRun(run.arm, run.seed, {**run.scores, "noisy": 0.0}, run.seconds)
        for run in finished(8)
    ]
    turned = summarise(MINIATURE, Protocol(), find_arms(MINIATURE, DEFAULT_ARMS), runs)
    assert turned.judgements == report(8).judgements


def test_typical_time_is_that_of_runs_with_training() -> None:
    runs = [
        FinishedRun("untrained", 0, {"bm25": 0.3, "noisy": 0.1}, 5.0),
        FinishedRun("real", 0, {"bm25": 0.9, "noisy": 0.5}, 100.0),
    ]
    arms = [ARMS["untrained"], ARMS["real"]]
    assert summarise(MINIATURE, Protocol(), arms, runs).run_seconds == 100.0
    assert summarise(MINIATURE, Protocol(), arms, runs[:1]).run_seconds is None


def compared(seeds: int, num_updates: int = 4) -> Report:
    arms = find_arms(COMPARISON, ["reinforce", "grpo", "ppo"])
    runs = [
        FinishedRun(
            arm.name,
            seed,
            {"simulator": 0.9, "unsteadiness": (0.02 + 0.001 * (seed % 3)) * (1 + number)},
            60.0,
            [
                {"rollout/reward": update / 9 + number / 9, "rollout/searches": 2.0 + seed}
                for update in range(num_updates)
            ],
        )
        for number, arm in enumerate(arms)
        for seed in range(seeds)
    ]
    return summarise(COMPARISON, Protocol(), arms, runs)


def test_claim_is_decided_by_its_own_measure() -> None:
    found = compared(5)
    steadier = found.judgements[0]
    assert steadier.verdict == "holds"
    assert steadier.findings[0].difference.value == pytest.approx(0.02, abs=0.002)
    assert as_json(found)["claims"][0]["measure"] == "unsteadiness"
    assert "REINFORCE is steadier than GRPO (by unsteadiness): holds" in markdown(found, "c", "f")


def test_curves_are_drawn_and_linked(tmp_path: Path) -> None:
    found = compared(2)
    plot_curves(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "(curves.png)" in markdown(found, "c", "f", "curves.png")
    assert "(curves.png)" not in markdown(found, "c", "f")


@pytest.mark.parametrize("num_updates", [1, 2, 3, 15])
def test_ticks_of_curves_are_whole_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_updates: int
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: drawn.append(figure))
    plot_curves(compared(2, num_updates), tmp_path / "curves.png")
    for panel in drawn[0].axes:
        low, high = panel.get_xlim()
        ticks = [tick for tick in panel.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_no_curves_without_training(tmp_path: Path) -> None:
    plot_curves(report(1), tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


OWN = "my_module:MyRloo"


def chosen(names: list[str], seeds: int = 4) -> Report:
    """Return a report on arms named by hand; each is 0.1 worse than the one before it."""
    arms = [
        COMPARISON.arms.get(name) or replace(COMPARISON.arms["rloo"], name=name) for name in names
    ]
    runs = [
        FinishedRun(name, seed, {"simulator": score, "noisy": score / 2, "unsteadiness": 0.1}, 60.0)
        for number, name in enumerate(names)
        for seed in range(seeds)
        for score in [0.9 - 0.1 * number + 0.001 * ((seed * (number + 3)) % 4)]
    ]
    return summarise(COMPARISON, Protocol(), arms, runs)


def shown(found: Report) -> str:
    file = io.StringIO()
    show_report(found, Console(file=file, width=80))
    return file.getvalue()


def test_claims_about_arms_that_are_not_compared_are_not_told() -> None:
    found = chosen(["reinforce", "grpo", OWN])
    told = ["REINFORCE is steadier than GRPO"]
    assert [each.claim.title for each in found.judgements] == told
    assert [each["claim"] for each in as_json(found)["claims"]] == told
    for text in (markdown(found, "c", "f"), shown(found)):
        assert told[0] in text
        assert not any(claim.title in text for claim in COMPARISON.claims[1:])


def test_arm_that_no_claim_is_about_is_compared_with_every_other() -> None:
    found = chosen(["reinforce", "grpo", OWN])
    others = as_json(found)["other_comparisons"]
    assert others["measure"] == "simulator"
    for other, comparison in zip(("reinforce", "grpo"), others["comparisons"], strict=True):
        assert (comparison["first"], comparison["second"]) == (OWN, other)
        assert comparison["verdict"] == "lower"
        assert comparison["difference"]["num"] == 4
    assert others["comparisons"][0]["difference"]["value"] == pytest.approx(-0.2, abs=0.01)
    noisy = as_json(found)["other_comparisons_by_noisy_exam"]
    assert noisy["comparisons"][0]["difference"]["value"] == pytest.approx(-0.1, abs=0.01)
    page = markdown(found, "c", "f")
    row = f"| {OWN} − reinforce | 4 | -0.2"
    assert row in page[page.index("## Other comparisons") : page.index("## How to read this")]
    assert "Other comparisons" in shown(found)
    assert "lower" in shown(found)


def test_other_comparisons_are_corrected_for_their_number() -> None:
    alone, two = chosen(["grpo", OWN]).others, chosen(["grpo", OWN, "rloo"]).others
    assert [(each.better, each.worse) for each in alone] == [(OWN, "grpo")]
    pairs = [(each.better, each.worse) for each in two]
    assert pairs == [(OWN, "grpo"), ("rloo", "grpo"), ("rloo", OWN)]
    [together] = [each for each in two if (each.better, each.worse) == (OWN, "grpo")]
    assert together.difference == alone[0].difference
    assert together.p > alone[0].p


@pytest.mark.parametrize("experiment", [MINIATURE, COMPARISON], ids=lambda each: each.name)
def test_default_arms_are_compared_by_claims_alone(experiment: Experiment) -> None:
    arms = find_arms(experiment, experiment.default_arms)
    found = summarise(experiment, Protocol(), arms, [])
    assert tuple(each.claim for each in found.judgements) == experiment.claims
    assert found.others == found.noisy_others == ()
    assert not any("other" in name for name in as_json(found))


def test_page_on_a_single_arm_speaks_of_no_claim() -> None:
    page = markdown(chosen([OWN]), "c", "f")
    assert "## What became" not in page
    assert "## Other" not in page
    assert "under noise" not in page


def test_terminal_of_80_columns_shows_long_names_whole() -> None:
    own = "a_course_of_autumn.assignments.group_17:MyRloo"
    text = shown(chosen(["reinforce-plain", "dapo-resampled", own]))
    assert "…" not in text
    assert own in "".join(line[:29].strip() for line in text.splitlines())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return a list to which every figure that is written is added."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    return figures


def test_figure_stays_where_exact_match_can_be(drawn: list[Figure], tmp_path: Path) -> None:
    arms = find_arms(COMPARISON, ["reinforce", "grpo", "ppo"])
    runs = [
        FinishedRun(arm.name, seed, dict.fromkeys(("simulator", "bm25", "noisy"), score), 60.0)
        for arm, scores in zip(arms, ((0.0, 0.25), (0.25, 0.75), (0.75, 1.0)), strict=True)
        for seed, score in enumerate(scores)
    ]
    found = summarise(COMPARISON, Protocol(), arms, runs)
    assert "[-2.677, 3.677]" in markdown(found, "c", "f")  # numbers are told as they are
    plot(found, tmp_path / "figure.png")
    for panel in drawn[0].axes:
        intervals = [list(line.get_xdata()) for line in panel.lines if len(line.get_xdata()) == 2]
        assert intervals[1] == [0.0, 1.0]
        assert all(0 <= end <= 1 for interval in intervals for end in interval)
        assert -0.1 < panel.get_xlim()[0] < panel.get_xlim()[1] < 1.1


def test_legend_says_once_what_each_curve_is(drawn: list[Figure], tmp_path: Path) -> None:
    plot_curves(compared(3), tmp_path / "curves.png")
    [legend] = drawn[0].legends
    grey, blue = "#BBBBBB", "#0072B2"
    entries = [
        (text.get_text(), line.get_color())
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    ]
    assert entries == [
        ("mean of all arms", grey),
        ("a seed", blue),
        ("mean of the arm's seeds", blue),
    ]
