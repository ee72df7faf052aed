"""What the miniature experiment found: as JSON values, as a page, as a figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.experiments.claims import CLAIMS, MARGIN, Finding, Judgement, judge
from agents.experiments.design import EXAM_NOISE, Arm, Protocol
from agents.experiments.run_files import BM25_EXAM, NOISY_EXAM, FinishedRun
from agents.experiments.statistics import ALPHA, POWER, Mean, mean_of

EXAMS = {BM25_EXAM: "real engine", NOISY_EXAM: f"simulator, noise {EXAM_NOISE}"}
COLOURS = {BM25_EXAM: "#0072B2", NOISY_EXAM: "#D55E00"}
_JITTER = 0.22  # seeds of one arm are spread over this much of a row, up and down


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What became of an arm.

    Attributes:
        arm: Which one.
        scores: Exact match by exam and seed; empty before its first run.
    """

    arm: Arm
    scores: Mapping[str, Mapping[int, float]]

    def mean(self, exam: str) -> Mean | None:
        """Return the mean over seeds; None before the first run."""
        values = tuple(self.scores.get(exam, {}).values())
        return mean_of(values) if values else None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a reader is told.

    Attributes:
        protocol: What all runs have in common.
        arms: In the order of the table.
        judgements: Of the claims, by exact match with the real engine.
        noisy_judgements: The same comparisons by the noisy exam; no verdict of the experiment.
        run_seconds: Median time of a run with training; None before the first.
    """

    protocol: Protocol
    arms: tuple[ArmResult, ...]
    judgements: tuple[Judgement, ...]
    noisy_judgements: tuple[Judgement, ...]
    run_seconds: float | None


def summarise(protocol: Protocol, arms: Iterable[Arm], runs: Sequence[FinishedRun]) -> Report:
    """Return the report on some finished runs, of all arms or of some."""
    results = tuple(ArmResult(arm, _scores(arm, runs)) for arm in arms)
    trained = {result.arm.name for result in results if result.arm.is_trained}
    seconds = [run.seconds for run in runs if run.arm in trained]
    return Report(
        protocol,
        results,
        _judge_all(results, BM25_EXAM),
        _judge_all(results, NOISY_EXAM),
        statistics.median(seconds) if seconds else None,
    )


def _scores(arm: Arm, runs: Iterable[FinishedRun]) -> dict[str, dict[int, float]]:
    mine = sorted((run for run in runs if run.arm == arm.name), key=lambda run: run.seed)
    return {exam: {run.seed: run.scores[exam] for run in mine} for exam in EXAMS}


def _judge_all(results: Sequence[ArmResult], exam: str) -> tuple[Judgement, ...]:
    scores = {result.arm.name: result.scores[exam] for result in results}
    return tuple(judge(claim, scores) for claim in CLAIMS)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values."""
    updates = report.protocol.num_updates
    return {
        "protocol": asdict(report.protocol),
        "alpha": ALPHA,
        "power": POWER,
        "median_run_seconds": report.run_seconds,
        "arms": [
            {
                "name": result.arm.name,
                "engine": result.arm.engine,
                "curriculum": repr(result.arm.curriculum),
                "mean_noise": round(result.arm.mean_noise(updates), 4),
                "exams": {exam: _exam_as_json(result, exam) for exam in EXAMS},
            }
            for result in report.arms
        ],
        "claims": [_judgement_as_json(judgement) for judgement in report.judgements],
        "claims_by_noisy_exam": [_judgement_as_json(each) for each in report.noisy_judgements],
    }


def _exam_as_json(result: ArmResult, exam: str) -> dict[str, Any]:
    mean = result.mean(exam)
    return {"exact_match": mean and asdict(mean), "by_seed": dict(result.scores[exam])}


def _judgement_as_json(judgement: Judgement) -> dict[str, Any]:
    return {
        "claim": judgement.claim.title,
        "margin": judgement.claim.margin,
        "needs_all": judgement.claim.needs_all,
        "verdict": judgement.verdict.value,
        "comparisons": [asdict(finding) for finding in judgement.findings],
    }


def mean_text(mean: Mean | None, sign: str = "") -> str:
    """Return a mean and its interval as text.

    Args:
        mean: None gives a dash.
        sign: "+" shows the sign of numbers above 0 too.

    Example:
        >>> mean_text(mean_of([0.5, 0.7, 0.6])), mean_text(mean_of([0.5])), mean_text(None)
        ('0.600 [0.352, 0.848]', '0.500', '–')
    """
    if mean is None:
        return "–"
    if mean.low is None or mean.high is None:
        return f"{mean.value:{sign}.3f}"
    return f"{mean.value:{sign}.3f} [{mean.low:{sign}.3f}, {mean.high:{sign}.3f}]"


def number_text(value: float | None) -> str:
    """Return a number as text; None gives a dash."""
    return "–" if value is None else f"{value:.3f}"


def p_text(p: float) -> str:
    """Return a p-value as text.

    Example:
        >>> p_text(0.0312), p_text(0.00002)
        ('0.031', '< 0.001')
    """
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def arm_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the table of arms: name, mean noise, seeds, and exact match by exam."""
    updates = report.protocol.num_updates
    return [
        (
            result.arm.name,
            f"{result.arm.mean_noise(updates):.2f}",
            str(len(result.scores[BM25_EXAM])),
            *(mean_text(result.mean(exam)) for exam in EXAMS),
        )
        for result in report.arms
    ]


def finding_row(finding: Finding) -> tuple[str, ...]:
    """Return a line of a claim's table: arms, seeds, difference, p, detectable, verdict."""
    return (
        f"{finding.better} − {finding.worse}",
        str(finding.difference.num if finding.difference else 0),
        mean_text(finding.difference, "+"),
        p_text(finding.p) if finding.difference else "–",
        number_text(finding.detectable),
        number_text(finding.detectable_corrected),
        finding.verdict.value,
    )


