"""What an experiment found: as JSON values, as a page, as figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agents.experiments.claims import Claim, Finding, Judgement, Verdict, judge
from agents.experiments.design import DEFAULT_ALGORITHM, Arm, Protocol
from agents.experiments.experiment import Experiment, claims_about, other_pairs
from agents.experiments.measures import MEASURES, NOISY_EXAM
from agents.experiments.run_files import FinishedRun
from agents.experiments.statistics import ALPHA, POWER, Mean, mean_of

_JITTER = 0.22  # seeds of one arm are spread over this much of a row, up and down


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What became of an arm.

    Attributes:
        arm: Which one.
        runs: Those that have ended, by seed.
    """

    arm: Arm
    runs: Mapping[int, FinishedRun]

    def scores(self, measure: str) -> dict[int, float]:
        """Return a measure by seed, of the runs that have it."""
        found = {seed: run.scores.get(measure) for seed, run in self.runs.items()}
        return {seed: score for seed, score in found.items() if score is not None}

    def mean(self, measure: str) -> Mean | None:
        """Return the mean over seeds; None where there is none."""
        values = tuple(self.scores(measure).values())
        return mean_of(values) if values else None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a reader is told.

    Attributes:
        experiment: What is compared.
        protocol: What all runs have in common.
        arms: In the order of the table.
        judgements: Of the claims whose arms are all in `arms`.
        noisy_judgements: The same comparisons by the noisy exam, of the claims that name no
            measure; no verdict of the experiment.
        others: Comparisons of arms that no such claim is about, by the experiment's first
            measure.
        noisy_others: The same by the noisy exam.
        run_seconds: Median time of a run with training; None before the first.
    """

    experiment: Experiment
    protocol: Protocol
    arms: tuple[ArmResult, ...]
    judgements: tuple[Judgement, ...]
    noisy_judgements: tuple[Judgement, ...]
    others: tuple[Finding, ...]
    noisy_others: tuple[Finding, ...]
    run_seconds: float | None


def summarise(
    experiment: Experiment, protocol: Protocol, arms: Iterable[Arm], runs: Sequence[FinishedRun]
) -> Report:
    """Return the report on some finished runs, of all arms or of some."""
    results = tuple(ArmResult(arm, _by_seed(arm, runs)) for arm in arms)
    trained = {result.arm.name for result in results if result.arm.is_trained}
    seconds = [run.seconds for run in runs if run.arm in trained]
    names = [result.arm.name for result in results]
    claims = claims_about(experiment, names)
    others = Claim("", other_pairs(experiment, names))  # nobody says which arm is better
    return Report(
        experiment,
        protocol,
        results,
        tuple(_judge(claim, results, measure_of(claim, experiment)) for claim in claims),
        tuple(_judge(claim, results, NOISY_EXAM) for claim in claims if not claim.measure),
        _judge(others, results, measure_of(others, experiment)).findings,
        _judge(others, results, NOISY_EXAM).findings,
        statistics.median(seconds) if seconds else None,
    )


def _by_seed(arm: Arm, runs: Iterable[FinishedRun]) -> dict[int, FinishedRun]:
    return {run.seed: run for run in sorted(runs, key=lambda run: run.seed) if run.arm == arm.name}


def measure_of(claim: Claim, experiment: Experiment) -> str:
    """Return what decides a claim."""
    return claim.measure or experiment.measures[0]


def _judge(claim: Claim, results: Sequence[ArmResult], measure: str) -> Judgement:
    return judge(claim, {result.arm.name: result.scores(measure) for result in results})


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values."""
    return {
        "protocol": asdict(report.protocol),
        "alpha": ALPHA,
        "power": POWER,
        "median_run_seconds": report.run_seconds,
        "arms": [_arm_as_json(result, report) for result in report.arms],
        "claims": [_judgement_as_json(judgement, report) for judgement in report.judgements],
        "claims_by_noisy_exam": [
            _judgement_as_json(judgement, report) | {"measure": NOISY_EXAM}
            for judgement in report.noisy_judgements
        ],
        **_others_as_json(report),
    }


