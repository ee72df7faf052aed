"""`zerosearch miniature`: the paper's experiment in miniature, and what became of its claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import arg

from agents.cli.experiment import ExperimentCommand
from agents.experiments.experiment import Experiment
from agents.experiments.miniature import MINIATURE


@dataclass(frozen=True)
class Miniature(ExperimentCommand):
    """Train tiny policies with simulators of several sizes and with the real engine; compare them.

    - Trains every arm once with each seed, and examines every policy with the real engine.
    - Writes a JSON file a run; killed and started again, it goes on with the runs that are left.
    - Writes miniature.json, a page and figures, and says of each claim whether it holds.
    """

    experiment: ClassVar[Experiment] = MINIATURE

    out: Annotated[
        Path, arg(metavar="DIR", help="Where everything goes; an earlier start is gone on with.")
    ] = Path("runs/miniature")
    arms: Annotated[
        tuple[str, ...],
        arg(
            metavar="ARM ...",
            help=f"What to compare, of {', '.join(MINIATURE.arms)}; nothing means "
            f"{', '.join(MINIATURE.default_arms)}.",
        ),
    ] = ()
