import os
import signal
import subprocess
import sys
import time

import pytest

from agents.experiments.workers import Outcome, outcomes

PARENT = """
import multiprocessing, time
from agents.experiments.workers import outcomes
import threading

def tell():
    while not multiprocessing.active_children():
        time.sleep(0.01)
    print(multiprocessing.active_children()[0].pid, flush=True)

if __name__ == "__main__":
    threading.Thread(target=tell).start()
    list(outcomes(time.sleep, [100], 1))
"""


def test_every_task_has_one_outcome() -> None:
    found = list(outcomes(time.sleep, [0.0, 0.01, 0.02], num_workers=2))
    assert sorted(found, key=lambda outcome: outcome.task) == [
        Outcome(0.0, ""),
        Outcome(0.01, ""),
        Outcome(0.02, ""),
    ]


def test_outcome_holds_what_was_returned() -> None:
    found = list(outcomes(abs, [-2, 3], num_workers=1))
    assert found == [Outcome(-2, "", 2), Outcome(3, "", 3)]


def test_no_tasks_have_no_outcomes() -> None:
    assert not list(outcomes(time.sleep, [], num_workers=2))


def test_one_worker_takes_tasks_in_their_order_and_goes_on_after_an_error() -> None:
    first, second, third = outcomes(time.sleep, [0.01, "soon", 0.0], num_workers=1)
    assert (first.error, third) == ("", Outcome(0.0, ""))
    assert "TypeError" in second.error
    assert "Traceback" in second.error


def test_death_of_a_process_is_the_outcome_of_its_task_and_of_no_other() -> None:
    found = list(outcomes(os._exit, [3, 4], num_workers=1))
    assert found == [
        Outcome(3, "the process ended with exit code 3"),
        Outcome(4, "the process ended with exit code 4"),
    ]


def test_processes_end_when_their_outcomes_are_not_waited_for() -> None:
    start = time.monotonic()
    running = outcomes(time.sleep, [0.0, 100], num_workers=2)
    assert next(running) == Outcome(0.0, "")
    running.close()
    assert time.monotonic() - start < 60


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_processes_end_with_a_parent_that_was_killed(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(1.0)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
