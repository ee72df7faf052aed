"""What follows the scheme in an engine's name: `scheme:place?option=value#model`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine is, and how it is asked.

    Attributes:
        name: A folder, file, hub id or whatever the scheme calls for; empty if `urls` has any.
        urls: Base URLs of servers.
        model: Which of a server's models; None leaves that to the server.
        options: The engine's options as they were written.
    """

    name: str = ""
    urls: tuple[str, ...] = ()
    model: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def read_place(text: str) -> Place:
    """Return what `text`, an engine's name without its scheme, says.

    Raises:
        ValueError: If a URL is none or has a password, or an option has no value or comes twice.

    Example:
        >>> read_place("http://localhost:8000/v1?temperature=0#sim").urls
        ('http://localhost:8000/v1',)
        >>> read_place("runs/simulator?temperature=0").options
        {'temperature': '0'}
    """
    text, _, model = text.partition("#")
    name, mark, query = text.partition("?")
    options = _read_options(query) if mark else {}
    if not name.startswith(("http://", "https://")):
        return Place(name, model=model or None, options=options)
    from zs_env.remote.endpoints import check_base_urls

    return Place("", check_base_urls(name.split(",")), model or None, options)


def without_userinfo(text: str) -> str:
    """Return `text` without the users and passwords of URLs in it.

    Example:
        >>> without_userinfo("retreiver:http://me:secret@host/retrieve")
        'retreiver:http://…@host/retrieve'
    """
    return re.sub(r"//[^\s?#]*@", "//…@", text)


def _read_options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
    options = dict(pairs)
    if not all(options) or not all(options.values()) or not len(options) == len(pairs) > 0:
        # They are not repeated: what was written here may be a secret.
        raise ValueError("an engine's options must be like ?option=value&option=value")
    return options
