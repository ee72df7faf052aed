"""A page in one file: its style, its script, and data that stays data.

Nothing of a run becomes markup. Data lies in script elements of a type that no browser runs, as
JSON in which no character can end the element, and the page's script puts it on the screen as
text. The page's policy (Content Security Policy, level 3) allows this style and this script, told
by their hashes, and nothing else: no network, no inline handlers, no markup made of strings.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any, Final

_ASSETS: Final = files("agents.pages") / "assets"
_MARKUP: Final = re.compile(r"[<>&\x7f]")


def render(title: str, name: str, blocks: Mapping[str, Any]) -> str:
    """Return a page.

    Args:
        title: Of the window.
        name: Of the page's body and script among the assets, `report` or `viewer`.
        blocks: The data, a JSON value an id; the script asks for them by these ids.
    """
    style = _asset("base.css") + _asset(f"{name}.css")
    script = _asset("base.js") + _asset(f"{name}.js")
    return Template(_asset("page.html")).substitute(
        policy=_policy(style, script),
        title=html.escape(title),
        style=style,
        body=_asset(f"{name}.html"),
        blocks="\n".join(_block(key, value) for key, value in blocks.items()),
        script=script,
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(text: str) -> str:
    """Return what a policy allows an element by: the digest of its text."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _block(key: str, value: Any) -> str:
    return f'<script type="application/json" id="{html.escape(key)}">{embedded(value)}</script>'


def embedded(value: Any) -> str:
    r"""Return JSON that may stand in a page: printable ASCII without `<`, `>` and `&`.

    Numbers that are not finite, which JSON does not know, become null.

    Example:
        >>> embedded(["</script>", float("nan")])
        '["\\u003c/script\\u003e",null]'
    """
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return _MARKUP.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return value
