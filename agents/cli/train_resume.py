"""How a training run is gone on with: its own options, its last checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from rich.console import Console

from agents.cli.data_digests import check_same_data, data_digests
from agents.cli.provenance import provenance
from agents.cli.train import Train
from agents.cli.train_folder import CONFIG_FILE, is_run
from agents.cli.train_setup import Setup
from zs_env.search.names import Place, read_place

HARMLESS: Final = frozenset(
    "resume policy policy_url cache cache_mode log_formats keep_checkpoints "
    "checkpoint_every num_waves".split()
)
"""Options that may change when a run is resumed: they decide no number of it.

The start policy may have moved, but its weights must be the same. The number of waves changes
rounding, as that of processes does, with which it may have to change.
"""


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder tells of how it was started.

    Attributes:
        config: Its options; `out` is the folder, wherever it is now.
        description: All of config.json.
    """

    config: Train
    description: Mapping[str, Any]


def read_run(folder: Path) -> RunRecord:
    """Return how the run in a folder was started.

    Raises:
        ValueError: If there is none, or another version started it.
    """
    if not is_run(folder):
        raise ValueError(f"`resume` must be the folder of a run, got {str(folder)!r}")
    try:
        description = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config = Train(**description["config"] | {"out": str(folder)})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"`resume` must be a run of this version, got {str(folder)!r}: {error}"
        ) from error
    return RunRecord(config, description)


def resumed(given: Train, run: RunRecord) -> Train:
    """Return the options to resume a run with.

    Args:
        given: What the command line says, with the run's own options for what it does not say.
        run: What the folder says.

    Raises:
        ValueError: If they differ in an option that decides numbers of the run.
    """
    for name in (field.name for field in fields(Train)):
        new, old = getattr(given, name), getattr(run.config, name)
        if new == old or name in HARMLESS or (name == "engine" and only_moved(old, new)):
            continue
        raise ValueError(
            f"`{name}` must be {old!r}, as in the run that `resume` names, got {new!r}"
        )
    return replace(given, resume="", recipe="")


def only_moved(old: str, new: str) -> bool:
    """Return whether two names of engines differ in nothing but the hosts and ports of servers.

    Raises:
        ValueError: If a URL in one cannot be one.

    Example:
        >>> old = "retriever:http://node-7:8000/retrieve?contract=gem"
        >>> only_moved(old, "retriever:http://node-9:8080/retrieve?contract=gem")
        True
        >>> only_moved(old, "retriever:http://node-9:8080/retrieve")
        False
    """
    (scheme, place), (new_scheme, new_place) = _scheme_and_place(old), _scheme_and_place(new)
    if scheme != new_scheme or not place.urls or not new_place.urls:
        return False
    return replace(place, urls=_paths(place)) == replace(new_place, urls=_paths(new_place))


def _scheme_and_place(engine: str) -> tuple[str, Place]:
    scheme, _, rest = engine.partition(":")
    return scheme, read_place(rest) if rest.startswith(("http://", "https://")) else Place()


def _paths(place: Place) -> tuple[str, ...]:
    """Return what is left of URLs without hosts and ports; several servers are all alike."""
    parts = map(urlsplit, place.urls)
    return tuple(sorted({f"{part.scheme}:{part.path}" for part in parts}))


def check_data(config: Train, run: RunRecord) -> None:
    """Check, before anything is loaded, that a run's questions and engine are what they were.

    Of a run that an older version started, nothing is known.

    Raises:
        ValueError: If a file has changed.
        OSError: If one cannot be read.
    """
    check_same_data(run.description, data_digests(config.questions, config.asked_engine))


def check_algorithm(config: Train, run: RunRecord) -> None:
    """Check, before anything is loaded, that an algorithm's hyper-parameters are what they were.

    Its options are in its name, but their defaults are in its class, which may have been edited.
    A hyper-parameter that only one of the run and the class knows is let pass, as another version
    may have added or dropped it.

    Raises:
        ValueError: If one has changed; the message names it and both values.
    """
    from agents.cli.train_setup import chosen_algorithm
    from agents.recipe import describe

    old, new = run.description.get("algorithm", {}), describe(chosen_algorithm(config))
    for name in sorted(new.keys() & old.keys()):
        if old[name] != new[name]:
            raise ValueError(
                f"`algorithm` must be as the run started with it, but {name} of "
                f"{config.algorithm} was {old[name]!r} and is {new[name]!r}"
            )


def restore(config: Train, run: RunRecord, setup: Setup, console: Console) -> Setup:
    """Take training to the last checkpoint of a run, if it has one.

    Raises:
        ValueError: If the start weights have changed, or files of the run were lost.
        CheckpointError: If there are checkpoints, and all of them are damaged.
    """
    from agents.callbacks import CHECKPOINTS_FOLDER, check_files
    from agents.checkpoint import newest_checkpoint
    from agents.cli.display import say

    def warn(message: str) -> None:
        say(console, f"warning: {message}")

    wanted = run.description["start_weights_sha256"]
    if setup.weights_checksum != wanted:
        raise ValueError(
            f"`policy` must be the weights that the run started from, with the SHA-256 {wanted}, "
            f"got {config.policy!r} with {setup.weights_checksum}"
        )
    for name, old, new in differences(run.description, provenance()):
        warn(f"{name} was {old} and is {new}: numbers may differ")
    setup = replace(setup, former=run.description)
    checkpoint = newest_checkpoint(config.out_dir / CHECKPOINTS_FOLDER, warn)
    if checkpoint is None:
        return setup
    check_files(config.out_dir, checkpoint.state["files"])
    setup.trainer.restore(checkpoint)
    return replace(setup, resumed_from=checkpoint)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, old value and new value of whatever results depend on and has changed.

    Example:
        >>> list(differences({"versions": {"torch": "2.8"}}, {"versions": {"torch": "2.9"}}))
        [('versions: torch', '2.8', '2.9')]
    """
    for group, values in new.items():
        for name, value in values.items():
            before = old.get(group, {}).get(name)
            if before != value:
                yield f"{group}: {name}", before, value
