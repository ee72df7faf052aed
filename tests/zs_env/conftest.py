"""Servers that misbehave, for the tests of what asks them."""

import importlib.util
from contextlib import ExitStack
from pathlib import Path

import pytest


def _load(name):
    path = Path(__file__).parent / "lm" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MISBEHAVING = _load("misbehaving_server")


@pytest.fixture(scope="session")
def misbehaving():
    """Return the module `misbehaving_server`, which the tests cannot import by name."""
    return MISBEHAVING


@pytest.fixture
def make_server():
    """Return a function that starts a server; all of them end with the test."""
    with ExitStack() as stack:
        yield lambda **script: stack.enter_context(MISBEHAVING.MisbehavingServer(**script))
