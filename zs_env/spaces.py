"""A space of texts: any unicode, up to a length.

Gymnasium's own `Text` enumerates its alphabet and checks every character, which excludes prose
and costs 60 microseconds a kilobyte.
"""

from __future__ import annotations

from typing import Any, Final

from gymnasium import Space
from numpy.random import Generator

from zs_env.checks import check_count

_WORDS: Final = (
    "who which where when what city river film company country founder director born capital "
    "of the in was is named Zoë Łódź Ångström 東京 Ελλάδα 1972"
).split()
_TEMPLATES: Final = (
    "<search>{0}</search>",
    "<think>{1}</think><search>{0}</search>",
    "<answer>{0}</answer>",
    "<think>{1}</think><answer>{0}</answer>",
    "{0}",
)


class UnicodeText(Space[str]):
    """All strings of at most `max_length` characters.

    Membership is decided by type and length alone, in constant time. Samples are short texts as
    an agent might write them: searches, answers, and prose that is neither.

    Args:
        max_length: Characters of the longest member, at least 1.
        seed: Seed of the samples, or a generator; None seeds from the system.

    Raises:
        ValueError: If `max_length` is no integer or less than 1.

    Example:
        >>> space = UnicodeText(10)
        >>> "naïve" in space, "eleven char" in space
        (True, False)
    """

    def __init__(self, max_length: int, seed: int | Generator | None = None) -> None:
        """Check and keep the bound."""
        self.max_length = check_count("max_length", max_length, minimum=1)
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Whether members can become number arrays of one shape: they cannot."""
        return False

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Return a random member.

        Raises:
            ValueError: If a mask or probabilities are given: there is nothing to weigh.
        """
        if mask is not None or probability is not None:
            raise ValueError(
                f"`mask` and `probability` must be None, got {mask!r} and {probability!r}"
            )
        template = _TEMPLATES[self.np_random.integers(len(_TEMPLATES))]
        return template.format(self._prose(), self._prose())[: self.max_length]

    def _prose(self) -> str:
        chosen = self.np_random.integers(len(_WORDS), size=self.np_random.integers(1, 8))
        return " ".join(_WORDS[index] for index in chosen)

    def contains(self, x: object) -> bool:
        """Return whether `x` is a string within the bound."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is a text space with the same bound."""
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        """Return a hash that equal spaces share."""
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        """Return the expression that makes the space."""
        return f"UnicodeText({self.max_length})"
