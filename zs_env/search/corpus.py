"""A corpus of passages: read from a file once, then from a copy on disk, passage by passage.

The copy is all texts in one file and their ends in another, both mapped into memory: processes
share it, and only what is looked at is ever read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from zs_env.search.build_once import built, file_digest, stamp
from zs_env.search.engine import Document
from zs_env.search.records import read_document
from zs_env.task.json_lines import decode_line, numbered_lines

_VERSION: Final = 1
"""Of the copy's format, and of what `read_document` makes of a record."""

_INSTALL: Final = "pip install 'zs-env[data]'"
_COLUMNS: Final = ("title", "text", "contents")
_ENCODING: Final = ("utf-8", "surrogatepass")  # JSON can escape lone surrogates


def read_corpus(path: Path) -> Iterator[Document]:
    """Yield the passages of a file with one JSON object a line, or of a parquet file.

    Each has `text` or `contents`, and perhaps `title`; see `read_document`.

    Raises:
        ValueError: If a line or row is no passage, or there is none; the message names the file
            and its number, from 1.
        OSError: If the file cannot be read.
        ImportError: If it is a parquet file and pyarrow is missing.
    """
    rows: Iterator[tuple[int, Any]]
    rows = _parquet_rows(path) if _is_parquet(path) else numbered_lines(path)
    number = 0
    for number, row in rows:
        try:
            document = read_document(decode_line(row) if isinstance(row, bytes) else row)
            if not document.text.strip():
                raise ValueError(f"`text` or `contents` must not be blank, got {document.text!r}")
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        yield document
    if not number:
        raise ValueError(f"{path} must hold at least one passage, got none")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"parquet files need pyarrow: {_INSTALL}") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read at all; pyarrow's own OSErrors are about what is in it
        raise ValueError(f"{path}: {error}") from error


class DocumentStore:
    """The passages of a folder that `write_documents` filled, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Map the files of `folder` into memory."""
        self._folder = folder
        self._ends = np.memmap(folder / "ends.bin", dtype="<i8", mode="r")
        self._texts = np.memmap(folder / "texts.bin", dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        """Return the number of passages."""
        return len(self._ends) // 2

    def __getitem__(self, place: int) -> Document:
        """Return one passage.

        Raises:
            IndexError: If there are not as many; negative places do not count from the end.
        """
        if not 0 <= place < len(self):
            raise IndexError(f"`place` must be in [0, {len(self)}), got {place!r}")
        start = int(self._ends[2 * place - 1]) if place else 0
        middle, end = (int(each) for each in self._ends[2 * place : 2 * place + 2])
        title, text = bytes(self._texts[start:middle]), bytes(self._texts[middle:end])
        return Document(text.decode(*_ENCODING), title=title.decode(*_ENCODING))

    def __iter__(self) -> Iterator[Document]:
        """Yield all passages in order, one at a time."""
        return (self[place] for place in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the passages are; a copy maps the same files."""
        return type(self), (self._folder,)


def write_documents(folder: Path, documents: Iterable[Document]) -> None:
    """Write passages to `folder`, for `DocumentStore` to read."""
    end = 0
    with (folder / "texts.bin").open("wb") as texts, (folder / "ends.bin").open("wb") as ends:
        for document in documents:
            for part in (document.title, document.text):
                end += texts.write(part.encode(*_ENCODING))
                ends.write(end.to_bytes(8, "little"))


def open_corpus(path: Path, root: Path) -> tuple[DocumentStore, str]:
    """Return the passages of a corpus file from its copy, and the digest of the file's content.

    Args:
        path: A JSONL or parquet file; see `read_corpus`.
        root: Where the copy is kept, and made if it is not there yet.

    Raises:
        ValueError, OSError, ImportError: As `read_corpus`.
    """
    before = stamp(path)
    digest = file_digest(path, root)

    def copy(folder: Path) -> None:
        write_documents(folder, read_corpus(path))
        if stamp(path) != before:
            raise ValueError(f"{path} must not change while it is read")

    parts = {"corpus": digest, "is_parquet": _is_parquet(path), "version": _VERSION}
    return DocumentStore(built(root, "corpus", parts, copy)), digest
