"""Counter-based randomness: every draw is a pure function of a seed and of what it is drawn for.

A generator that is advanced step by step gives each draw by its place in the program's history,
so a replay, a resume or another batch layout changes it. Here a draw is *named* instead: by the
seed of its stream and by counters such as (turn, token). The hash is SplitMix64's finaliser,
applied once a counter; it is meant for simulations, not for secrets.

Everything exists twice: on Python integers for single draws, and on numpy arrays for batches.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_MASK: Final = (1 << 64) - 1
_GAMMA: Final = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: SplitMix64's distance between counters
_FACTOR_1: Final = 0xBF58476D1CE4E5B9
_FACTOR_2: Final = 0x94D049BB133111EB


def _absorb(state: int, counter: int) -> int:
    """Return 64 bits that mix one more counter into 64 others."""
    # SplitMix64's finaliser modulo 2**64: a bijection that spreads all bits.
    state = (state + (counter + 1) * _GAMMA) & _MASK
    state = ((state ^ (state >> 30)) * _FACTOR_1) & _MASK
    state = ((state ^ (state >> 27)) * _FACTOR_2) & _MASK
    return state ^ (state >> 31)


def _hash(seed: int, counters: tuple[int, ...]) -> int:
    """Return 64 random bits for the draw named by `seed` and `counters`."""
    state = _absorb(seed, 0)
    for counter in counters:
        state = _absorb(state, counter)
    return state


class Stream:
    """The draws of one seed by a single counter, for half the price.

    Args:
        seed: Any integer; taken modulo 2**64.

    Example:
        >>> Stream(7).uniform(3) == uniform(7, 3), Stream(7).derive(3) == derive(7, 3)
        (True, True)
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int) -> None:
        """Hash the seed, once for all draws."""
        self._state = _absorb(seed, 0)

    def derive(self, counter: int) -> int:
        """Return `derive(seed, counter)`."""
        return _absorb(self._state, counter) >> 1

    def uniform(self, counter: int) -> float:
        """Return `uniform(seed, counter)`."""
        return (_absorb(self._state, counter) >> 11) * 2.0**-53


def derive(seed: int, *counters: int) -> int:
    """Return the seed of the sub-stream named by `counters`.

    Args:
        seed: Any integer; taken modulo 2**64.
        *counters: Any integers, each taken modulo 2**64; their order and number matter.

    Returns:
        An integer in [0, 2**63), so that it fits an int64 array.

    Example:
        >>> derive(7, 0) == derive(7, 0), derive(7, 0) == derive(7, 1)
        (True, False)
    """
    return _hash(seed, counters) >> 1


def uniform(seed: int, *counters: int) -> float:
    """Return the uniform draw in [0, 1) named by `seed` and `counters`, with 53 random bits.

    Example:
        >>> uniform(7, 0)
        0.7215081806049702
    """
    return (_hash(seed, counters) >> 11) * 2.0**-53


def uniforms(keys: NDArray[np.uint64] | NDArray[np.int64], num: int) -> NDArray[np.float64]:
    """Return the first `num` draws of many streams at once.

    Args:
        keys: The seeds of the streams, shape (B,).
        num: Draws a stream, at least 0.

    Returns:
        An array of shape (B, num) whose entry [i, j] equals `uniform(keys[i], j)` exactly.
    """
    gamma = np.uint64(_GAMMA)
    states = _mix_array(keys.astype(np.uint64) + gamma)
    steps = np.arange(1, num + 1, dtype=np.uint64) * gamma
    bits = _mix_array(states[:, None] + steps[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix_array(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of every element; unsigned array arithmetic wraps by itself."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FACTOR_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_FACTOR_2)
    return values ^ (values >> np.uint64(31))
