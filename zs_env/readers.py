"""Question sets that need more than the standard library: parquet files and the hub.

Imported when the first question is asked for, so that building an environment needs neither the
library `datasets` nor a network.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from zs_env.task.public_sets import HUB_ID, PublicSet
from zs_env.task.question_sets import QuestionSetError, distinct, read_records
from zs_env.task.questions import Question

_CONNECT_TIMEOUT: Final = 5.0  # seconds
_INSTALL: Final = "pip install 'zs-env[data]'"


def read_parquet(path: Path) -> tuple[Question, ...]:
    """Return the questions of a parquet file, one a row; its name is their data source.

    Raises:
        ImportError: If pyarrow is missing.
        ValueError: If the file is not parquet or damaged, or a row is not a question; the message
            says which.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"parquet files need pyarrow: {_INSTALL}") from error
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file cannot be read at all; pyarrow's own OSErrors are about what is in it
        raise ValueError(f"{path}: {error}") from error
    return _questions(str(path), path.stem, rows)


def read_public_set(public: PublicSet, split: str) -> tuple[Question, ...]:
    """Return one split of a public set, downloaded once and then taken from the hub's cache.

    Raises:
        ImportError: If the library `datasets` is missing.
        QuestionSetError: If the hub cannot be reached and the cache does not help.
        ValueError: If a row is not a question.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"questions={public.name!r} needs datasets: {_INSTALL}") from error
    file = public.files[split]
    try:
        _check_hub_is_reachable()
        rows = datasets.load_dataset(HUB_ID, data_files={split: file}, split=split)
    except Exception as error:  # the library raises some forty kinds of errors for a network
        raise QuestionSetError(
            f"questions={public.name!r} could not be loaded ({HUB_ID}, {file}: {error}); without "
            f"a network give questions=<a local JSONL or parquet file>, or set HF_HUB_OFFLINE=1 "
            f"to use what was downloaded before"
        ) from error
    return _questions(f"{HUB_ID}/{file}", public.name, rows)


def _questions(name: str, data_source: str, rows: Iterable[Any]) -> tuple[Question, ...]:
    return distinct(name, read_records(name, data_source, enumerate(rows, start=1)))


def _check_hub_is_reachable() -> None:
    """Fail at once where there is no network: the library would retry for half a minute.

    Raises:
        OSError: If no connection can be made. Not tried in the hub's own offline mode, where the
            library answers from its cache, nor behind a proxy.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or "https" in getproxies() or "all" in getproxies():
        return
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT)
    port = hub.port or (80 if hub.scheme == "http" else 443)
    socket.create_connection((hub.hostname or "", port), timeout=_CONNECT_TIMEOUT).close()
