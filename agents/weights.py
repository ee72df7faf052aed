"""The weights in a model folder: which they are, and how many."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

_PART: Final = 2**24


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
        files = sorted(folder.glob("*.safetensors"))
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


def weights_checksum(folder: Path) -> str:
    """Return a SHA-256 over the weights in a model folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            while part := opened.read(_PART):
                digest.update(part)
    return digest.hexdigest()
