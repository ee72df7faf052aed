"""Files with one JSON value a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number, from 1, and the bytes of each line that is not blank.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as lines:
        yield from ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def decode_line(line: bytes) -> Any:
    r"""Return what a line of JSON says, whether or not it begins with a byte-order mark.

    Raises:
        ValueError: If it is not UTF-8, not JSON, or nested deeper than the stack allows.

    Example:
        >>> decode_line(b'\xef\xbb\xbf{"text": "It is red."}\n')
        {'text': 'It is red.'}
    """
    try:
        return json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
