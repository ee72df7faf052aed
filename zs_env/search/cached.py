"""A cache around any search engine: what it replied once is replied again, word for word.

| mode | a request that was recorded | one that was not |
|---|---|---|
| record | comes from the file | is asked, and written |
| replay | comes from the file | is asked, and not written: the file stays as it is |
| replay-strict | comes from the file | is a `SearchEngineError`: the engine is not even built |

Requests are the same only if every field is, seed and kind of noise included, and engines only if
their descriptions are (`zs_env.search.description`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from zs_env.search.description import canonical, describe_engine
from zs_env.search.engine import Document, SearchEngine, SearchRequest
from zs_env.search.names import Place
from zs_env.search.recorded import CacheError, Reply, Source, request_key
from zs_env.search.registry import check_engine, make_engine, makes_noise, search_all
from zs_env.search.store import ReplyStore


class CacheMode(StrEnum):
    """What happens to a request that the cache does not hold."""

    RECORD = "record"  # the engine is asked, and the reply written
    REPLAY = "replay"  # the engine is asked, and nothing written
    REPLAY_STRICT = "replay-strict"  # an error


class CachedSearchEngine:
    """Reply from a file, and ask the engine behind it, with one call, for what is not there.

    Can be pickled, copied, and used by several threads and processes at once; all of them get the
    same reply to the same request. An engine whose settings or weights change is another engine:
    make another wrapper then.
    """

    def __init__(
        self,
        engine: str | SearchEngine | None,
        path: str | Path,
        *,
        mode: str = CacheMode.RECORD,
        name: str = "",
        digest: str = "",
    ) -> None:
        """Set up the cache. Of an engine by name nothing is built before it is asked.

        Args:
            engine: The engine, or its name; in replay-strict, where it is not asked, a name says
                which of the recorded engines is meant, and None leaves that to `digest`.
            path: The file, of SQLite; record makes it when it is first written.
            mode: "record", "replay" or "replay-strict".
            name: What an engine that is an object is called in the file.
            digest: In replay-strict, the first digits of a recorded engine's digest, where its
                name is not enough.

        Raises:
            ValueError: If the mode or the name is unknown, or there is no engine to ask.
            TypeError: If the engine cannot search, or has neither a name nor a method `describe`.
            CacheError: If the file holds no cache, or replay-strict finds no such engine in it.
            FileNotFoundError: If there is no file to replay.
        """
        self.mode = read_mode(mode)
        self.name = name or (engine if isinstance(engine, str) else "")
        self._engine, self._is_known = engine, False
        self._source: Source | None = None
        self._store = ReplyStore(path, read_only=self.mode is not CacheMode.RECORD)
        self._store.check()
        if self.mode is CacheMode.REPLAY_STRICT and (engine is None or isinstance(engine, str)):
            self._source = find_source(self._store, self.name, digest)
            return
        if engine is None:
            raise ValueError(f"`engine` must be given for mode={self.mode.value!r}, got None")
        if digest:
            raise ValueError(f"`digest` must be empty where an engine is asked, got {digest!r}")
        check_engine(engine)
        if not isinstance(engine, str):
            self._source = self._describe(engine)

    def __repr__(self) -> str:
        """Return which engine and which file."""
        kind, path = type(self).__name__, str(self._store.path)
        return f"{kind}({self.name!r}, {path!r}, mode={self.mode.value!r})"

    @property
    def makes_noise(self) -> bool:
        """Whether the engine can be asked for noisy documents, as far as its name tells."""
        if self._engine is not None:
            return makes_noise(self._engine)
        return makes_noise(self.name or next(iter(self._known_source().names), ""))

    def describe(self) -> dict[str, Any]:
        """Return what the replies depend on: the description of the engine itself."""
        description: dict[str, Any] = json.loads(self._known_source().description)
        return description

    def close(self) -> None:
        """Close the file, while no search is under way; a later one opens it again."""
        self._store.close()

    def search(self, requests: Sequence[SearchRequest]) -> list[list[Document]]:
        """Return the documents of each request, from the file wherever they are in it.

        Raises:
            SearchEngineError: If the engine failed (then nothing is written), a request is missing
                in replay-strict, or the file cannot be used.
        """
        source = self._known_source()
        keys = [request_key(source, request) for request in requests]
        found = self._store.find(keys)
        pairs = zip(keys, requests, strict=True)
        missing = {key: request for key, request in pairs if key not in found}
        if missing and self.mode is CacheMode.REPLAY_STRICT:
            raise self._miss(list(missing.values()))
        found |= self._ask(source, missing) if missing else {}
        if self.mode is CacheMode.RECORD and not self._is_known:
            self._store.add(source, [])  # this name may be a new one for an engine that is there
            self._is_known = True
        return [list(found[key]) for key in keys]

    def _ask(
        self, source: Source, missing: Mapping[bytes, SearchRequest]
    ) -> dict[bytes, tuple[Document, ...]]:
        asked = list(missing.values())
        assert self._engine is not None
        found = [tuple(each) for each in search_all(make_engine(self._engine), asked)]
        if self.mode is CacheMode.REPLAY:
            return dict(zip(missing, found, strict=True))
        now = int(time.time())
        pairs = zip(asked, found, strict=True)
        return self._store.add(source, [Reply(*pair, created=now) for pair in pairs])

    def _known_source(self) -> Source:
        if self._source is None:
            assert self._engine is not None
            self._source = self._describe(make_engine(self._engine))
        return self._source

    def _describe(self, engine: SearchEngine) -> Source:
        description = canonical(describe_engine(engine, self.name))
        return Source(description, (self.name,) if self.name else ())

    def _miss(self, requests: Sequence[SearchRequest]) -> CacheError:
        first, others = requests[0], len(requests) - 1
        more = f", nor those to {others} more" if others else ""
        return CacheError(
            f"the cache {self._store.path} does not hold the reply of {self.name or 'the engine'} "
            f"to the query {first.query[:200]!r} (noisy={first.noisy}, seed={first.seed}, "
            f"top_k={first.top_k}){more}; in replay-strict nothing is asked"
        )


def read_mode(mode: str, option: str = "mode") -> CacheMode:
    """Return the mode of that name, which an argument called `option` gave.

    Raises:
        ValueError: If there is none.
    """
    if mode not in list(CacheMode):
        raise ValueError(f"`{option}` must be one of {', '.join(CacheMode)}, got {mode!r}")
    return CacheMode(mode)


def find_source(store: ReplyStore, name: str = "", digest: str = "") -> Source:
    """Return the one engine that replied under `name` and whose digest begins with `digest`.

    Args:
        store: Where.
        name: Empty means any.
        digest: Empty means any.

    Raises:
        CacheError: If there is none, or several.
    """
    known = store.sources()
    found = [
        source
        for source in known
        if (not name or name in source.names) and source.digest.startswith(digest)
    ]
    if len(found) == 1:
        return found[0]
    wanted = " and ".join(
        part for part in (name and repr(name), digest and f"digest {digest!r}") if part
    )
    number = f"{len(found)} engines" if found else "no engine"
    raise CacheError(
        f"the cache {store.path} holds {number}{wanted and f' of {wanted}'}: "
        f"say which by name or digest: {'; '.join(map(_shown, found or known)) or 'it is empty'}"
    )


def _shown(source: Source) -> str:
    return f"{', '.join(source.names) or 'unnamed'} (digest {source.digest[:12]})"


# --- by name: cached:FILE?mode=MODE#ENGINE ------------------------------------------------------


def check_place(place: Place) -> None:
    """Check what follows `cached:` in an engine's name, without opening the file.

    Raises:
        ValueError: If it names no file, no mode, or no engine where one is asked.
        FileNotFoundError: If that engine's file or folder is not there.
    """
    if not place.name:
        raise ValueError("`cached:` must be followed by a file, as in cached:FILE#ENGINE")
    mode = read_mode(place.options.get("mode", CacheMode.RECORD))
    if mode is not CacheMode.REPLAY_STRICT:
        if not place.model:
            raise ValueError(f"`cached:` must name an engine for mode={mode!s}: cached:FILE#ENGINE")
        check_engine(place.model)


def open_cached(place: Place) -> CachedSearchEngine:
    """Return the cache that an engine's name describes.

    Raises:
        ValueError: If it names no file, no mode, or no engine where one is asked.
        CacheError: If the file holds no cache, or replay-strict finds no such engine in it.
        FileNotFoundError: If there is no file to replay.
    """
    check_place(place)
    mode = read_mode(place.options.get("mode", CacheMode.RECORD))
    engine = None if mode is CacheMode.REPLAY_STRICT else place.model
    return CachedSearchEngine(
        engine,
        place.name,
        mode=mode,
        name=place.model or "",
        digest=place.options.get("digest", ""),
    )
