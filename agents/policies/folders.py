"""Where a policy is: a shipped one, a folder, a run, or a model on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from agents.policies.model_options import ModelOptions
from agents.weights import named_weights
from zs_env.models import model_folder

POLICIES: Final = ("base", "skill")
"""The shipped models that are policies."""

ADAPTER_CONFIG_FILE: Final = "adapter_config.json"
POLICY_FILE: Final = "policy.json"
"""Tells, in a model folder, what its other files do not: how contexts begin, where that is not as
the tokenizer says, and the type of the numbers below an adapter, where that is not float32."""

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MISSING: Final = "`policy` must name a shipped model or a folder with one, or one on the hub"
_CONFIG_FILES: Final = ["*.json", "*.txt", "*.model", "*.jinja"]


def find_policy(name: str | Path) -> Path:
    """Return the model folder that `name` means.

    Args:
        name: A shipped policy (`base`, `skill`), a model folder (with weights or a LoRA adapter,
            and a tokenizer), a run folder, whose last checkpoint is meant, or a model's id on the
            Hugging Face hub, which is downloaded unless it is in the cache.

    Raises:
        FileNotFoundError: If no model is there.
    """
    # A Path is a folder even if it is called like a shipped model.
    if isinstance(name, str) and name in POLICIES:
        return model_folder(name)
    for folder in (Path(name), Path(name) / "checkpoint"):
        if has_tokenizer(folder) and (_has_model(folder) or _has_adapter(folder)):
            return folder
    if is_hub_id(name):
        return _download_whole(str(name))
    raise FileNotFoundError(f"{_MISSING}, got {name!s}")


def find_config(name: str | Path) -> Path:
    """Return a folder with the configuration of the model that `name` means; weights may lack.

    Raises:
        FileNotFoundError: If there is none.
    """
    if isinstance(name, str) and name in POLICIES:
        return model_folder(name)
    for folder in (Path(name), Path(name) / "checkpoint"):
        if _has_config(folder):
            return folder
        if (folder / ADAPTER_CONFIG_FILE).is_file():
            return find_config(base_of_adapter(folder))
    if is_hub_id(name):
        return download(str(name), _CONFIG_FILES)
    raise FileNotFoundError(f"{_MISSING}, got {name!s}")


def check_whole(name: str | Path) -> None:
    """Check that `name` means a whole model, as training starts from; weights may lack.

    Raises:
        ValueError: If it means a LoRA adapter.
        FileNotFoundError: If it is the id of a model on the hub that cannot be had.
    """
    if isinstance(name, str) and name in POLICIES:
        return
    folders = [Path(name), Path(name) / "checkpoint"]
    if is_hub_id(name):
        folders = [download(str(name), _CONFIG_FILES)]
    for folder in folders:
        if (folder / ADAPTER_CONFIG_FILE).is_file():
            # What is below it is not what training would start from: the penalty's reference.
            raise ValueError(
                f"`policy` must be a whole model to start from, got the LoRA adapter {folder}: "
                "merge it first (zerosearch models merge)"
            )
        if _has_config(folder):
            return


def stored_options(folder: Path) -> ModelOptions:
    """Return options that load a saved model in the type of numbers that it was trained in."""
    # The numbers of an adapter are in float32 always; its policy's file tells of the model below.
    name = POLICY_FILE if (folder / ADAPTER_CONFIG_FILE).is_file() else "config.json"
    try:
        config = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError:
        return ModelOptions()
    return ModelOptions(dtype="bfloat16" if config.get("dtype") == "bfloat16" else "auto")


def base_of_adapter(folder: Path) -> str:
    """Return the name or folder of the model that a LoRA adapter is for.

    Raises:
        ValueError: If its configuration does not tell.
    """
    file = folder / ADAPTER_CONFIG_FILE
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must name `base_model_name_or_path`: {error!r}") from error
    if not isinstance(base, str) or not base:
        raise ValueError(f"{file} must name `base_model_name_or_path`, got {base!r}")
    return base


def adapter_shares_model(folder: Path, policy: str | Path) -> bool:
    """Return whether a folder has a LoRA adapter for the model that a policy is, or adapts.

    Raises:
        FileNotFoundError: If the model below one of them is not there.
    """
    if not _has_adapter(folder):
        return False
    base = base_of_adapter(folder)
    try:
        below = find_config(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} is an adapter for {base}: {error}") from error
    return below.resolve() == find_config(policy).resolve()


def is_hub_id(name: str | Path) -> bool:
    """Return whether `name` can be the id of a model on the hub, and is no path that exists."""
    return isinstance(name, str) and bool(_HUB_ID.fullmatch(name)) and not Path(name).exists()


def download(name: str, patterns: list[str]) -> Path:
    """Return a folder with some files of a model on the hub, or of its copy in the cache.

    Raises:
        FileNotFoundError: If it cannot be had; says why in one line.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"{_MISSING}, got {name}: {reason}") from error


def _download_whole(name: str) -> Path:
    """Return a folder with a model on the hub, and with none of the copies that may lie beside it.

    Raises:
        FileNotFoundError: If it cannot be had, or has no weights in safetensors format.
        ValueError: If its index does not name its weights.
    """
    wanted = named_weights(download(name, _CONFIG_FILES))
    folder = download(name, [*_CONFIG_FILES, *wanted])
    if missing := [each for each in wanted if not (folder / each).is_file()]:
        raise FileNotFoundError(
            f"`policy` must have weights in safetensors format, got {name} without {missing[0]}"
        )
    return folder


def has_tokenizer(folder: Path) -> bool:
    """Return whether a tokenizer lies in a folder: Transformers would make an empty one."""
    names = ("tokenizer.json", "tokenizer.model")
    return any((folder / name).is_file() for name in names) or bool(list(folder.glob("vocab*")))


def _has_config(folder: Path) -> bool:
    """Return whether the configuration of a model is there; a run's has the same name."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "model_type" in found


def _has_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() and bool(list(folder.glob("*.safetensors")))


def _has_adapter(folder: Path) -> bool:
    names = (ADAPTER_CONFIG_FILE, "adapter_model.safetensors")
    return all((folder / name).is_file() for name in names)
