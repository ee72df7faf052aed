"""Ranges of hyper-parameters."""

from __future__ import annotations


def check_not_negative(**values: float) -> None:
    """Check that each of `values` is 0 or more.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be 0 or more, got {value!r}")


def check_share(**values: float) -> None:
    """Check that each of `values` is in [0, 1].

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be in [0, 1], got {value!r}")


def check_count(minimum: int, **values: int) -> None:
    """Check that each of `values` is at least `minimum`.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {value!r}")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Check that a value is one of those that there are.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        known = ", ".join(map(str, choices))
        raise ValueError(f"`{name}` must be one of {known}, got {value!r}")
