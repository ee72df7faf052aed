"""Options of `zerosearch train` from a YAML file: the paper's settings, or one's own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Final, get_type_hints

from agents.cli.checks import check_input
from agents.cli.train import OF_ALGORITHMS, Train
from agents.cli.tune_run import converted
from agents.tuning.pipeline import read_table
from agents.tuning.records import located

_NOT_IN_FILES: Final = ("recipe", "resume", "dry_run")


def recipe_options(file: Path, algorithm: str = Train.algorithm) -> Train:
    """Return the options that a file gives, and the defaults of all others.

    Args:
        file: A YAML mapping from the names of options to values.
        algorithm: What the command line says. One that is neither the default nor the file's does
            without what the file says about algorithms and it does not know.

    Raises:
        ValueError: If there is no such algorithm.
        DataError: If it is none, or an option is unknown or of the wrong type; names the line.
        OSError: If it cannot be read.
    """
    check_input(file, "recipe")
    known = [field.name for field in fields(Train) if field.name not in _NOT_IN_FILES]
    table, kinds = read_table(file, "train", known), get_type_hints(Train)
    options = {}
    for name, setting in table.settings.items():
        with located(file, setting.line):
            try:
                options[name] = converted(setting.value, kinds[name])
            except TypeError as error:
                raise ValueError(f"`{name}` must be {error}, got {setting.value!r:.80}") from error
    if algorithm not in (Train.algorithm, options.get("algorithm")):
        from agents.algorithms.registry import option_names

        for name in OF_ALGORITHMS - option_names(algorithm):
            options.pop(name, None)
    return Train(**options)
