"""What commands write."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from shlex import join
from typing import Any

from agents.durable import write_text


def write_json(file: Path, value: Any) -> None:
    """Write `value` to `file`, whole or not at all; folders are made as needed."""
    write_text(file, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(file: Path, values: Iterable[Any]) -> None:
    """Write one JSON value a line, all or none; folders are made as needed."""
    write_text(file, "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values))


def command_line(command: Any) -> str:
    """Return what to type for a command: its name and the options that differ from the defaults."""
    given = [
        (field.name, getattr(command, field.name))
        for field in fields(command)
        if getattr(command, field.name) != field.default
    ]
    flags = [text for name, value in given for text in (f"--{name.replace('_', '-')}", str(value))]
    return join(["zerosearch", type(command).__name__.lower(), *flags])
