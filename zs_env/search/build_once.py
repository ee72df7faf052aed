"""What is costly to make from files, and is kept on disk: made once, whole or not at all.

An entry is a folder whose name is a digest of all that it was made from. It is built beside its
place and moved there when it is done. Processes that want the same at the same time wait for the
one that builds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

FOLDER_VARIABLE: Final = "ZS_CACHE"

_SETTLED_NS: Final = 2_000_000_000
"""A file that changed just now may change again within one tick of its file system's clock."""


def default_folder() -> Path:
    """Return the folder that `$ZS_CACHE` names, or `~/.cache/zs_env`."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "zs_env"


def built(root: Path, kind: str, parts: Mapping[str, Any], build: Callable[[Path], object]) -> Path:
    """Return the folder of an entry, which `build` fills if it is not there yet.

    Args:
        root: Where entries are kept; made if need be.
        kind: What the entry is, the beginning of its name.
        parts: All that it is made from, as JSON can say it.
        build: Fills the empty folder that it is given.

    Raises:
        OSError: If `root` cannot be written to.
    """
    description = json.dumps(parts, sort_keys=True, indent=1)
    digest = hashlib.sha256(description.encode()).hexdigest()
    folder = root / f"{kind}-{digest[:32]}"
    if folder.is_dir():
        return folder
    from filelock import FileLock

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f".{folder.name}.lock"):
        if not folder.is_dir():
            _build(folder, description, build)
    return folder


def _build(folder: Path, description: str, build: Callable[[Path], object]) -> None:
    """Fill a folder and move it to its place; the caller holds its lock."""
    for left_over in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a process that was killed
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    temporary.mkdir()
    try:
        build(temporary)
        (temporary / "made_from.json").write_text(description, encoding="utf-8")
        temporary.rename(folder)
    except OSError:
        # Where locks do not hold, as on some network drives, another process may have been first.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def stamp(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change, which differ once it has been written to."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def file_digest(path: Path, root: Path) -> str:
    """Return the SHA-256 of a file's content, from memory if the file did not change since.

    Args:
        path: The file.
        root: Where the digest is remembered, by the file's path, size and time of change.

    Raises:
        OSError: If the file cannot be read.
    """
    path = path.resolve()
    size, changed = stamp(path)
    facts = {"path": str(path), "size": size, "mtime_ns": changed}
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    memory = root / "digests" / f"{name}.json"
    known = _read_json(memory)
    if known and facts.items() <= known.items() and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = _digest(path)
    if stamp(path) == (size, changed) and time.time_ns() - changed > _SETTLED_NS:
        with suppress(OSError):  # a folder that cannot be written to still serves what is in it
            _write_json(memory, facts | {"sha256": digest})
    return digest


def folder_digest(folder: Path, root: Path) -> str:
    """Return a digest of a folder's files, their names and content; hidden ones do not count.

    Raises:
        OSError: If one cannot be read.
    """
    files = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    seen = {
        name: file_digest(path, root)
        for name, path in names.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)
