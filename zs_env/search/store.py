"""Replies of search engines in one SQLite file, which many processes may read and write at once.

A reply is found by a digest of everything it depends on: the engine's description and every field
of the request. What is written is written in whole transactions of a write-ahead log, so that a
process may be killed at any time; what was written first stays.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from zs_env.search.engine import Document
from zs_env.search.recorded import (
    CacheError,
    Reply,
    Source,
    SourceSummary,
    encode_documents,
    encode_request,
    read_documents,
    read_request,
    request_key,
)

APPLICATION_ID: Final = 0x7A735F63
"""Stands in the file's header, and tells it from the databases of other programs."""

VERSION: Final = 1

BUSY_SECONDS: Final = 60.0
"""How long a process waits while others write; a batch takes them milliseconds."""

_RETRY_SECONDS: Final = 0.01
_KEYS_A_QUERY: Final = 500  # old SQLites take 999 parameters

_SCHEMA: Final = (
    "CREATE TABLE engines (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE,"
    " description TEXT NOT NULL)",
    "CREATE TABLE names (name TEXT NOT NULL, engine INTEGER NOT NULL REFERENCES engines,"
    " PRIMARY KEY (name, engine)) WITHOUT ROWID",
    "CREATE TABLE replies (key BLOB PRIMARY KEY, engine INTEGER NOT NULL REFERENCES engines,"
    " created INTEGER NOT NULL, num_documents INTEGER NOT NULL, request TEXT NOT NULL,"
    " documents TEXT NOT NULL)",
)

_ROWS_A_QUERY: Final = 1000


