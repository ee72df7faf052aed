"""Stopping a training run with a signal, so that it can go on later."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, ClassVar, Final, Self

from agents.rollout import Rollout
from agents.trainer import Callback, Metrics, Trainer

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_STDERR: Final = 2


class StopOnSignal(Callback):
    """Ends training after the update in which SIGTERM or Ctrl-C comes; a context manager.

    While it is entered, the first signal is kept, and the former handlers are put back at once:
    a second one does what it would have done before, which is to end the process. Leaving puts
    them back too. In a thread other than the main one, where Python handles no signals, it does
    nothing. Of several processes, all end after the update in which it comes to one of them.

    Attributes:
        received: The signal that came, or None.
    """

    in_every_process: ClassVar[bool] = True

    def __init__(self) -> None:
        """Set up; handlers are installed on entering."""
        self.received: signal.Signals | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            # One that is ignored is not for us: a shell does so for what runs in the background.
            former = {number: signal.getsignal(number) for number in SIGNALS}
            self._former = {n: each for n, each in former.items() if each != signal.SIG_IGN}
        for number in self._former:
            signal.signal(number, self._keep)
        return self

    def __exit__(self, *exception: object) -> None:
        """Put the former handlers back."""
        self._restore()

    def _keep(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        # The display may be in the middle of a line, and Python's streams cannot be entered twice.
        text = f"\n{self.received.name}: stops after this update; once more stops at once\n"
        os.write(_STDERR, text.encode())

    def _restore(self) -> None:
        for number, handler in self._former.items():
            # None stands for a handler that is not Python's, which cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}

    def on_update_end(self, trainer: Trainer, rollout: Rollout, metrics: Metrics) -> bool | None:
        """Stop if a signal came."""
        return None if self.received is None else False
