"""The weights in a model folder: which they are, and how many."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open


@dataclass(frozen=True, slots=True)
class Weights:
    """What can be told of weights without loading them.

    Attributes:
        weights_sha256: Their identity, as `weights_checksum` returns it.
        num_parameters: How many numbers they are; tied ones are stored, and counted, once.
        dtypes: The types they are stored in, as safetensors names them ("F16"), in order.
    """

    weights_sha256: str
    num_parameters: int
    dtypes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Weights:
        """Return what the files of a model folder say.

        Raises:
            FileNotFoundError: If there are no weights in safetensors format.
            ValueError: If a file is damaged.
        """
        files = weight_files(folder)
        if not files:
            raise FileNotFoundError(f"there are no weights (*.safetensors) in {folder}")
        parts = [part for file in files for part in _tensors(file)]
        return cls(
            weights_checksum(folder),
            sum(math.prod(shape) for shape, _ in parts),
            tuple(sorted({dtype for _, dtype in parts})),
        )


def _tensors(file: Path) -> list[tuple[list[int], str]]:
    """Return shape and type of each tensor in a file."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
            return [(each.get_shape(), each.get_dtype()) for each in slices]
    except SafetensorError as error:
        raise ValueError(f"{file} must hold weights: {error}") from error


def named_weights(folder: Path) -> list[str]:
    """Return the names of the files with a model's weights, which may not be there yet, in order.

    Repositories often hold the same weights again, as `consolidated.safetensors` say, which
    nothing here reads.

    Args:
        folder: With the model's configuration, and the index of its weights if it has one.

    Raises:
        ValueError: If the index does not name them.
    """
    if (folder / "adapter_config.json").is_file():
        return ["adapter_model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} must have a `weight_map`: {error!r}") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{index} must name files in its `weight_map`")
    return sorted(names)


def weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights in a model folder, in order; none where none are.

    Raises:
        ValueError: If its index does not name them.
    """
    named = [folder / name for name in named_weights(folder)]
    return named if all(file.is_file() for file in named) else sorted(folder.glob("*.safetensors"))


def weights_checksum(folder: Path) -> str:
    """Return a SHA-256 over the weights in a model folder.

    Raises:
        ValueError: If its index does not name its weights.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)  # goes on with the one that there is
    return digest.hexdigest()
