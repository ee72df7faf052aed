import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agents.rollout import Rollout
from agents.signals import StopOnSignal

ROLLOUT = Rollout([], 0.0, 0.0)
TRAINER: Any = None


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Begin with Python's own handlers, whoever started the tests, and leave what was there."""
    kept = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGTERM, kept[0])
    signal.signal(signal.SIGINT, kept[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_training_at_the_end_of_the_update(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopOnSignal() as stop:
        assert stop.on_update_end(TRAINER, ROLLOUT, {}) is None
        signal.raise_signal(number)
        assert stop.on_update_end(TRAINER, ROLLOUT, {}) is False
    assert stop.received is number
    assert f"{number.name}: stops after this update" in capfd.readouterr().err


def test_second_signal_does_what_it_would_have_done_before() -> None:
    with StopOnSignal():
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_former_handlers_are_put_back() -> None:
    def mine(number: int, frame: object) -> None:
        raise AssertionError

    signal.signal(signal.SIGTERM, mine)
    with StopOnSignal():
        assert signal.getsignal(signal.SIGTERM) is not mine
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopOnSignal() as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.received is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_install_nothing() -> None:
    found = []

    def enter() -> None:
        with StopOnSignal():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
