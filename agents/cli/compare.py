"""`zerosearch compare`: the algorithms at equal numbers of episodes, and what is resolved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from agents.cli.experiment import ExperimentCommand
from agents.experiments.comparison import COMPARISON
from agents.experiments.experiment import Experiment


@dataclass(frozen=True)
class Compare(ExperimentCommand):
    """Train the same policy with several algorithms, on the same episodes' worth of experience.

    - Trains every arm once with each seed, and examines every policy in three ways.
    - Writes a JSON file a run; killed and started again, it goes on with the runs that are left.
    - Writes algorithms.json, a page and figures, and says which differences are resolved.
    """

    experiment: ClassVar[Experiment] = COMPARISON

    out: Annotated[
        Path, arg(metavar="DIR", help="Where everything goes; an earlier start is gone on with.")
    ] = Path("runs/algorithms")
    seeds: int = 3
    steps: int = 30
    arms: Annotated[
        tuple[str, ...],
        arg(
            metavar="ARM ...",
            help=f"What to compare, of {', '.join(COMPARISON.arms)}, or any algorithm as "
            "`zerosearch train --algorithm` takes it; nothing means the former.",
        ),
    ] = ()
