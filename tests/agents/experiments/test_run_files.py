import json
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.design import Protocol, Run
from agents.experiments.miniature import ARMS
from agents.experiments.run_files import (
    FinishedRun,
    check_format_only,
    check_others,
    claimed,
    format_only_folder,
    read_run,
    recipe,
    run_file,
    run_identity,
    shared_identity,
)

RUN = Run(ARMS["small"], 3)
SHARED = shared_identity(Protocol(), policy="p", examiner="e", world="w")
UPDATES = [{"rollout/reward": reward, "rollout/searches": 2.0} for reward in (0.25, 0.75)]
EXAMS = {"bm25": {"exact_match": 0.5}, "noisy": {"exact_match": 0.25}}


def write(folder: Path, **changes: Any) -> Path:
    identity = run_identity(RUN, SHARED, "s") | changes
    file = run_file(folder, RUN)
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"identity": identity, "exams": EXAMS, "seconds": {"total": 12.5}, "updates": UPDATES}
    file.write_text(json.dumps(record))
    return file


def test_finished_run_is_read_back(tmp_path: Path) -> None:
    found = read_run(write(tmp_path), run_identity(RUN, SHARED, "s"))
    scores = {"mean_reward": 0.5, "unsteadiness": 0.5, "last_searches": 2.0, "rollouts": 1.0}
    assert found == FinishedRun(
        "small", 3, {"bm25": 0.5, "noisy": 0.25, **scores}, 12.5, tuple(UPDATES)
    )


def test_run_that_has_not_ended_is_none(tmp_path: Path) -> None:
    assert read_run(run_file(tmp_path, RUN), {}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_updates", 3),
        ("num_eval_questions", 999),
        ("policy_sha256", "other"),
        ("simulator_sha256", "other"),
        ("miniwiki", "other"),
        ("curriculum", "other"),
        ("algorithm", "other"),
    ],
)
def test_run_of_another_experiment_raises_and_names_the_difference(
    tmp_path: Path, name: str, value: object
) -> None:
    file = write(tmp_path, **{name: value})
    message = rf"`out` must be .*small-seed3\.json `{name}` is {value!r} and not "
    with pytest.raises(ValueError, match=message):
        read_run(file, run_identity(RUN, SHARED, "s"))


def test_checksum_that_is_not_known_yet_is_not_compared(tmp_path: Path) -> None:
    assert read_run(write(tmp_path), run_identity(RUN, SHARED, None)) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"identity": 3}'])
def test_damaged_file_raises_and_is_named(tmp_path: Path, text: str) -> None:
    file = write(tmp_path)
    file.write_text(text)
    with pytest.raises(ValueError, match=r"small-seed3\.json: not a finished run"):
        read_run(file, {})


def test_runs_of_other_arms_must_share_the_protocol(tmp_path: Path) -> None:
    write(tmp_path)
    check_others(tmp_path, SHARED)
    write(tmp_path, group_size=4)
    with pytest.raises(ValueError, match="`group_size` is 4 and not 8"):
        check_others(tmp_path, SHARED)


def test_format_only_simulator_must_be_of_the_same_recipe(tmp_path: Path) -> None:
    check_format_only(tmp_path, Protocol())
    folder = format_only_folder(tmp_path)
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="not the recipe of a format-only simulator"):
        check_format_only(tmp_path, Protocol())
    (folder / "recipe.json").write_text(json.dumps(recipe(Protocol())))
    check_format_only(tmp_path, Protocol())
    with pytest.raises(ValueError, match="`format_examples` is 12000 and not 7"):
        check_format_only(tmp_path, Protocol(format_examples=7))


def test_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        claimed(tmp_path / "out"),
        pytest.raises(ValueError, match="`out` must be a folder that no other process is writing"),
        claimed(tmp_path / "out"),
    ):
        pass
    with claimed(tmp_path / "out"):
        pass
