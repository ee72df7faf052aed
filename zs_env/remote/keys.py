"""API keys: which environment variable holds one, and where in a request it goes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, urlencode


@dataclass(frozen=True, slots=True)
class ApiKey:
    """How a server wants its key; the key itself stays in the environment.

    Attributes:
        variable: Environment variable that holds it.
        header: Header that it is sent in; None means none.
        prefix: What stands before it in that header.
        parameter: Parameter of the query that it is sent in; None means none.
        is_required: Whether nothing can be asked without it.
    """

    variable: str
    header: str | None = "Authorization"
    prefix: str = "Bearer "
    parameter: str | None = None
    is_required: bool = False

    def read(self) -> str:
        """Return the key, or an empty text if the variable is not set.

        Raises:
            ValueError: If it is none, or is not set though it has to be; the message never holds
                it.
        """
        key = os.environ.get(self.variable, "").strip()
        if (
            not (key.isascii() and key.isprintable())
            or " " in key
            or (self.is_required and not key)
        ):
            # The HTTP library would say the same with the key in its message.
            raise ValueError(
                f"`{self.variable}` must hold an API key: printable ASCII without spaces"
            )
        return key

    def headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry `key`."""
        return {self.header: f"{self.prefix}{key}"} if key and self.header else {}

    def query(self, key: str) -> str:
        """Return what carries `key` in a URL's query, or an empty text."""
        return urlencode({self.parameter: key}) if key and self.parameter else ""


def without_key(text: str, key: str) -> str:
    """Return `text` with `key` blotted out, as it is or as a URL would have it.

    Example:
        >>> without_key("no such key: a/b, at /search?key=a%2Fb", "a/b")
        'no such key: [API key], at /search?key=[API key]'
    """
    for form in dict.fromkeys((key, quote(key, safe=""), quote_plus(key))):
        text = text.replace(form, "[API key]") if form else text
    return text