def _others_as_json(report: Report) -> dict[str, Any]:
    if not report.others:
        return {}
    named = {
        "other_comparisons": (report.experiment.measures[0], report.others),
        "other_comparisons_by_noisy_exam": (NOISY_EXAM, report.noisy_others),
    }
    return {
        name: {"measure": measure, "comparisons": [_other_as_json(each) for each in findings]}
        for name, (measure, findings) in named.items()
    }


def _other_as_json(finding: Finding) -> dict[str, Any]:
    values = asdict(finding)
    arms = {"first": values.pop("better"), "second": values.pop("worse")}
    return {**arms, **values, "verdict": OTHER_VERDICTS[finding.verdict]}


def _arm_as_json(result: ArmResult, report: Report) -> dict[str, Any]:
    arm = result.arm
    return {
        "name": arm.name,
        "engine": arm.engine,
        "algorithm": arm.algorithm,
        "curriculum": repr(arm.curriculum),
        "mean_noise": round(arm.mean_noise(report.protocol.num_updates), 4),
        "measures": {name: _measure_as_json(result, name) for name in report.experiment.measures},
    }


def _measure_as_json(result: ArmResult, measure: str) -> dict[str, Any]:
    mean = result.mean(measure)
    return {"mean": mean and asdict(mean), "by_seed": result.scores(measure)}


