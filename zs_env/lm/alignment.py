"""Weights where arithmetic expects them, so that equal weights give equal numbers."""

from __future__ import annotations

from typing import Final, TypeVar

import torch

ALIGNMENT: Final = 64
"""Bytes that torch's own allocator aligns memory to, on a CPU."""

_ModuleT = TypeVar("_ModuleT", bound=torch.nn.Module)


def aligned(module: _ModuleT) -> _ModuleT:
    """Give tensors that lie askew in memory a place of their own; return the same module.

    Tensors of a safetensors file are parts of its mapping and begin wherever its header ends.
    Matrix products of unaligned numbers may be added up in another order, and a model that was
    saved and loaded then rounds otherwise than the one that was saved.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    return module
