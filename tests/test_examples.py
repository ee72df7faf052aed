"""The examples run as a reader would run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_example(name):
    """Run an example from the checkout and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example", sorted(path.name for path in (ROOT / "examples").glob("*.py")))
def test_every_example_runs(example):
    assert run_example(example)


def test_quickstart_shows_question_documents_and_score():
    printed = run_example("quickstart.py")
    assert printed.startswith("Question: ")
    assert "<information>Doc 1: " in printed
    assert "golden answers" in printed


def test_custom_engine_finds_the_answer():
    printed = run_example("custom_engine.py")
    assert "Doc 1(Title: Moon) Neil Armstrong" in printed
    assert "reward 1.0" in printed
