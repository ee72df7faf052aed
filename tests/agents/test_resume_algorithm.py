"""A run goes on with the hyper-parameters of its algorithm, or not at all."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.callbacks import TranscriptCallback
from agents.cli.main import main

TINY = (
    "--policy base --engine world --steps 3 --num-questions 2 --group-size 2 --max-turns 2 "
    "--eval-every 0 --threads 1 --log-formats csv --algorithm own_rloo:MyRloo --out run"
).split()

ALGORITHM = """
from dataclasses import dataclass

from agents.algorithms.rloo import RLOO

@dataclass(frozen=True, kw_only=True)
class MyRloo(RLOO):
    {field}: float = {value}
"""


@pytest.fixture(autouse=True)
def stopped_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Begin a run with an algorithm of one's own, which dies in its second update."""

    def die(_: Any, trainer: Any, *__: Any) -> None:
        if trainer.num_updates_done == 2:
            raise SystemExit(9)

    monkeypatch.chdir(tmp_path)
    write_algorithm("scale", "1.0")
    with monkeypatch.context() as patch:
        patch.setattr(TranscriptCallback, "on_update_end", die)
        with pytest.raises(SystemExit):
            main(["train", *TINY])
    return tmp_path / "run"


def write_algorithm(field: str, value: str) -> None:
    Path("own_rloo.py").write_text(ALGORITHM.format(field=field, value=value))
    sys.modules.pop("own_rloo", None)


def test_edited_hyper_parameter_is_refused_and_nothing_written(
    stopped_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = (stopped_run / "config.json").read_text()
    assert json.loads(told)["algorithm"]["scale"] == 1.0
    write_algorithm("scale", "-5.0")
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "`algorithm` must be as the run started with it, but scale of own_rloo:MyRloo was 1.0 and "
        "is -5.0"
    )
    assert (stopped_run / "config.json").read_text() == told
    write_algorithm("scale", "1.0")
    assert main(["train", "--resume", "run"]) == 0


def test_hyper_parameter_that_the_run_does_not_know_is_let_pass(stopped_run: Path) -> None:
    write_algorithm("temper", "2.0")
    assert main(["train", "--resume", "run"]) == 0
    assert json.loads((stopped_run / "config.json").read_text())["algorithm"]["temper"] == 2.0
