"""An experiment: arms that are compared, what is measured of them, and what is claimed of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from agents.experiments.claims import Claim
from agents.experiments.design import Arm


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is compared, and how.

    Attributes:
        name: Names its files.
        title: Of its page.
        about: What it compares, as a sentence.
        arms: Every arm by name.
        default_arms: Those that are compared unless others are named.
        measures: Columns of its table; the first, an exam, decides claims that name no other.
        claims: What is tested, each if all of its arms are compared.
        remarks: Paragraphs that a reader of its numbers should know.
        make_arm: Returns an arm of any other name, or raises ValueError; None if there are none.
    """

    name: str
    title: str
    about: str
    arms: Mapping[str, Arm]
    default_arms: tuple[str, ...]
    measures: tuple[str, ...]
    claims: tuple[Claim, ...]
    remarks: tuple[str, ...] = ()
    make_arm: Callable[[str], Arm] | None = None


def find_arms(experiment: Experiment, names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the arms of some names, each once.

    Raises:
        ValueError: If one is unknown, or there is none.
    """
    if not names:
        raise ValueError("`arms` must name at least one arm")
    return tuple(_find_arm(experiment, name) for name in dict.fromkeys(names))


def claims_about(experiment: Experiment, names: Collection[str]) -> tuple[Claim, ...]:
    """Return the claims whose arms are all among `names`: no other can be tested by them."""
    return tuple(claim for claim in experiment.claims if _arms_of([claim]) <= set(names))


def other_pairs(experiment: Experiment, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return what is compared beside the claims: each arm that none is about with each other arm.

    Those come first in their pairs, and later names before earlier ones. The default arms have
    no other pairs: what is asked of them are the claims.

    Args:
        experiment: Whose claims.
        names: Of the arms that are compared, each once.
    """
    if set(names) == set(experiment.default_arms):
        return ()
    claimed = _arms_of(claims_about(experiment, names))
    return tuple(
        (name, other)
        for place, name in enumerate(names)
        if name not in claimed
        for at, other in enumerate(names)
        if other in claimed or at < place
    )


def _arms_of(claims: Iterable[Claim]) -> set[str]:
    return {name for claim in claims for pair in claim.pairs for name in pair}


def _find_arm(experiment: Experiment, name: str) -> Arm:
    if name in experiment.arms:
        return experiment.arms[name]
    if experiment.make_arm is None:
        raise ValueError(f"`arms` must be among {', '.join(experiment.arms)}, got {name!r}")
    return experiment.make_arm(name)
