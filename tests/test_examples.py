"""The examples run as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_example(name, *arguments):
    """Run an example from the checkout and return what it prints."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here():
    examples = {path.stem for path in (ROOT / "examples").glob("*.py")}
    here = {"quickstart", "custom_engine", "custom_reward", "custom_algorithm", "sb3_macro"}
    assert examples == here | {"grpo_from_scratch"}  # test_examples_algorithms.py


def test_quickstart_shows_question_documents_and_score():
    printed = run_example("quickstart.py")
    assert printed.startswith("Question: ")
    assert "<information>Doc 1: " in printed
    assert "golden answers" in printed


def test_custom_engine_finds_the_answer():
    printed = run_example("custom_engine.py")
    assert "Doc 1(Title: Moon) Neil Armstrong" in printed
    assert "reward 1.0" in printed


def test_custom_reward_pays_every_turn():
    printed = run_example("custom_reward.py")
    assert [line[:5] for line in printed.splitlines()] == ["+0.05", "-0.10", "-0.20", "+1.00"]


def test_custom_algorithm_trains():
    printed = run_example("custom_algorithm.py", "1")
    assert re.fullmatch(r"update 1: F1 0\.\d{3}, \d+% of the episodes imitated\n", printed)


@pytest.mark.timeout(900)  # against hanging only: a crowded machine takes minutes
def test_ppo_learns_to_search_with_macro_actions():
    """A learning test: half a minute of processor time, for half of the example's steps."""
    pytest.importorskip("stable_baselines3")
    printed = run_example("sb3_macro.py", "20000")
    random, trained = (float(line.split()[1]) for line in printed.splitlines())
    assert random < 0.2
    assert trained >= random + 0.3
