"""Objects of one's own on the command line: an option that says `module:attribute`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any


def load_object(option: str, path: str, methods: Sequence[str]) -> Any:
    """Return the object that an option names.

    Args:
        option: Name of the option, for messages.
        path: `module:attribute`: an object with one of `methods`, or a class or function that
            returns one without arguments. The current folder can be imported from.
        methods: What the object must have at least one of.

    Raises:
        ValueError: If there is no such module or attribute.
        TypeError: If what is there cannot be used.
    """
    found = import_object(option, path)
    if isinstance(found, type) or not _has(found, methods):
        found = _call(option, found, path)
    if not _has(found, methods):
        named = " or ".join(methods)
        raise TypeError(f"`{option}` must be an object with a method {named}, got {found!r}")
    return found


def import_object(option: str, path: str) -> Any:
    """Return the object that an option names, whatever it is.

    Args:
        option: Name of the option, for messages.
        path: `module:attribute`. The current folder can be imported from.

    Raises:
        ValueError: If there is no such module or attribute.
    """
    module, separator, attribute = path.partition(":")
    if not separator:
        raise ValueError(f"`{option}` must be module:attribute, got {path!r}")
    found = getattr(_import(option, module, path), attribute, None)
    if found is None:
        raise ValueError(f"`{option}` must name an attribute of {module!r}, got {path!r}")
    return found


def load_class(option: str, path: str) -> type[Any]:
    """Return the class that an option names.

    Args:
        option: Name of the option, for messages.
        path: `module:Class`. The current folder can be imported from.

    Raises:
        ValueError: If there is no such module or attribute.
        TypeError: If it is no class.
    """
    found = import_object(option, path)
    if not isinstance(found, type):
        raise TypeError(f"`{option}` must name a class, got {path!r}")
    return found


def _has(thing: Any, methods: Sequence[str]) -> bool:
    return any(callable(getattr(thing, method, None)) for method in methods)


def _call(option: str, factory: Any, path: str) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise TypeError(
            f"`{option}` must be an object of its kind, or a class or function that returns one "
            f"without arguments, got {path!r}"
        ) from error
    return factory()


def _import(option: str, module: str, path: str) -> Any:
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, but something that it imports is not
        raise ValueError(f"`{option}` must name a module that exists, got {path!r}") from error
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"`{option}` must name a module that can be read: {error}") from error
