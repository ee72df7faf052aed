"""Label searches useful or noisy: what a simulator of a search engine is tuned on.

Up to three signals say what a search's documents are (`SIGNALS`), a rule makes a label of them
(`RULES`), and filters take away what would teach something wrong. Everything is read and judged
before anything is written, so that a mistake in a file leaves no half result; apart from a
judge's verdicts, which are kept as they come, the result is a function of the input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from agents.tuning.judge import Exhibit, Judge
from agents.tuning.records import (
    LABELS,
    NOISY,
    USEFUL,
    LabelledSearch,
    as_line,
    write_records,
)
from agents.tuning.signals import OutcomeRule, evidence, holds_answer
from agents.tuning.trajectory_files import read_trajectories
from zs_env.random import uniform
from zs_env.search.engine import Document
from zs_env.task.question_sets import SPLITS
from zs_env.task.questions import Question
from zs_env.task.rewards import normalise

SIGNALS: Final = ("outcome", "evidence", "judge")


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of one search's documents: labels, None where nothing is known.

    Attributes:
        outcome: Whether the trajectory ended well.
        evidence: Whether the documents hold what was needed.
        judge: Whether a judge found them helpful.
    """

    outcome: str | None = None
    evidence: str | None = None
    judge: str | None = None

    @property
    def given(self) -> list[str]:
        """The labels that there are."""
        return [label for name in SIGNALS if (label := getattr(self, name)) is not None]


def _by_evidence(signals: Signals) -> str | None:
    return signals.evidence or signals.outcome


def _by_agreement(signals: Signals) -> str | None:
    return signals.given[0] if len(set(signals.given)) == 1 else None


RULES: Final[Mapping[str, Callable[[Signals], str | None]]] = {
    "outcome": lambda signals: signals.outcome,
    "evidence": _by_evidence,
    "judge": lambda signals: signals.judge,
    "agree": _by_agreement,
}
"""From signals to a label, None for a search to leave out.

"evidence" falls back on the outcome where documents can show nothing, as for questions of yes or
no; "agree" keeps a search if all signals that it has say the same.
"""


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How searches are labelled.

    Attributes:
        rule: Which signal decides, a key of `RULES`.
        outcome: When a trajectory ended well.
        validation: Share of questions of the validation split.
        test: Share of questions of the test split; the rest is for training.
        balance: Whether to take, within each split, as many useful searches as noisy ones.
        seed: Key of which ones are taken.

    Raises:
        ValueError: If a rule is unknown or shares are out of range.
    """

    rule: str = "evidence"
    outcome: OutcomeRule = field(default_factory=OutcomeRule)
    validation: float = 0.05
    test: float = 0.05
    balance: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {self.rule!r}")
        for name in ("validation", "test"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)!r}")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"`validation` and `test` must leave something to train on, "
                f"got {self.validation!r} and {self.test!r}"
            )


@dataclass(frozen=True, slots=True)
class Case:
    """One search and what is known of it; `place` is the file and line it comes from."""

    place: str
    question: Question
    query: str
    documents: tuple[Document, ...]
    signals: Signals

    @property
    def exhibit(self) -> Exhibit:
        """What a judge is shown."""
        return Exhibit(self.place, self.question, self.query, self.documents)

    @property
    def key(self) -> tuple[str, str, tuple[Document, ...]]:
        """What two searches share if one of them is enough."""
        return normalise(self.question.text), self.query, self.documents


def label(
    inputs: Sequence[Path],
    output: Path,
    options: LabelOptions | None = None,
    judge: Judge | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LabelReport:
    """Label the searches in `inputs` and write them to `output`.

    Args:
        inputs: Files of any kind that `agents.tuning.trajectory_files` knows.
        output: Gets one `LabelledSearch` a line, the whole file or nothing.
        options: How to label.
        judge: Asked about every search if given; its verdicts are kept in a file beside `output`.
        on_progress: Called with the number of verdicts that came in.

    Raises:
        ValueError: If the rule needs a judge and there is none, or `output` is an input.
        DataError: If a file cannot be labelled; nothing is written but verdicts.
    """
    options = options or LabelOptions()
    if options.rule == "judge" and judge is None:
        raise ValueError("`judge` must be given for the rule 'judge', got None")
    check_files(inputs, output)
    cases = [case for path in inputs for case in read_cases(path, options.outcome)]
    if judge:
        cases = _judged(cases, judge, verdicts_file(output), on_progress)
    rows, dropped = _rows(cases, options)
    write_records(output, (row.as_json() for row in rows))
    return LabelReport.of(cases, rows, dropped)


def check_files(inputs: Sequence[Path], output: Path, name: str = "output") -> None:
    """Check that nothing which is read would be written over.

    Args:
        inputs: What is read.
        output: What is written.
        name: What messages call it.

    Raises:
        ValueError: If there are no inputs, or the output is one.
    """
    if not inputs:
        raise ValueError("`inputs` must name at least one file, got none")
    if output.resolve() in {path.resolve() for path in inputs}:
        raise ValueError(f"`{name}` must be a file of its own, got {str(output)!r}")


def verdicts_file(output: Path) -> Path:
    """Return where a judge's verdicts are kept."""
    return output.with_name(f"{output.name}.judged.jsonl")


