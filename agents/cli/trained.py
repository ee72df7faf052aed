"""How episodes were played while a run's policy was trained, so that it can be asked that way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agents.cli.train import Train
from agents.cli.train_folder import CONFIG_FILE, is_run
from zs_env.models import MODELS

NAMES: Final = ("prompt", "max_turns", "top_k", "max_new_tokens")
_OF_A_RUN: Final = ("best", "checkpoint")
_LEFT_TO_THE_ID: Final = ("prompt", "top_k")  # their defaults stand for those of `env_id`


def trained_options(policy: str) -> dict[str, Any]:
    """Return those options of training that decide how an episode goes, by name.

    Args:
        policy: What `--policy` names. A run's folder is meant, or its `best` or `checkpoint`: how
            any other model was trained, nobody knows.

    Returns:
        What the run's `config.json` says of `NAMES`; empty where there is none.

    Raises:
        ValueError: If an option there is not of its type.
    """
    folder = Path(policy)
    run = folder.parent if folder.name in _OF_A_RUN else folder
    if policy in MODELS or not is_run(run):
        return {}
    file = run / CONFIG_FILE
    config = _read_config(file)
    found = {name: config[name] for name in NAMES if name in config}
    for name, value in found.items():
        kind = type(getattr(Train, name))
        if type(value) is not kind:
            raise ValueError(f"{file}: `{name}` must be {kind.__name__}, got {value!r:.80}")
    own = _defaults_of(str(config.get("env_id", Train.env_id)))
    return found | {n: own[n] for n in own if found.get(n) == getattr(Train, n)}


def _read_config(file: Path) -> Mapping[str, Any]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    config = description.get("config") if isinstance(description, dict) else None
    return config if isinstance(config, dict) else {}


def _defaults_of(env_id: str) -> dict[str, Any]:
    """Return what an environment's id says of the options that training leaves to it."""
    if env_id == Train.env_id:
        return {}
    import gymnasium as gym

    import zs_env  # noqa: F401 - registers the ids

    spec = gym.registry.get(env_id.rpartition(":")[2])
    kwargs = spec.kwargs if spec else {}
    return {name: kwargs[name] for name in _LEFT_TO_THE_ID if name in kwargs}
