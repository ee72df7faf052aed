"""Checks of arguments that several places share; each returns the value in its plain type.

What is of the wrong type and what is out of range get one message, which names the parameter and
quotes the value. NaN passes none of them.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def check_count(name: str, value: Any, minimum: int) -> int:
    """Return `value` as an int.

    Args:
        name: What messages call it.
        value: Any integer, also numpy's; a bool is none.
        minimum: The least that it may be.

    Raises:
        ValueError: If it is no integer, or less than `minimum`.

    Example:
        >>> check_count("max_turns", 3, minimum=1)
        3
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, got {value!r}")
    return int(value)


def check_probability(name: str, value: Any) -> float:
    """Return `value` as a float.

    Args:
        name: What messages call it.
        value: Any real number, also numpy's; a bool is none.

    Raises:
        ValueError: If it is no number, or not in [0, 1].

    Example:
        >>> check_probability("noise", 1)
        1.0
    """
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"`{name}` must be a probability in [0, 1], got {value!r}")
    return float(value)
