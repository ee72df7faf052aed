"""The tiny models that ship with the package, in Hugging Face format, each with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Final

SIMULATORS: Final = ("simulator", "simulator-tiny", "simulator-medium")
MODELS: Final = (*SIMULATORS, "base", "skill")


def model_folder(name: str) -> Path:
    """Return the folder of a shipped model.

    Args:
        name: "simulator-tiny", "simulator" or "simulator-medium" (write documents), "base" (the
            policy that training starts from), or "skill" (the policy before its weaknesses were
            planted).

    Raises:
        ValueError: If there is no model of that name.
        FileNotFoundError: If the installation lacks its weights.
    """
    if name not in MODELS:
        raise ValueError(f"`name` must be one of {', '.join(MODELS)}, got {name!r}")
    folder = Path(__file__).parent / name
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"the weights of the shipped model {name!r} are missing: {folder}")
    return folder
