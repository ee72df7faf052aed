"""`zerosearch tune`: make a simulator of a search engine out of real searches, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import subcommand

from agents.cli.tune_calibrate import Calibrate
from agents.cli.tune_card import Card
from agents.cli.tune_collect import Collect
from agents.cli.tune_label import Label
from agents.cli.tune_measure import Measure
from agents.cli.tune_run import Run
from agents.cli.tune_sft import Sft


@dataclass(frozen=True)
class Tune:
    """Tune a simulator on real searches: every stage is a file in and a file out, resumable."""

    command: (
        Annotated[Run, subcommand("run")]
        | Annotated[Collect, subcommand("collect")]
        | Annotated[Label, subcommand("label")]
        | Annotated[Sft, subcommand("sft")]
        | Annotated[Measure, subcommand("measure")]
        | Annotated[Calibrate, subcommand("calibrate")]
        | Annotated[Card, subcommand("card")]
    )

    def run(self) -> None:
        """Run the command below this one."""
        self.command.run()
