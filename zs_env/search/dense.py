"""Dense retrieval over a corpus file: a sentence-transformer's embeddings in a faiss index.

Passages are embedded once, as Search-R1 writes them (`"Title"` and the text below), and the index
is kept on disk and mapped into memory. Search is exact unless another kind of index is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zs_env.checks import check_count
from zs_env.search.batches import QueryBatch, put_together, split_by_top_k
from zs_env.search.build_once import built, default_folder, folder_digest
from zs_env.search.corpus import DocumentStore, open_corpus
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.records import join_contents

_VERSION: Final = 1
"""Of how passages become embeddings."""

_INSTALL: Final = "pip install 'zs-env[dense]'"
_CHUNK: Final = 2048
"""Passages whose embeddings are in memory beside the index while that is made."""

_NUM_TRAINING: Final = 1 << 16
"""Passages that an index which has to be trained is trained on, spread evenly over the corpus."""


class DenseSearchEngine:
    """Rank passages by the inner product of normalised embeddings.

    Noise and golden answers of a request are ignored. Every query finds `top_k` passages.
    """

    makes_noise: Final = False

    def __init__(
        self,
        corpus: str | Path,
        model: str,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        index_type: str = "Flat",
        num_probes: int | None = None,
        batch_size: int = 32,
        device: str | None = None,
        index: str | Path | None = None,
    ) -> None:
        """Open the index on disk, or make it: a corpus of millions takes hours without a GPU.

        Args:
            corpus: A JSONL or parquet file of `text` or `contents` and perhaps `title`.
            model: A sentence-transformer, as a folder or by its id on the hub.
            query_prefix: What is put before queries, as E5's "query: "; None means what the
                model itself says.
            passage_prefix: The same for passages, as E5's "passage: ".
            index_type: How faiss's `index_factory` calls the index; "Flat" is exact.
            num_probes: Cells that an index with cells ("IVF…") looks into; None means faiss's own
                choice, which is one.
            batch_size: Texts that the model reads at once, at least 1.
            device: Where the model runs; None means a GPU if there is one.
            index: Folder where indices are kept; None means `$ZS_CACHE` or `~/.cache/zs_env`.

        Raises:
            ValueError: If a parameter is out of range, or the file is no corpus; the message tells
                file and line.
            OSError: If the file or the model cannot be read, or the folder not written to.
            ImportError: If a library is missing.
        """
        check_count("batch_size", batch_size, 1)
        root = default_folder() if index is None else Path(index).expanduser()
        _make_faiss_index(1, index_type)  # a name that is none should not be found out hours later
        encoder, digest = _load(model, device, root)
        self._embedder = _Embedder(encoder, query_prefix, passage_prefix, batch_size)
        self._documents, content = open_corpus(Path(corpus).expanduser(), root)
        parts = {
            "corpus": content,
            "model": digest,
            "passage_prefix": passage_prefix,
            "index_type": index_type,
            "version": _VERSION,
        }
        folder = built(root, "dense", parts, lambda folder: self._build(folder, index_type))
        self._index = _read_faiss_index(folder / "index.faiss", num_probes)
        self._made_from = parts | {"query_prefix": query_prefix, "num_probes": num_probes}

    def describe(self) -> dict[str, Any]:
        """Return what replies depend on: digests of corpus and model, and the parameters."""
        return {"engine": "dense", **self._made_from}

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the closest passages of each request, best first."""
        batches = split_by_top_k(requests)
        return put_together(batches, map(self._search, batches))

    def _search(self, batch: QueryBatch) -> list[list[Document]]:
        embeddings = self._embedder.queries(batch.queries)
        _, places = self._index.search(embeddings, min(batch.top_k, len(self._documents)))
        # An index of cells that finds too few fills up with -1.
        return [[self._documents[int(i)] for i in row if i >= 0] for row in places]

    def _build(self, folder: Path, index_type: str) -> None:
        import faiss

        index = _make_faiss_index(self._embedder.dimension, index_type)
        if not index.is_trained:
            step = -(-len(self._documents) // _NUM_TRAINING)
            sample = [self._documents[i] for i in range(0, len(self._documents), step)]
            _call_faiss("index_type", index_type, index.train, self._embedder.passages(sample))
        for chunk in _chunks(self._documents):
            index.add(self._embedder.passages(chunk))
        faiss.write_index(index, str(folder / "index.faiss"))


@dataclass(frozen=True, slots=True)
class _Embedder:
    """A sentence-transformer and how it is used.

    Attributes:
        encoder: The model.
        query_prefix: What is put before queries; None means what the model says.
        passage_prefix: The same for passages.
        batch_size: Texts that it reads at once.
    """

    encoder: Any
    query_prefix: str | None
    passage_prefix: str | None
    batch_size: int

    @property
    def dimension(self) -> int:
        """Number of components of an embedding."""
        return int(self.passages([Document("one")]).shape[1])

    def queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of queries, (N, dimension), each of length 1."""
        return self._embed(self.encoder.encode_query, queries, self.query_prefix)

    def passages(self, documents: Sequence[Document]) -> NDArray[np.float32]:
        """Return the embeddings of passages, (N, dimension), each of length 1."""
        texts = [join_contents(document) for document in documents]
        return self._embed(self.encoder.encode_document, texts, self.passage_prefix)

    def _embed(self, encode: Any, texts: Sequence[str], prefix: str | None) -> NDArray[np.float32]:
        embeddings = encode(
            # Tokenizers refuse lone surrogates.
            [text.encode("utf-8", "replace").decode() for text in texts],
            prompt=prefix,
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(embeddings, dtype=np.float32)


def _chunks(documents: DocumentStore) -> Iterator[list[Document]]:
    remaining = iter(documents)
    while chunk := list(islice(remaining, _CHUNK)):
        yield chunk


def _load(model: str, device: str | None, root: Path) -> tuple[Any, str]:
    """Return a sentence-transformer and the digest of what it was made from.

    Raises:
        ImportError: If the library is missing.
        OSError: If there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(f"`dense:` needs sentence-transformers: {_INSTALL}") from error
    folder = Path(model).expanduser()
    if folder.is_dir():
        return SentenceTransformer(str(folder), device=device), folder_digest(folder, root)
    from huggingface_hub import try_to_load_from_cache

    encoder = SentenceTransformer(model, device=device)
    # A model of the hub lies in a folder that is named after its commit.
    config = try_to_load_from_cache(model, "config.json")
    if not isinstance(config, str):
        raise OSError(f"`model` must be a folder or an id on the hub, got {model!r}")
    return encoder, f"{model}@{Path(config).parent.name}"


def _make_faiss_index(dimension: int, index_type: str) -> Any:
    """Return an empty index of inner products.

    Raises:
        ValueError: If faiss knows no such type.
        ImportError: If faiss is missing.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"`dense:` needs faiss: {_INSTALL}") from error
    metric = faiss.METRIC_INNER_PRODUCT
    return _call_faiss("index_type", index_type, faiss.index_factory, dimension, index_type, metric)


def _read_faiss_index(path: Path, num_probes: int | None) -> Any:
    """Return an index whose vectors stay in its file, where faiss can do that.

    Raises:
        ValueError: If `num_probes` is not what the index takes.
    """
    import faiss

    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    if num_probes is not None:
        check_count("num_probes", num_probes, 1)
        set_parameter = faiss.ParameterSpace().set_index_parameter
        _call_faiss("num_probes", num_probes, set_parameter, index, "nprobe", num_probes)
    return index


def _call_faiss(name: str, value: Any, function: Any, *arguments: Any) -> Any:
    """Call a function of faiss, whose own errors are RuntimeErrors about lines of C++.

    Raises:
        ValueError: If it fails; the message says that `name` is wrong.
    """
    try:
        return function(*arguments)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"`{name}` must be what faiss can do, got {value!r}: {reason}") from error
