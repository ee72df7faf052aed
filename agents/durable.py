"""Files and folders that are there whole or not at all, also after the power failed.

What is written goes aside, is forced to the disk, and is renamed. Whoever reads in between sees
what was there before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    is_windows = os.name == "nt"
    if is_windows and path.is_dir():
        return  # Windows opens no folders, and forces only what may be written
    descriptor = os.open(path, os.O_RDWR if is_windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a file aside, force it to the disk, and rename it.

    Args:
        file: What to write; one that is there is replaced, and folders are made as needed.
        write: Gets the path of the file to write.

    Raises:
        OSError: If it cannot be written; a file that was there is left as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    write(partial)
    to_disk(partial)
    partial.replace(file)
    to_disk(file.parent)


def write_text(file: Path, text: str) -> None:
    """Write `text` in UTF-8 as `write_file` does."""
    write_file(file, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a folder aside and fill it, force it to the disk, and rename it.

    A folder that is already there is replaced. It steps aside for the moment of two renamings:
    a crash between them leaves neither, but what was written under its hidden name.

    Args:
        folder: What to write.
        write: Gets the path of the folder to make.

    Raises:
        OSError: If it cannot be written; a folder that was there is left as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(partial)
    for path in (*partial.rglob("*"), partial):
        to_disk(path)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that nobody sees a part of it; it may be missing."""
    if not folder.exists():
        return
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)
