"""Tasks shared out among processes of our own, such that nothing is lost and nobody is left behind.

A process takes one task after the other. A task that raises, or whose process dies, is an outcome
like any other. When the program ends, be it by SIGKILL, its processes end too: a task that nobody
waits for must not go on beside the same task started again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """How a task ended.

    Attributes:
        task: Which one.
        error: Empty, or why it failed, with the traceback if any.
        result: What the function returned; None if it failed.
    """

    task: T
    error: str
    result: Any = None


@dataclass(slots=True)
class _Worker(Generic[T]):
    """A process, the line to it, and what it is at."""

    process: BaseProcess
    line: Connection
    task: T


def outcomes(
    function: Callable[[T], object], tasks: Iterable[T], num_workers: int
) -> Iterator[Outcome[T]]:
    """Run `function` once on each task and yield how that went, in the order in which they end.

    Args:
        function: What to do with a task; of a module, so that another process can import it. What
            it returns is pickled.
        tasks: Begun in their order; they are pickled.
        num_workers: Processes at a time, at least 1; fresh ones, which share nothing.
    """
    waiting = deque(tasks)
    crew: dict[object, _Worker[T]] = {}
    try:
        while waiting or crew:
            while waiting and len(crew) < num_workers:
                worker = _start(function, waiting.popleft())
                crew[worker.line] = worker
            for line in wait([worker.line for worker in crew.values()]):
                worker = crew.pop(line)
                ended, lives = _result(worker)
                if lives and waiting:
                    _give(worker, waiting.popleft())
                    crew[line] = worker
                else:
                    _dismiss(worker)
                yield ended
    finally:
        for worker in crew.values():
            worker.process.terminate()
            _dismiss(worker)


def _start(function: Callable[[T], object], task: T) -> _Worker[T]:
    # Spawned, not forked: a fork of a process whose torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()  # so that the line breaks when the process ends
    worker = _Worker(process, ours, task)
    _give(worker, task)
    return worker


def _give(worker: _Worker[T], task: T) -> None:
    worker.task = task
    with suppress(BrokenPipeError):  # it has just died, which is what reading will tell
        worker.line.send(task)


def _result(worker: _Worker[T]) -> tuple[Outcome[T], bool]:
    """Return how the worker's task ended, and whether the worker can take another."""
    try:
        return Outcome(worker.task, *worker.line.recv()), True
    except (EOFError, ConnectionError):
        worker.process.join()
        error = f"the process ended with exit code {worker.process.exitcode}"
        return Outcome(worker.task, error), False


def _dismiss(worker: _Worker[T]) -> None:
    worker.line.close()
    worker.process.join()


def _serve(function: Callable[[T], object], line: Connection) -> None:
    """Do what comes down the line until it closes; runs in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too: the parent ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            task = line.recv()
            try:
                ended: tuple[str, object] = "", function(task)
            except Exception:
                ended = traceback.format_exc(), None
            line.send(ended)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
