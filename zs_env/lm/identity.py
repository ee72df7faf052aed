"""Which model it is: digests of everything that decides what a model writes."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Cards, measurements and calibrations lie in the same folder and change nothing.
_FILES: Final = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*",
    "tokenizer*",
    "*token*.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.jinja",
)


def model_digest(path: str | Path) -> str:
    """Return a SHA-256 over configuration, weights and tokenizer of a model.

    Of an adapter, the model below it is a part.

    Args:
        path: A folder, or a hub id whose model was loaded before. A file is read once a process
            as long as its size and time of change stay.

    Raises:
        FileNotFoundError: If there are no such files.
    """
    folder = _find_folder(path)
    files = sorted({file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise FileNotFoundError(f"there are no files of a model in {folder}")
    whole = hashlib.sha256()
    for file in files:
        status = file.stat()
        part = _file_digest(file.absolute(), status.st_size, status.st_mtime_ns)
        whole.update(f"{file.name} {part}\n".encode())
    if (adapter := folder / "adapter_config.json") in files:
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        whole.update(f"base {model_digest(base)}\n".encode())
    return whole.hexdigest()


def _find_folder(path: str | Path) -> Path:
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(str(path), "config.json")
    except HFValidationError:
        found = None  # it cannot be a hub id: it is a folder that is not there
    if not isinstance(found, str):
        raise FileNotFoundError(f"there is no model at {path}")
    return Path(found).parent


@cache
def _file_digest(file: Path, size: int, mtime_ns: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def state_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 over the weights, configuration and tokenizer that are in memory."""
    whole = hashlib.sha256(model.config.to_json_string().encode())
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
        # How the last call padded its batch is remembered there too.
        del parts["padding"], parts["truncation"]
        whole.update(json.dumps(parts).encode())
    else:
        whole.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        whole.update(flat.view(torch.uint8).numpy())
    return whole.hexdigest()
