"""Reading MiniWiki's sentences back: what a text claims, exactly, whoever wrote it."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from zs_env.task.miniwiki import RELATIONS


class Statement(NamedTuple):
    """What one sentence claims.

    Attributes:
        subject: The entity it is about.
        relation: A key of `RELATIONS`.
        object: What it says stands in that relation.
        outdated: Whether it says so of the past only.
    """

    subject: str
    relation: str
    object: str
    outdated: bool = False


def read_statement(sentence: str) -> Statement | None:
    """Return what `sentence` claims, or None if it is no sentence of MiniWiki.

    >>> read_statement("Mardra Stone was born in the city of Port Glenvale.")
    Statement(subject='Mardra Stone', relation='birthplace', object='Port Glenvale', outdated=False)
    >>> read_statement("It rains.") is None
    True
    """
    for relation, outdated, pattern in _patterns():
        if found := pattern.fullmatch(sentence):
            return Statement(found["s"], relation, found["o"], outdated)
    return None


@cache
def _patterns() -> tuple[tuple[str, bool, re.Pattern[str]], ...]:
    # Longer wordings first: "is based in the city of X" is no company based in "the city of X".
    wordings = [
        (relation.name, outdated, text)
        for relation in RELATIONS.values()
        for outdated, texts in ((True, (relation.outdated,)), (False, relation.sentences))
        for text in texts
    ]
    wordings.sort(key=lambda wording: -len(wording[2]))
    return tuple((name, outdated, _pattern(text)) for name, outdated, text in wordings)


def _pattern(wording: str) -> re.Pattern[str]:
    escaped = re.escape(wording).replace(r"\{s\}", "(?P<s>.+?)").replace(r"\{o\}", "(?P<o>.+?)")
    return re.compile(escaped)