class _ForkGate:
    """Keeps every connection closed while this process forks.

    SQLite notes for the whole process which files it has locked. A fork inherits the notes without
    the locks, so that whoever closes the file next takes the log away under its hands, with all
    that it writes from then on. With nothing open there is nothing to inherit.
    """

    def __init__(self) -> None:
        self.stores: weakref.WeakSet[ReplyStore] = weakref.WeakSet()
        self._changed = threading.Condition()
        self._num_inside, self._is_shut = 0, False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._num_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._num_inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Let nobody in, wait until nobody is inside, and close all files."""
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._is_shut)
        self._is_shut = True
        self._changed.wait_for(lambda: not self._num_inside)
        for store in self.stores:
            _close_all(store._connections)

    def open(self) -> None:
        """Let threads in again; called on both sides of a fork by the thread that did it."""
        self._is_shut = False
        self._changed.notify_all()
        self._changed.release()


_GATE: Final = _ForkGate()
if sys.platform != "win32":  # where processes cannot fork
    os.register_at_fork(before=_GATE.shut, after_in_parent=_GATE.open, after_in_child=_GATE.open)


class ReplyStore:
    """The file. Threads that share one get connections of their own; a fork begins without any."""

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        """Set up the store; the file is opened, and made if need be, when it is first used.

        Args:
            path: The file. It must be on a local disk: a write-ahead log works on no other.
            read_only: Never write, nor make the file.
        """
        self.path, self.read_only = Path(path).absolute(), read_only
        self._connections: dict[int, sqlite3.Connection] = {}  # by thread
        # At the latest when the program ends: who closes last moves the log into the file.
        weakref.finalize(self, _close_all, self._connections)
        _GATE.stores.add(self)

    def __repr__(self) -> str:
        """Return where the file is."""
        return f"{type(self).__name__}({str(self.path)!r}, read_only={self.read_only})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the place only; a copy opens its own connections."""
        return _restore, (self.path, self.read_only)

    def check(self) -> None:
        """Check that the file can be used, if it is there.

        Raises:
            FileNotFoundError: If it is not there and would not be made.
            CacheError: If it holds no cache, or one of a newer version.
        """
        if self.read_only or (self.path.is_file() and self.path.stat().st_size):
            with self._connected():
                pass

    def close(self) -> None:
        """Close the file, which no thread may be using now; a later call opens it again."""
        with _GATE:
            _close_all(self._connections)

    def find(self, keys: Collection[bytes]) -> dict[bytes, tuple[Document, ...]]:
        """Return the documents of those keys (see `request_key`) that are there.

        Raises:
            CacheError: If the file cannot be read.
            FileNotFoundError: If it is not there and would not be made.
        """
        with self._connected() as connection:
            return _find(connection, list(dict.fromkeys(keys)))

    def add(self, source: Source, replies: Sequence[Reply]) -> dict[bytes, tuple[Document, ...]]:
        """Write replies, all or none, and return what the file holds for their requests now.

        A reply that somebody wrote before stays, so that all processes agree on it.

        Raises:
            CacheError: If the file cannot be written, or a reply holds what is no text.
        """
        rows = [_row(source, reply) for reply in replies]
        with self._connected() as connection, _transaction(connection):
            engine = _add_source(connection, source)
            connection.executemany(
                "INSERT OR IGNORE INTO replies (key, engine, created, num_documents, request,"
                f" documents) VALUES (?, {engine}, ?, ?, ?, ?)",
                rows,
            )
            return _find(connection, [key for key, *_ in rows])

    def summaries(self) -> list[SourceSummary]:
        """Return how much there is of each engine, in the order in which they came.

        Raises:
            CacheError: If the file cannot be read.
        """
        with self._connected() as connection:
            sources = _sources(connection)
            rows = connection.execute(
                "SELECT engine, count(*), sum(num_documents), min(created), max(created)"
                " FROM replies GROUP BY engine"
            )
            counts = {engine: tuple(row) for engine, *row in rows}
        nothing = (0, 0, None, None)
        return [SourceSummary(each, *counts.get(id_, nothing)) for id_, each in sources.items()]

    def sources(self) -> list[Source]:
        """Return the engines that replied, in the order in which they came.

        Raises:
            CacheError: If the file cannot be read.
        """
        with self._connected() as connection:
            return list(_sources(connection).values())

    def replies(self) -> Iterator[tuple[Source, Reply]]:
        """Yield everything that is there, in the order in which it came.

        Raises:
            CacheError: If the file cannot be read.
        """
        with self._connected() as connection:
            sources = _sources(connection)
        # Whose engine comes in from now on is left for the next time.
        after, newest = -1, max(sources, default=0)
        while rows := self._rows(after, newest):
            for _, engine, *reply in rows:
                with self._named_errors():
                    found = _read_reply(*reply)
                yield sources[engine], found
            after = rows[-1][0]

    def _rows(self, after: int, newest_engine: int) -> list[tuple[Any, ...]]:
        """Return the next replies behind a row; a caller may fork before it wants others."""
        with self._connected() as connection:
            return connection.execute(
                "SELECT rowid, engine, request, documents, created FROM replies"
                " WHERE rowid > ? AND engine <= ? ORDER BY rowid LIMIT ?",
                (after, newest_engine, _ROWS_A_QUERY),
            ).fetchall()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection of this thread; whatever SQLite raises then names the file."""
        with _GATE, self._named_errors():
            yield self._connection()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise CacheError(f"the cache {self.path} cannot be used: {error}") from error

    def _connection(self) -> sqlite3.Connection:
        owner = threading.get_ident()
        if owner not in self._connections:
            self._connections[owner] = self._open()
        return self._connections[owner]

    def _open(self) -> sqlite3.Connection:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            connection = self._connect()
            try:
                _prepare(connection, self.read_only)
            except sqlite3.OperationalError as error:
                connection.close()
                # Who changes to a write-ahead log, or mends one, is not waited for by SQLite.
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)
            except BaseException:
                connection.close()
                raise
            else:
                return connection

    def _connect(self) -> sqlite3.Connection:
        if self.read_only and not self.path.is_file():
            raise FileNotFoundError(f"there is no cache at {self.path}")
        if not self.read_only:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CacheError(f"the cache {self.path} cannot be made: {error}") from error
        return sqlite3.connect(
            f"{self.path.as_uri()}?{self._access()}",
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,  # `close` is called by one thread for all
            uri=True,
        )

    def _access(self) -> str:
        if not self.read_only:
            return "mode=rwc"
        if os.access(self.path.parent, os.W_OK):
            return "mode=rw"  # a reader too makes files beside it, and only so takes them away
        log = self.path.with_name(f"{self.path.name}-wal")
        return "mode=ro" if log.exists() else "mode=ro&immutable=1"


def _close_all(connections: dict[int, sqlite3.Connection]) -> None:
    for owner in list(connections):
        connections.pop(owner).close()


def _restore(path: Path, read_only: bool) -> ReplyStore:
    return ReplyStore(path, read_only=read_only)


def _prepare(connection: sqlite3.Connection, read_only: bool) -> None:
    """Check whose database it is before anything is changed in it; make the tables of a new one.

    Raises:
        ValueError: If it is not ours, or of a newer version.
        sqlite3.Error: If it is none, or others do not let us.
    """
    if _is_new(connection):
        if read_only:
            raise ValueError("it is empty")
        connection.execute("PRAGMA journal_mode = WAL")
        with _transaction(connection):
            if _is_new(connection):
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    version = _number(connection, "PRAGMA user_version")
    if version != VERSION:
        raise ValueError(f"it is of version {version}, and this program reads {VERSION}")
    connection.execute("PRAGMA synchronous = NORMAL")  # a log is whole after a crash either way
    connection.execute(f"PRAGMA query_only = {int(read_only)}")


def _is_new(connection: sqlite3.Connection) -> bool:
    # In this order: others may be making the tables, which come together with our mark.
    num_tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    application = _number(connection, "PRAGMA application_id")
    if application == APPLICATION_ID:
        return False
    if application or num_tables:
        raise ValueError("it is a database of another program")
    return True


def _number(connection: sqlite3.Connection, query: str) -> int:
    [number] = connection.execute(query).fetchone()
    return int(number)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _row(source: Source, reply: Reply) -> tuple[bytes, int, int, str, str]:
    return (
        request_key(source, reply.request),
        reply.created,
        len(reply.documents),
        encode_request(reply.request),
        encode_documents(reply.documents),
    )


def _add_source(connection: sqlite3.Connection, source: Source) -> int:
    """Make an engine and its names known; return its number."""
    connection.execute(
        "INSERT OR IGNORE INTO engines (digest, description) VALUES (?, ?)",
        (source.digest, source.description),
    )
    query = "SELECT id FROM engines WHERE digest = ?"
    [number] = connection.execute(query, (source.digest,)).fetchone()
    connection.executemany(
        "INSERT OR IGNORE INTO names (name, engine) VALUES (?, ?)",
        [(name, number) for name in source.names],
    )
    return int(number)


def _read_reply(request: str, documents: str, created: int) -> Reply:
    found = read_documents(json.loads(documents))
    return Reply(read_request(json.loads(request)), found, created)


def _sources(connection: sqlite3.Connection) -> Mapping[int, Source]:
    """Return all engines by their numbers."""
    names: dict[int, list[str]] = {}
    for name, engine in connection.execute("SELECT name, engine FROM names ORDER BY name"):
        names.setdefault(engine, []).append(name)
    rows = connection.execute("SELECT id, description FROM engines ORDER BY id")
    return {id_: Source(text, tuple(names.get(id_, ()))) for id_, text in rows}


def _find(
    connection: sqlite3.Connection, keys: Sequence[bytes]
) -> dict[bytes, tuple[Document, ...]]:
    found: dict[bytes, tuple[Document, ...]] = {}
    for start in range(0, len(keys), _KEYS_A_QUERY):
        some = keys[start : start + _KEYS_A_QUERY]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, documents FROM replies WHERE key IN ({marks})"
        rows = connection.execute(query, some)
        found |= {key: read_documents(json.loads(documents)) for key, documents in rows}
    return found
