"""A transcript for people to look at: plain text, panels in a terminal, a page, or a picture.

Whatever an agent, a language model or the web wrote is shown as text and never acts: not as
terminal control sequences, not as rich's markup, not as HTML.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from zs_env.episode import Message, Role

if TYPE_CHECKING:
    from rich.console import Console

RenderFrame: TypeAlias = str | NDArray[np.uint8]

# Controls but for tab and line feed, bidirectional overrides, and lone surrogates, which no
# encoding of the page or the terminal can hold.
_UNSHOWABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

_COLOURS: Final = {Role.ENVIRONMENT: "blue", Role.AGENT: "green"}


def showable(text: str) -> str:
    r"""Return `text` with every character that could do something replaced by a mark.

    Example:
        >>> showable("\x1b[2J\u202eabc")
        '�[2J�abc'
    """
    return _UNSHOWABLE.sub("\ufffd", text)


def render_ansi(transcript: Sequence[Message]) -> str:
    """Return a transcript as plain text: who wrote what, one block a message."""
    return "\n".join(f"[{role}]\n{showable(text).rstrip()}\n" for role, text in transcript)


def print_panels(messages: Sequence[Message], console: Console | None = None) -> None:
    """Print messages as panels.

    Args:
        messages: What to print.
        console: Where to; None means standard output.
    """
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    console = console or Console()
    for role, text in messages:
        body, style = Text(showable(text).rstrip()), _COLOURS[role]
        console.print(Panel(body, title=role.value, title_align="left", border_style=style))


_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Transcript</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff; }}
section {{ border-left: 4px solid #36c; margin: 1rem 0; padding: .25rem 1rem; }}
section.agent {{ border-color: #293; }}
h2 {{ font-size: .8rem; margin: 0; color: #666; }}
pre {{ font: inherit; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: plaintext; }}
</style>
</head>
<body>
{sections}
</body>
</html>
"""


def render_html(transcript: Sequence[Message]) -> str:
    """Return a transcript as one page of HTML that needs no other file and runs no script."""
    sections = [
        f'<section class="{role}"><h2>{role}</h2>\n<pre>{escape(showable(text))}</pre></section>'
        for role, text in transcript
    ]
    return _PAGE.format(sections="\n".join(sections))


_PICTURE_LINES: Final = 40
_PICTURE_COLUMNS: Final = 100


def render_rgb(transcript: Sequence[Message]) -> NDArray[np.uint8]:
    """Return the end of a transcript as a picture, shape (720, 960, 3), for video recorders."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [
        part
        for line in render_ansi(transcript).splitlines()
        for part in wrap(line, _PICTURE_COLUMNS) or [""]
    ]
    figure = Figure(figsize=(9.6, 7.2), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(
        0.02,
        0.98,
        "\n".join(lines[-_PICTURE_LINES:]),
        family="monospace",
        fontsize=10,
        va="top",
        parse_math=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scripts that the font lacks
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


RENDERERS: Final[dict[str, Callable[[Sequence[Message]], RenderFrame]]] = {
    "ansi": render_ansi,
    "html": render_html,
    "rgb_array": render_rgb,
}


def check_render_mode(render_mode: str | None, modes: Sequence[str]) -> str | None:
    """Return `render_mode`.

    Raises:
        ValueError: If it is not among `modes`.
    """
    if render_mode is not None and render_mode not in modes:
        known = ", ".join(modes)
        raise ValueError(f"`render_mode` must be None or one of {known}, got {render_mode!r}")
    return render_mode
