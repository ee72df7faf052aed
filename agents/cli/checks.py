"""The caller's mistakes: how they are found before anything is written, and how they are told."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium as gym


class CommandError(Exception):
    """A mistake of the caller that a command reports in one line."""


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Report a failure of the body as the caller's mistake.

    For the part of a command that checks options and loads what they name. Whatever fails later
    is a mistake in the program and keeps its traceback.

    Args:
        kinds: What is the caller's mistake; nothing means whatever wrong options can raise.

    Raises:
        CommandError: In the place of such an error.
    """
    mistakes = kinds or (ValueError, TypeError, ImportError, OSError, gym.error.Error)
    try:
        yield
    except mistakes as error:
        raise CommandError(str(error)) from error


def check_at_least(minimum: float, **values: float) -> None:
    """Check that each of `values`, given by the name of its option, is at least `minimum`.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")


def check_positive(**values: float) -> None:
    """Check that each of `values`, given by the name of its option, is positive and finite.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be greater than 0 and finite, got {value!r}")


def check_probability(**values: float) -> None:
    """Check that each of `values`, given by the name of its option, is in [0, 1].

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be a probability in [0, 1], got {value!r}")


def check_folder(folder: Path, name: str = "out") -> None:
    """Check that files can be put into `folder`, which need not exist; nothing is left behind.

    Args:
        folder: What the option says.
        name: Of the option.

    Raises:
        ValueError: If they cannot.
    """
    _check_writable(folder, f"`{name}` must be a folder that can be written, got {str(folder)!r}")


def check_file(file: Path | None, name: str) -> None:
    """Check that `file` can be written, whose folder need not exist; None passes.

    Args:
        file: What the option says.
        name: Of the option.

    Raises:
        ValueError: If it cannot.
    """
    if file is None:
        return
    mistake = f"`{name}` must be a file that can be written, got {str(file)!r}"
    if file.is_dir():
        raise ValueError(f"{mistake} (it is a folder)")
    _check_writable(file.parent, mistake)


def check_input(file: Path, name: str) -> None:
    """Check that `file`, which a command is to read, is there; it may be a pipe.

    Args:
        file: What the option says.
        name: Of the option.

    Raises:
        FileNotFoundError: If it is not.
    """
    if not file.exists() or file.is_dir():
        raise FileNotFoundError(f"`{name}` must be a file that is there, got {str(file)!r}")


def _check_writable(folder: Path, mistake: str) -> None:
    """Raise ValueError, worded `mistake`, if nothing can be put into `folder`."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        # Permission bits tell too little: root passes them all, also on a read-only disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(f"{mistake} ({error.strerror or error})") from error