ARM_HEADS = ("arm", "noise", "seeds", *EXAMS.values())
FINDING_HEADS = (
    "comparison",
    "seeds",
    "difference [95 %]",
    "p (Holm)",
    "MDD",
    "MDD (Holm)",
    "verdict",
)


def markdown(report: Report, command: str, figure: str) -> str:
    """Return the page.

    Args:
        report: What was found.
        command: What to type for the same.
        figure: Link to the figure, from where the page is.
    """
    parts = [
        _opening(report, command),
        _table(ARM_HEADS, arm_rows(report)),
        f"![Exact match by arm, a dot a seed]({figure})",
        "## What became of the claims",
        *(_claim_section(i, judgement) for i, judgement in enumerate(report.judgements, 1)),
        _METHOD,
        "## The arms",
        _table(("arm", "policies trained with"), [(r.arm.name, r.arm.about) for r in report.arms]),
        "## The same comparisons under noise",
        "Measured by the second column of the first table; no verdict rests on them.",
        *(
            _table(FINDING_HEADS, [finding_row(finding) for finding in judgement.findings])
            for judgement in report.noisy_judgements
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(report: Report, command: str) -> str:
    protocol = report.protocol
    seconds = report.run_seconds
    took = "" if seconds is None else f" A run took {seconds:.0f} s (median, one thread)."
    return (
        "# The paper's experiment in miniature\n\n"
        "Tiny policies, trained to search MiniWiki with simulators of several sizes and with the "
        "real engine, all examined with the real engine (BM25). Made by\n\n"
        f"    {command}\n\n"
        f"Every run is {protocol.num_updates} GRPO updates of {protocol.num_questions} × "
        f"{protocol.group_size} episodes from the shipped `base`; then the policy answers "
        f"{protocol.num_eval_questions} test questions with the real engine and "
        f"{protocol.num_noisy_questions} with the small simulator at noise {EXAM_NOISE}, each "
        "once, greedily. Exact match, mean over seeds with its 95 % t-interval; noise is the mean "
        f"probability over the updates.{took}"
    )


def _claim_section(number: int, judgement: Judgement) -> str:
    claim = judgement.claim
    rows = [finding_row(finding) for finding in judgement.findings]
    return f"{number}. **{claim.title}: {judgement.verdict}.**\n\n{_table(FINDING_HEADS, rows)}"


_METHOD = (
    "## How to read this\n\n"
    "Runs of one seed share questions, noise draws and sampling keys, so that arms are compared "
    "seed by seed: a two-sided paired t-test over seeds, at the level "
    f"{ALPHA}. Where a claim has several comparisons, p-values are corrected for their number "
    "after Holm (1979); intervals are not. A comparison *holds* if the difference is significant "
    "and as claimed, *fails* if it is significant and opposite, and is *not resolved* otherwise. "
    "A claim holds if all of its comparisons hold and fails if one fails. The third claim is "
    f"about matching: it is tested against a difference of −{MARGIN} (worse by more than that "
    "fails), holds if one simulator holds, and fails if all fail; which simulator is best is "
    "left open, as the correction allows, rather than picked by its score.\n\n"
    "MDD is the minimum detectable difference: the true difference (in the third claim counted "
    f"from −{MARGIN}) that such a test finds with {POWER:.0%} power given the spread seen, "
    "(t(1 − alpha/2) + t(power)) · s / √n with n − 1 degrees of freedom (Zar, *Biostatistical "
    f"Analysis*, chapter 7); once at alpha = {ALPHA}, once at the level that Holm's correction "
    "begins with. The spread is over trainings; the questions and the shipped models are the same "
    "in all of them, so nothing is said about other worlds or other simulators of that size. The "
    "shipped simulators differ in how they were trained too: see their cards.\n\n"
    "Constant noise of 0.25 is the mean of a straight line from 0 to 0.5; the exponential "
    "schedule, which rises late, has a lower mean (see the table), and so does its reverse."
)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(report: Report, file: Path) -> None:
    """Draw every seed of every arm as a dot, with means and intervals, and write a PNG."""
    height = 1.4 + 0.42 * len(report.arms)
    figure = Figure(figsize=(9, height), layout="constrained")
    panels = figure.subplots(1, len(EXAMS), sharey=True)
    for panel, (exam, label) in zip(panels, EXAMS.items(), strict=True):
        for row, result in enumerate(report.arms):
            _draw_arm(panel, row, result, exam)
        _dress(panel, label)
    panels[0].set_yticks(range(len(report.arms)), [result.arm.name for result in report.arms])
    panels[0].invert_yaxis()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def _draw_arm(axes: Axes, row: int, result: ArmResult, exam: str) -> None:
    values, mean = list(result.scores[exam].values()), result.mean(exam)
    if mean is None:
        return
    spread = [row + _JITTER * (2 * (i + 0.5) / len(values) - 1) for i in range(len(values))]
    axes.scatter(values, spread, s=16, color=COLOURS[exam], alpha=0.45, lw=0)
    if mean.low is not None and mean.high is not None:
        axes.plot([mean.low, mean.high], [row, row], color="black", lw=1.6)
    axes.plot([mean.value], [row], marker="D", color="black", markersize=5)


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel(f"exact match, {label}", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
