"""BM25 over a corpus of passages: the real engine that trained agents are judged with.

The passages are texts in memory, or a file of any size, whose index is made once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

from zs_env.checks import check_probability
from zs_env.search.batches import QueryBatch, put_together, split_by_top_k
from zs_env.search.build_once import built, default_folder
from zs_env.search.corpus import DocumentStore, open_corpus
from zs_env.search.description import digest
from zs_env.search.engine import Document, SearchRequest

_VERSION: Final = 1
"""Of how passages become words."""


class BM25SearchEngine:
    """Rank passages with the library bm25s; noise and golden answers of a request are ignored."""

    makes_noise: Final = False

    def __init__(
        self, passages: Sequence[str | Document], *, k1: float = 1.5, b: float = 0.75
    ) -> None:
        """Index `passages` (at least one) in memory.

        Args:
            passages: Texts, or documents whose title is searched too.
            k1: How much a word counts that comes again, at least 0.
            b: How much the length of a passage counts, in [0, 1].

        Raises:
            ValueError: If a parameter is out of range, or there is no word in the passages.
        """
        if not passages:
            raise ValueError(f"`passages` must not be empty, got {passages!r}")
        documents = [p if isinstance(p, Document) else Document(p) for p in passages]
        self._documents: Sequence[Document] | DocumentStore = documents
        self._index = _make_index(documents, k1, b)
        self._parameters, self._passages_sha256 = {"k1": k1, "b": b}, ""

    @classmethod
    def from_file(
        cls,
        corpus: str | Path,
        *,
        k1: float = 1.5,
        b: float = 0.75,
        index: str | Path | None = None,
    ) -> BM25SearchEngine:
        """Return the engine over a corpus file, from its index on disk or after making that.

        Passages and index are mapped into memory, which processes share.

        Args:
            corpus: A JSONL or parquet file of `text` or `contents` and perhaps `title`.
            k1: As for passages in memory.
            b: The same.
            index: Folder where indices are kept; None means `$ZS_CACHE` or `~/.cache/zs_env`. Its
                entries are named after what they were made from, so that many can share it.

        Raises:
            ValueError: If a parameter is out of range, or the file is no corpus; the message tells
                file and line.
            OSError: If the file cannot be read, or the folder not written to.
            ImportError: If it is a parquet file and pyarrow is missing.
        """
        import bm25s

        _check_parameters(k1, b)
        root = default_folder() if index is None else Path(index).expanduser()
        documents, passages = open_corpus(Path(corpus).expanduser(), root)
        version = [bm25s.__version__, _VERSION]
        parts = {"corpus": passages, "k1": float(k1), "b": float(b), "version": version}
        folder = built(
            root,
            "bm25",
            parts,
            lambda folder: _make_index(documents, k1, b).save(folder, show_progress=False),
        )
        engine = cls.__new__(cls)
        engine._documents = documents
        engine._index = bm25s.BM25.load(folder, mmap=True, show_progress=False)
        engine._parameters, engine._passages_sha256 = {"k1": k1, "b": b}, passages
        return engine

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on: a digest of the passages, and the parameters."""
        passages = self._passages_sha256 or digest([[d.title, d.text] for d in self._documents])
        return {"engine": "bm25", "passages_sha256": passages, **self._parameters}

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the best-scoring passages of each request, best first.

        A query that shares no word with any passage finds nothing: an empty list.
        """
        batches = split_by_top_k(requests)
        return put_together(batches, map(self._search, batches))

    def _search(self, batch: QueryBatch) -> list[list[Document]]:
        """Return up to `top_k` documents of positive score a query."""
        ids, scores = self._index.retrieve(
            _tokenize(batch.queries, return_ids=False),
            k=min(batch.top_k, len(self._documents)),
            show_progress=False,
        )
        return [
            [self._documents[int(i)] for i, score in zip(*row, strict=True) if score > 0]
            for row in zip(ids, scores, strict=True)
        ]


def _check_parameters(k1: float, b: float) -> None:
    if not 0 <= k1 < inf:
        raise ValueError(f"`k1` must be a number of at least 0, got {k1!r}")
    check_probability("b", b)


def _make_index(documents: Iterable[Document], k1: float, b: float) -> Any:
    """Return an index over documents, which are looked at one by one."""
    import bm25s

    _check_parameters(k1, b)
    words = _tokenize(f"{d.title} {d.text}" if d.title else d.text for d in documents)
    if not words.vocab:
        raise ValueError("the passages must hold a word to search for, got none")
    index = bm25s.BM25(k1=k1, b=b)
    index.index(words, show_progress=False)
    return index


def _tokenize(texts: Iterable[str], return_ids: bool = True) -> Any:
    import bm25s

    return bm25s.tokenize(texts, stopwords="en", return_ids=return_ids, show_progress=False)
