"""`zerosearch view`: a training run as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from agents.cli.checks import check_at_least, check_file, usage_errors


@dataclass(frozen=True)
class View:
    """Make a page of a training run: its curve, its episodes token by token, updates compared.

    The page is one file that needs nothing but a browser.

    Attributes:
        updates: Updates whose training episodes the page holds, spread evenly; 0 means all.
    """

    folder: Annotated[
        Positional[Path], arg(metavar="RUN", help="A folder that `zerosearch train` wrote.")
    ]
    out: Annotated[
        Path | None, arg(metavar="FILE", help="Where the page goes; default: RUN/view.html.")
    ] = None
    updates: int = 200

    def run(self) -> None:
        """Write the page."""
        from agents.cli.display import say
        from agents.viewing import VIEW_FILE, write_view

        file = self.out or self.folder / VIEW_FILE
        with usage_errors():
            check_at_least(0, updates=self.updates)
            check_file(file, "out")
            write_view(self.folder, file, self.updates)
        say(Console(), f"page: {file}")