def read_cases(path: Path, outcome: OutcomeRule) -> Iterator[Case]:
    """Yield every search of a file with its outcome and evidence.

    Raises:
        DataError: If something is wrong with the file; the message names the line.
    """
    for number, trajectory in read_trajectories(path):
        ended = outcome.signal(trajectory)
        for index, search in enumerate(trajectory.searches):
            signals = Signals(ended, evidence(trajectory, index))
            place = f"{path}:{number}"
            yield Case(place, trajectory.question, search.query, search.documents, signals)


def _judged(
    cases: Sequence[Case], judge: Judge, file: Path, on_progress: Callable[[int], None]
) -> list[Case]:
    labels = judge.rule([case.exhibit for case in cases], file, on_progress)
    return [
        replace(case, signals=replace(case.signals, judge=verdict))
        for case, verdict in zip(cases, labels, strict=True)
    ]


# --- filters ------------------------------------------------------------------------------------


def _rows(
    cases: Sequence[Case], options: LabelOptions
) -> tuple[list[LabelledSearch], Mapping[str, int]]:
    """Return the searches to keep, in order, and how many were dropped for what."""
    dropped: Counter[str] = Counter(dict.fromkeys(DROPPED, 0))
    kept: dict[tuple[str, str, tuple[Document, ...]], list[LabelledSearch]] = {}
    for case in cases:
        chosen = RULES[options.rule](case.signals)
        if reason := _objection(case, chosen):
            dropped[reason] += 1
        else:
            assert chosen is not None
            kept.setdefault(case.key, []).append(_row(case, chosen, options))
    rows = []
    for same in kept.values():
        if len({row.label for row in same}) > 1:
            dropped["conflict"] += len(same)
        else:
            dropped["duplicate"] += len(same) - 1
            rows.append(same[0])
    balanced = _balanced(rows, options.seed) if options.balance else rows
    dropped["balance"] = len(rows) - len(balanced)
    return balanced, dict(dropped)


DROPPED: Final[Mapping[str, str]] = {
    "unlabelled": "the rule gives no label",
    "leak": "noisy, but the answer is in the documents",
    "no_documents": "useful, but nothing was found",
    "duplicate": "the same search again",
    "conflict": "the same search labelled both ways",
    "balance": "more of its label than of the other",
}
"""Why a search is left out, in the order in which that is decided."""


def _objection(case: Case, chosen: str | None) -> str | None:
    """Return why a search cannot be used with this label, None if it can."""
    if chosen is None:
        return "unlabelled"
    if chosen == NOISY and holds_answer(case.question, case.documents):
        return "leak"
    if chosen == USEFUL and not any(document.text.strip() for document in case.documents):
        return "no_documents"
    return None


def _row(case: Case, chosen: str, options: LabelOptions) -> LabelledSearch:
    return LabelledSearch(
        question=case.question,
        query=case.query,
        documents=case.documents,
        label=chosen,
        outcome=case.signals.outcome,
        evidence=case.signals.evidence,
        judge=case.signals.judge,
        split=split_of(case.question.text, options.validation, options.test),
    )


def split_of(question: str, validation: float, test: float) -> str:
    """Return the split that a question belongs to, whatever file it stands in.

    It is decided by the normalised text: sets overlap, and know a question by different ids.

    Args:
        question: Its text.
        validation: Share of the validation split, in [0, 1).
        test: Share of the test split, in [0, 1).

    Example:
        >>> split_of("Who?", 0, 0), split_of("Who directed it?", 0.5, 0.49)
        ('train', 'test')
    """
    name = normalise(question).encode("utf-8", "surrogatepass")
    place = int.from_bytes(blake2b(name, digest_size=8).digest()) / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def _balanced(rows: Sequence[LabelledSearch], seed: int) -> list[LabelledSearch]:
    """Return as many useful rows as noisy ones of every split, in order."""
    groups: dict[tuple[str, str], list[LabelledSearch]] = {}
    for row in rows:
        groups.setdefault((row.split, row.label), []).append(row)
    chosen: set[int] = set()
    for split in SPLITS:
        sides = [groups.get((split, name), []) for name in LABELS]
        for side in sides:
            ranked = sorted(side, key=lambda row: _rank(row, seed))
            chosen.update(id(row) for row in ranked[: min(map(len, sides))])
    return [row for row in rows if id(row) in chosen]


