"""What waves of episodes take turns in: the policy's forward passes, and the environment's steps.

While one wave is in one stage another one can be in the other, and no two are ever in the same,
so that neither a policy nor an engine has to be safe for several threads.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


class StageClosedError(RuntimeError):
    """Another wave failed, and this one is to end."""


class Stage:
    """One of the two; a context manager that one thread at a time is in.

    Attributes:
        seconds: Time that was spent in it, waiting for others not counted.
    """

    def __init__(self) -> None:
        """Open it."""
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._is_closed = False
        self._since = 0.0

    def close(self) -> None:
        """Let nobody in any more; who is in it may finish."""
        self._is_closed = True

    def __enter__(self) -> None:
        """Wait for the others.

        Raises:
            StageClosedError: If it was closed meanwhile.
        """
        self._lock.acquire()
        if self._is_closed:
            self._lock.release()
            raise StageClosedError
        self._since = time.perf_counter()

    def __exit__(self, kind: object, *exception: object) -> None:
        """Let the next one in, but after a failure nobody."""
        self.seconds += time.perf_counter() - self._since
        if kind is not None:
            self.close()
        self._lock.release()


@dataclass(frozen=True, slots=True)
class Stages:
    """Both stages of one rollout.

    Attributes:
        policy: Reading and sampling.
        engine: Everything that the environment does, which is nearly all its search engine's.
    """

    policy: Stage = field(default_factory=Stage)
    engine: Stage = field(default_factory=Stage)

    def close(self) -> None:
        """Let all waves end where they next have to wait."""
        self.policy.close()
        self.engine.close()