def _judgement_as_json(judgement: Judgement, report: Report) -> dict[str, Any]:
    return {
        "claim": judgement.claim.title,
        "measure": measure_of(judgement.claim, report.experiment),
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
    """Return the table of arms: name, mean noise, seeds, and each measure."""
    updates = report.protocol.num_updates
    return [
        (
            result.arm.name,
            f"{result.arm.mean_noise(updates):.2f}",
            str(len(result.runs)),
            *(mean_text(result.mean(name)) for name in report.experiment.measures),
        )
        for result in report.arms
    ]


def arm_heads(report: Report) -> tuple[str, ...]:
    """Return the head of the table of arms."""
    return ("arm", "noise", "seeds", *(MEASURES[name].label for name in report.experiment.measures))


def exam_heads(report: Report) -> tuple[str, ...]:
    """Return the head of the table of arms for a terminal of 80 columns: exams alone."""
    labels = (MEASURES[name].label for name in _exams(report.experiment))
    return ("arm", "seeds", *(label.replace(", ", ",\n") for label in labels))


def exam_rows(report: Report) -> list[tuple[str, ...]]:
    """Return that table: name, seeds, and each exam's mean above its interval."""
    return [
        (
            result.arm.name,
            str(len(result.runs)),
            *(_two_lines(result.mean(name)) for name in _exams(report.experiment)),
        )
        for result in report.arms
    ]


def _two_lines(mean: Mean | None) -> str:
    if mean is None or mean.low is None or mean.high is None:
        return mean_text(mean)
    return f"{mean.value:.3f}\n[{mean.low:.2f}, {mean.high:.2f}]"


def _exams(experiment: Experiment) -> list[str]:
    return [name for name in experiment.measures if MEASURES[name].is_exam]


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


OTHER_VERDICTS: Final = {
    Verdict.HOLDS: "higher",
    Verdict.FAILS: "lower",
    Verdict.NOT_RESOLVED: "not resolved",
}
"""Verdicts of comparisons that no claim is about: where the first arm is, next to the second."""


def other_row(finding: Finding) -> tuple[str, ...]:
    """Return a line of the table of other comparisons, as `finding_row` does of a claim's."""
    return (*finding_row(finding)[:-1], OTHER_VERDICTS[finding.verdict])


FINDING_HEADS = (
    "comparison",
    "seeds",
    "difference [95 %]",
    "p (Holm)",
    "MDD",
    "MDD (Holm)",
    "verdict",
)


def markdown(report: Report, command: str, figure: str, curves: str = "") -> str:
    """Return the page.

    Args:
        report: What was found.
        command: What to type for the same.
        figure: Link to the figure, from where the page is.
        curves: Link to the figure of the learning curves; empty for none.
    """
    parts = [
        _opening(report, command),
        _table(arm_heads(report), arm_rows(report)),
        _measures(report.experiment),
        f"![Each arm, a dot a seed]({figure})",
        *([f"![Reward and searches by update]({curves})"] if curves else []),
        *(["## What became of the claims"] if report.judgements else []),
        *(_claim_section(i, each, report) for i, each in enumerate(report.judgements, 1)),
        *_other_section(report),
        "\n\n".join((_METHOD, *report.experiment.remarks)),
        "## The arms",
        _table(("arm", "policies trained with"), [_about(result.arm) for result in report.arms]),
        *_under_noise(report),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(report: Report, command: str) -> str:
    protocol, seconds = report.protocol, report.run_seconds
    took = "" if seconds is None else f" A run took {seconds:.0f} s (median, one thread)."
    return (
        f"# {report.experiment.title}\n\n{report.experiment.about} Made by\n\n"
        f"    {command}\n\n"
        f"Every run is {protocol.num_updates} updates of {protocol.num_questions} × "
        f"{protocol.group_size} episodes from the shipped `base`; then the policy answers test "
        f"questions, each once, greedily: {protocol.num_eval_questions} an exam, and "
        f"{protocol.num_noisy_questions} in that with noise. Mean over seeds with its 95 % "
        f"t-interval; noise is the mean probability over the updates.{took}"
    )


def _measures(experiment: Experiment) -> str:
    named = (MEASURES[name] for name in experiment.measures)
    return "; ".join(f"*{each.label}*: {each.about}" for each in named).join(("", "."))


def _about(arm: Arm) -> tuple[str, str]:
    learner = "" if arm.algorithm == DEFAULT_ALGORITHM else f"`{arm.algorithm}`: "
    return arm.name, learner + arm.about


def _claim_section(number: int, judgement: Judgement, report: Report) -> str:
    claim = judgement.claim
    rows = [finding_row(finding) for finding in judgement.findings]
    by = f" (by {MEASURES[claim.measure].label})" if claim.measure else ""
    return f"{number}. **{claim.title}{by}: {judgement.verdict}.**\n\n{_table(FINDING_HEADS, rows)}"


def _other_section(report: Report) -> tuple[str, ...]:
    if not report.others:
        return ()
    label = MEASURES[report.experiment.measures[0]].label
    opening = (
        "Each arm that no claim here is about, with each other arm, measured by the column "
        f"“{label}”; p-values are corrected for the number of these comparisons. *Higher* or "
        "*lower* is the first arm, where the difference is significant."
    )
    return ("## Other comparisons", opening, _table(FINDING_HEADS, map(other_row, report.others)))


def _under_noise(report: Report) -> tuple[str, ...]:
    tables = [
        _table(FINDING_HEADS, map(finding_row, judgement.findings))
        for judgement in report.noisy_judgements
    ]
    if report.noisy_others:
        tables.append(_table(FINDING_HEADS, map(other_row, report.noisy_others)))
    if NOISY_EXAM not in report.experiment.measures or not tables:
        return ()
    label = MEASURES[NOISY_EXAM].label
    opening = f"Measured by the column “{label}” of the first table; no verdict rests on them."
    return ("## The same comparisons under noise", opening, *tables)


_METHOD = (
    "## How to read this\n\n"
    "Runs of one seed share questions, noise draws and sampling keys, so that arms are compared "
    "seed by seed: a two-sided paired t-test over seeds, at the level "
    f"{ALPHA}. Where a claim has several comparisons, p-values are corrected for their number "
    "after Holm (1979); intervals are not. A comparison *holds* if the difference is significant "
    "and as claimed, *fails* if it is significant and opposite, and is *not resolved* otherwise. "
    "A claim holds if all of its comparisons hold and fails if one fails.\n\n"
    "MDD is the minimum detectable difference: the true difference that such a test finds with "
    f"{POWER:.0%} power given the spread seen, (t(1 − alpha/2) + t(power)) · s / √n with n − 1 "
    "degrees of freedom (Zar, *Biostatistical Analysis*, chapter 7); once at alpha = "
    f"{ALPHA}, once at the level that Holm's correction begins with. The spread is over trainings; "
    "the questions and the shipped models are the same in all of them, so nothing is said about "
    "other worlds or other models."
)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(report: Report, file: Path) -> None:
    """Draw every seed of every arm as a dot, with means and intervals, and write a PNG.

    Of an interval, what is in [0, 1] is drawn: exact match cannot be elsewhere.
    """
    measures = _exams(report.experiment)
    height = 1.4 + 0.42 * len(report.arms)
    figure = Figure(figsize=(2 + 3.5 * len(measures), height), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, measures, strict=True):
        for row, result in enumerate(report.arms):
            _draw_arm(panel, row, result, name)
        _dress(panel, MEASURES[name].label)
    panels[0].set_yticks(range(len(report.arms)), [result.arm.name for result in report.arms])
    panels[0].invert_yaxis()
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def _draw_arm(axes: Axes, row: int, result: ArmResult, measure: str) -> None:
    values, mean = list(result.scores(measure).values()), result.mean(measure)
    if mean is None:
        return
    spread = [row + _JITTER * (2 * (i + 0.5) / len(values) - 1) for i in range(len(values))]
    axes.scatter(values, spread, s=16, color=MEASURES[measure].colour, alpha=0.45, lw=0)
    if mean.low is not None and mean.high is not None:
        axes.plot([max(mean.low, 0.0), min(mean.high, 1.0)], [row, row], color="black", lw=1.6)
    axes.plot([mean.value], [row], marker="D", color="black", markersize=5)


def _dress(axes: Axes, label: str) -> None:
    axes.set_xlabel(f"exact match, {label}", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


_ARMS_A_BAND: Final = 5  # arms beside each other; more would be too small to read on a page

CURVES: Final = {"rollout/reward": "reward", "rollout/searches": "searches an episode"}
"""What the learning curves show, and how it is called."""


def plot_curves(report: Report, file: Path) -> None:
    """Draw how training went, a small panel an arm: every seed thin, their mean thick; a PNG.

    The mean of all arms is grey, for comparison.
    """
    trained = [result for result in report.arms if any(r.updates for r in result.runs.values())]
    if not trained:
        return
    width = min(len(trained), _ARMS_A_BAND)
    bands = [trained[i : i + width] for i in range(0, len(trained), width)]
    figure = Figure(figsize=(2.1 * width + 0.8, 4.4 * len(bands) + 0.6), layout="constrained")
    shape = (len(CURVES) * len(bands), width)
    panels = figure.subplots(*shape, sharex=True, squeeze=False)
    for i, (key, label) in enumerate(CURVES.items()):
        rows = panels[i :: len(CURVES)]
        everyone = _mean_curve([curve for result in trained for curve in _curves(result, key)])
        for row, band in zip(rows, bands, strict=True):
            row[0].set_ylabel(label)
            for panel, result in zip(row, band, strict=False):
                panel.sharey(rows[0][0])
                _draw_curves(panel, _curves(result, key), everyone)
    for row, band in zip(panels[:: len(CURVES)], bands, strict=True):
        for panel, result in zip(row, band, strict=False):
            panel.set_title(result.arm.name, fontsize=10)
    for panel in panels.flat:
        panel.set_visible(panel.has_data())
    figure.supxlabel("update", fontsize=10)
    _explain_curves(figure, panels[0, 0])
    _save(figure, file)


def _explain_curves(figure: Figure, panel: Axes) -> None:
    lines = {line.get_label(): line for line in panel.lines}  # the seeds have one label
    columns = 1 if figure.get_figwidth() < 6 else len(lines)  # inches
    figure.legend(handles=lines.values(), loc="outside upper center", ncols=columns, frameon=False)


def _curves(result: ArmResult, key: str) -> list[list[float]]:
    return [[row[key] for row in run.updates] for run in result.runs.values() if run.updates]


def _mean_curve(curves: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]


def _draw_curves(axes: Axes, curves: Sequence[Sequence[float]], everyone: Sequence[float]) -> None:
    steps = range(1, len(everyone) + 1)
    axes.plot(steps, everyone, color="#BBBBBB", lw=2.5, label="mean of all arms")
    for curve in curves:
        axes.plot(steps, curve, color="#0072B2", lw=0.7, alpha=0.5, label="a seed")
    axes.plot(steps, _mean_curve(curves), color="#0072B2", lw=1.8, label="mean of the arm's seeds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
