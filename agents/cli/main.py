"""`zerosearch`: reads the command line, runs one command, and turns failures into exit codes.

0 is success, 1 an audit that found a violation, 2 a mistake of the caller, told in one line, 130 an
interruption, and 141 a closed pipe. Anything else that is raised is a mistake in the program and
keeps its traceback.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

import agents
from agents.cli.audit import Audit
from agents.cli.bench import Bench
from agents.cli.cache import Cache
from agents.cli.checks import CommandError, usage_errors
from agents.cli.compare import Compare
from agents.cli.demo import Demo
from agents.cli.evaluate import Evaluate
from agents.cli.miniature import Miniature
from agents.cli.models import Models
from agents.cli.play import Play
from agents.cli.recipes import recipe_options
from agents.cli.report import Report
from agents.cli.search import Search
from agents.cli.serve import Serve
from agents.cli.train import Train
from agents.cli.tune import Tune
from agents.cli.view import View
from zs_env.lm.generator import LanguageModelError
from zs_env.search.engine import SearchEngineError

PROGRAM = "zerosearch"
DESCRIPTION = """Train language models to search, with another one as the search engine.

`zerosearch COMMAND --help` lists a command's options and their defaults."""

Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Bench, subcommand("bench")]
    | Annotated[Report, subcommand("report")]
    | Annotated[View, subcommand("view")]
    | Annotated[Audit, subcommand("audit")]
    | Annotated[Play, subcommand("play")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Models, subcommand("models")]
    | Annotated[Miniature, subcommand("miniature")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Tune, subcommand("tune")]
    | Annotated[Search, subcommand("search")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Cache, subcommand("cache")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: What follows the program's name; None means the process's own arguments.

    Returns:
        The exit code.
    """
    # A bar for each model file that is read or written would run through our own display.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        check_package()
        parse(sys.argv[1:] if argv is None else argv).run()
    except KeyboardInterrupt:
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (CommandError, SearchEngineError, LanguageModelError, OSError) as error:
        print(f"{PROGRAM}: error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def parse(argv: Sequence[str]) -> Command:
    """Return the command that `argv` describes.

    Raises:
        CommandError: If it describes none.
        SystemExit: After printing the help that it asks for.
    """
    command = _read(argv)
    if isinstance(command, Train) and command.recipe:
        if command.resume:
            raise CommandError(f"`recipe` must be left out beside `resume`, got {command.recipe!r}")
        with usage_errors():
            given = recipe_options(Path(command.recipe), command.algorithm)
        return _read(argv, default=given)
    if isinstance(command, Train) and command.resume:
        # Read again: what is not said is as in that run, so that what is said can be told from it.
        return _read(argv, default=command.saved())
    if isinstance(command, Evaluate):
        with usage_errors():
            defaults = command.as_trained()
        return command if defaults == Evaluate() else _read(argv, default=defaults)
    return command


def _read(argv: Sequence[str], **options: Any) -> Command:
    errors = io.StringIO()
    try:
        with redirect_stderr(errors):
            command: Command = tyro.cli(
                Command,
                prog=PROGRAM,
                description=DESCRIPTION,
                args=list(argv),
                config=(OmitArgPrefixes, OmitSubcommandPrefixes),
                **options,
            )
            return command
    except SystemExit as exit_:
        if exit_.code == 2:
            raise CommandError(misspelt(argv) or unboxed(errors.getvalue())) from None
        raise


def misspelt(argv: Sequence[str]) -> str:
    """Return the line that asks whether another command was meant, where one is spelt much alike.

    Example:
        >>> misspelt(["trian", "--steps", "3"]), misspelt(["train"]), misspelt(["fly"])
        ('Unrecognized options: trian; did you mean train?', '', '')
    """
    names = [each.__metadata__[0].name for each in get_args(Command)]
    if not argv or argv[0] in names:
        return ""
    close = get_close_matches(argv[0], names, n=1)
    return f"Unrecognized options: {argv[0]}; did you mean {close[0]}?" if close else ""


_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_BORDER = re.compile(r"^[\s│|]+|[\s│|]+$")


def unboxed(text: str) -> str:
    r"""Return what the box that tyro draws around an error says, up to its first rule.

    Example:
        >>> unboxed("╭─ Parsing error ─╮\n│ Unknown: --x    │\n│ ─────────────── │\n╰───╯")
        'Unknown: --x'
    """
    kept: list[str] = []
    for line in _STYLE.sub("", text).splitlines():
        content = _BORDER.sub("", line)
        if content.startswith("─"):
            break
        if content and content[0] not in "╭╰":
            kept.append(content)
    return " ".join(kept)


def one_line(text: str) -> str:
    """Return `text` with every run of white space as one space."""
    return " ".join(text.split())


def check_package() -> None:
    """Check that `agents` is this package and not PyPI's openai-agents, installed over it.

    Raises:
        CommandError: If it is not.
    """
    try:
        other = distribution("openai-agents").locate_file("agents/__init__.py")
    except PackageNotFoundError:
        return
    if Path(str(other)).resolve() == Path(str(agents.__file__)).resolve():
        raise CommandError(
            "the package `agents` in this environment is that of openai-agents; it and zs-env "
            "cannot share an environment: uninstall openai-agents and install zs-env again"
        )


if __name__ == "__main__":
    sys.exit(main())
