"""`zerosearch tune card`: write what is known of a model into its card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import check_folder, usage_errors
from agents.cli.simulators import find_model


@dataclass(frozen=True)
class Card:
    """Write README.md beside a model: what was measured of it, its calibration, its figures."""

    model: Annotated[
        str,
        arg(metavar="MODEL", help="A folder with a model and its metrics.json, or a shipped name."),
    ]

    def run(self) -> None:
        """Write the card."""
        from agents.cli.display import say
        from agents.tuning.cards import write_card

        with usage_errors():
            folder = find_model(self.model)
            check_folder(folder, "model")
            file = write_card(folder)
        say(Console(), f"card: {file}")