def _rank(row: LabelledSearch, seed: int) -> float:
    """Return a draw that depends on nothing but the row."""
    digest = blake2b(as_line(row.as_json()).encode(), digest_size=8).digest()
    return uniform(seed, int.from_bytes(digest))


# --- what is reported ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two signals agree on the searches that have both.

    Attributes:
        first: Name of one signal.
        second: Name of the other.
        counts: Searches by the two labels, as in `counts["useful"]["noisy"]`: the first signal
            says useful and the second noisy.
    """

    first: str
    second: str
    counts: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, first: str, second: str, signals: Sequence[Signals]) -> Agreement:
        """Count how often two signals say what."""
        pairs = Counter((getattr(s, first), getattr(s, second)) for s in signals)
        return cls(first, second, {a: {b: pairs[a, b] for b in LABELS} for a in LABELS})

    @property
    def num(self) -> int:
        """Searches that have both signals."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def share(self) -> float | None:
        """Share of them on which the signals agree, in [0, 1]; None if there are none."""
        agreed = sum(self.counts[name][name] for name in LABELS)
        return agreed / self.num if self.num else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960), the agreement beyond chance, in [-1, 1].

        None where it is undefined: if there are no searches, or both signals always say the same
        one thing.
        """
        if self.share is None:
            return None
        chance = sum(
            sum(self.counts[name].values()) * sum(self.counts[other][name] for other in LABELS)
            for name in LABELS
        ) / (self.num * self.num)
        return None if chance == 1 else (self.share - chance) / (1 - chance)

    def as_json(self) -> dict[str, Any]:
        """Return counts and rates as JSON values."""
        return {
            "signals": [self.first, self.second],
            "num": self.num,
            "share": self.share,
            "kappa": self.kappa,
            "counts": {name: dict(row) for name, row in self.counts.items()},
        }


@dataclass(frozen=True, slots=True)
class LabelReport:
    """What was read, what the signals said, and what was written.

    Attributes:
        num_searches: Searches in all files.
        signals: By signal, how many searches it calls "useful", "noisy", and None ("none").
        agreement: Of every two signals that say anything.
        dropped: Searches left out, by reason (`DROPPED`).
        rows: Searches written, by split and label.
        data_sources: The same by data source and label.
    """

    num_searches: int
    signals: Mapping[str, Mapping[str, int]]
    agreement: tuple[Agreement, ...]
    dropped: Mapping[str, int]
    rows: Mapping[str, Mapping[str, int]]
    data_sources: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(
        cls, cases: Sequence[Case], rows: Sequence[LabelledSearch], dropped: Mapping[str, int]
    ) -> LabelReport:
        """Count everything."""
        signals = [case.signals for case in cases]
        spoke = [name for name in SIGNALS if any(getattr(s, name) for s in signals)]
        return cls(
            num_searches=len(cases),
            signals={name: _tally([getattr(s, name) or "none" for s in signals]) for name in spoke},
            agreement=tuple(Agreement.of(*pair, signals) for pair in combinations(spoke, 2)),
            dropped=dropped,
            rows={name: _tally([r.label for r in rows if r.split == name]) for name in SPLITS},
            data_sources={
                name: _tally([row.label for row in rows if row.question.data_source == name])
                for name in sorted({row.question.data_source for row in rows})
            },
        )

    @property
    def num_rows(self) -> int:
        """Searches written."""
        return sum(sum(row.values()) for row in self.rows.values())

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "num_searches": self.num_searches,
            "num_rows": self.num_rows,
            "signals": {name: dict(row) for name, row in self.signals.items()},
            "agreement": [agreement.as_json() for agreement in self.agreement],
            "dropped": dict(self.dropped),
            "rows": {name: dict(row) for name, row in self.rows.items()},
            "data_sources": {name: dict(row) for name, row in self.data_sources.items()},
        }


def _tally(labels: Sequence[str]) -> dict[str, int]:
    """Return how often each label occurs, those that never do included."""
    return dict.fromkeys(LABELS, 0) | dict(Counter(labels))
