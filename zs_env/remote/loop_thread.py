"""An event loop in a thread of its own, so that code without one can wait for coroutines.

The caller may itself run inside a loop, as everything in a notebook does.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")

_JOIN_SECONDS = 5.0


class LoopThread:
    """Runs coroutines until it is stopped."""

    def __init__(self, cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start the thread; `cleanup` runs in it last, and waits for what was cancelled."""
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._gate, self._is_stopped = threading.Lock(), False
        self._calls: set[Future[Any]] = set()
        self._thread = threading.Thread(
            target=_serve, args=(self._loop, cleanup), name="zs-remote", daemon=True
        )
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what `coroutine` returns; an interruption of the caller cancels it.

        Raises:
            CancelledError: If the thread is stopped meanwhile, or was before.
        """
        with self._gate:
            if self._is_stopped:
                coroutine.close()
                raise CancelledError
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._calls.add(future)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            with self._gate:
                self._calls.discard(future)

    def stop(self) -> None:
        """Cancel what runs and end the thread; call it from anywhere, and once."""
        if self._pid != os.getpid():
            return  # a fork has the loop's sockets but no thread, and must not wake the parent's
        with self._gate:
            self._is_stopped = True
            # Not all tasks of the loop: those that a library began are that library's to cancel.
            for future in self._calls:
                future.cancel()
            self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_SECONDS)


def _serve(
    loop: asyncio.AbstractEventLoop, cleanup: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(cleanup())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
