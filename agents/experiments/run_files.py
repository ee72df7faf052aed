"""The files of an experiment: one JSON object a finished run, and one a failed run.

    FOLDER/runs/NAME.json        written whole when a run has ended; never replaced
    FOLDER/failures/NAME.txt     why a run failed; gone when it has been done
    FOLDER/models/format-only/   the model that the experiment trains itself

A run's file holds its identity: everything that decides its results. A folder can be gone on with
only by an experiment whose runs have the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.experiments.design import EXAM_NOISE, FORMAT_ONLY, Protocol, Run
from agents.experiments.measures import measure_all

RUNS, FAILURES = "runs", "failures"
RECIPE_FILE = "recipe.json"
LOCK_FILE = ".lock"
FORMAT_SEED = 0

Identity = Mapping[str, Any]


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from doing the same runs while the body does.

    Where the system has no `fcntl` (Windows) nobody is kept out.

    Raises:
        ValueError: If another process is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as file:
        try:
            import fcntl
        except ImportError:
            pass
        else:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ValueError(
                    f"`out` must be a folder that no other process is writing, got {str(folder)!r}"
                ) from error
        yield


def run_file(folder: Path, run: Run) -> Path:
    """Return where a finished run is written."""
    return folder / RUNS / f"{run.name}.json"


def failure_file(folder: Path, run: Run) -> Path:
    """Return where it is written why a run failed."""
    return folder / FAILURES / f"{run.name}.txt"


def format_only_folder(folder: Path) -> Path:
    """Return where the format-only simulator is kept."""
    return folder / "models" / FORMAT_ONLY


def recipe(protocol: Protocol) -> dict[str, int]:
    """Return what decides the format-only simulator."""
    return {"format_examples": protocol.format_examples, "seed": FORMAT_SEED}


def check_format_only(folder: Path, protocol: Protocol) -> None:
    """Check that the format-only simulator in `folder`, if there is one, is the wanted one.

    Raises:
        ValueError: If it is something else.
    """
    model = format_only_folder(folder)
    if not model.exists():
        return
    file = model / RECIPE_FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not the recipe of a format-only simulator: {error}") from error
    check_same(file, found, recipe(protocol))


def shared_identity(protocol: Protocol, policy: str, examiner: str, world: str) -> dict[str, Any]:
    """Return the part of an identity that all runs have in common, as JSON values.

    Args:
        protocol: What all runs have in common.
        policy: Checksum of the start policy.
        examiner: Checksum of the simulator of the noisy exam.
        world: Checksum of MiniWiki.
    """
    return {
        **asdict(protocol),
        "exam_noise": EXAM_NOISE,
        "policy_sha256": policy,
        "examiner_sha256": examiner,
        "miniwiki": world,
    }


def run_identity(run: Run, shared: Identity, simulator: str | None) -> dict[str, Any]:
    """Return everything that decides a run's results, as JSON values.

    Args:
        run: Which run.
        shared: As `shared_identity` returns it.
        simulator: Checksum of the simulator that trains; None where none does, or where it is not
            known yet.
    """
    arm = {"arm": run.arm.name, "engine": run.arm.engine, "curriculum": repr(run.arm.curriculum)}
    known = {} if simulator is None else {"simulator_sha256": simulator}
    return {**arm, "algorithm": run.arm.algorithm, "seed": run.seed, **shared, **known}


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a report needs of a run.

    Attributes:
        arm: Name of the arm.
        seed: Its seed.
        scores: What was measured, by the measure's name.
        seconds: What it took.
        updates: The metrics of each update.
    """

    arm: str
    seed: int
    scores: Mapping[str, float]
    seconds: float
    updates: Sequence[Mapping[str, float]] = ()


def read_run(file: Path, expected: Identity) -> FinishedRun | None:
    """Return a finished run, or None if there is no file.

    Raises:
        ValueError: If the file cannot be read, or is that of another experiment; names the first
            difference.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        identity = record["identity"]
        run = FinishedRun(
            identity["arm"],
            identity["seed"],
            measure_all(record["exams"], record["updates"]),
            float(record["seconds"]["total"]),
            tuple(record["updates"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file}: not a finished run: {error!r}") from error
    check_same(file, identity, expected)
    return run


def check_same(file: Path, found: Identity, expected: Identity) -> None:
    """Check that what `file` says of itself is what is expected, as far as that is known.

    Raises:
        ValueError: If it is not; names the first difference.
    """
    for name, value in expected.items():
        if found.get(name) != value:
            raise ValueError(
                "`out` must be a new folder or that of the same experiment, but in "
                f"{file} `{name}` is {found.get(name)!r} and not {value!r}"
            )


def check_others(folder: Path, shared: Identity) -> None:
    """Check that all runs in `folder`, whatever their arms, were made under the same protocol.

    Raises:
        ValueError: If one was not, or cannot be read.
    """
    for file in sorted((folder / RUNS).glob("*.json")):
        read_run(file, shared)
