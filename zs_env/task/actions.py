"""The one grammar of actions: what an agent may write, and what of it counts.

An agent writes free text. `<think>…</think>` is for itself, `<search>query</search>` asks the
search engine, `<answer>text</answer>` ends the episode, and `<information>…</information>` is
reserved for the environment. Samplers stop at the same strings (`STOPS`) that `parse` looks for.

The rules, in the order in which they decide:

1. Tags inside `<think>…</think>` never act. A `<think>` that is never closed hides nothing: it
   ends at the first action tag.
2. An `<information>` tag written before an action is complete makes the whole text malformed.
3. The action whose closing tag comes first wins; its content starts at the last opening tag of
   its kind. Closing tags without an opening one are ignored.
4. A query or answer in which nothing can be seen (spaces, controls, invisible characters) is
   empty, and that is malformed.
5. Whatever follows the deciding tag is cut.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple

from zs_env.task.invisible import is_blank


class ActionKind(StrEnum):
    """What a text does."""

    SEARCH = "search"  # asks the search engine for `content`
    ANSWER = "answer"  # gives `content` as the final answer and ends the episode
    MALFORMED = "malformed"  # does nothing but cost a turn; `error` says why


class Action(NamedTuple):
    """One parsed text.

    Attributes:
        kind: What the text does.
        content: The stripped query or answer; empty for a malformed text.
        text: What the agent wrote up to the end of its action; the rest is cut.
        error: What was wrong with a malformed text, in one line; else empty.
    """

    kind: ActionKind
    content: str
    text: str
    error: str = ""


THINK: Final = "think"
SEARCH: Final = "search"
ANSWER: Final = "answer"
INFORMATION: Final = "information"
TAGS: Final = (THINK, SEARCH, ANSWER, INFORMATION)
STOPS: Final = ("</search>", "</answer>")

_KINDS: Final = {SEARCH: ActionKind.SEARCH, ANSWER: ActionKind.ANSWER}
_TAG: Final = re.compile("<(/?)(think|search|answer|information)>")
# A thought without tags and then an action without tags: what nearly every text is, in one match.
_PLAIN: Final = re.compile(r"(?:\s*+<think>[^<]*+</think>)?\s*+<(search|answer)>([^<]*+)</\1>")


def parse(text: str) -> Action:
    r"""Return the action that `text` performs; never raises, in time linear in its length.

    Example:
        >>> parse("<think>hm</think><search> who was X </search> and so on").content
        'who was X'
        >>> parse("<think><answer>no</answer></think><answer>yes</answer>").content
        'yes'
        >>> parse("<search></search>").error
        'Invalid action: the <search> is empty.'
    """
    if plain := _PLAIN.match(text):
        return _complete(_KINDS[plain[1]], plain[2].strip(), plain[0])
    return _parse_tags(text)


def _parse_tags(text: str) -> Action:
    """Return the action of any text, tag by tag."""
    content_starts: dict[str, int] = {}
    position = 0
    thought_may_close = True
    while tag := _TAG.search(text, position):
        position = tag.end()
        slash, name = tag.groups()
        if name == THINK:
            if not slash and thought_may_close:
                thought_end = text.find("</think>", position)
                thought_may_close = thought_end >= 0
                position = max(position, thought_end)
        elif name == INFORMATION:
            error = "<information> is written by the search engine only"
            return malformed(text[:position], error)
        elif not slash:
            content_starts[name] = position
        elif name in content_starts:
            content = text[content_starts[name] : tag.start()].strip()
            return _complete(_KINDS[name], content, text[:position])
    return malformed(text, _missing_action(content_starts))


def is_complete(text: str) -> bool:
    """Return whether `text` decides what it does: whatever is appended, `parse` reads the same.

    A sampler that goes token by token stops as soon as this is so. Inside a `<think>` it never is,
    because the thought may still be closed and hide the action.

    Example:
        >>> is_complete("<think>or <search>x</search>"), is_complete("<search>x</search>")
        (False, True)
    """
    # Closing the thought hides what it must not decide; a deciding tag cuts what was appended.
    return len(parse(f"{text}</think>").text) <= len(text)


def malformed(text: str, error: str) -> Action:
    """Return the malformed action for `text`; `error` says what was wrong, without a full stop."""
    return Action(ActionKind.MALFORMED, "", text, f"Invalid action: {error}.")


def _complete(kind: ActionKind, content: str, text: str) -> Action:
    if is_blank(content):
        return malformed(text, f"the <{kind}> is empty")
    return Action(kind, content, text)


def _missing_action(content_starts: dict[str, int]) -> str:
    """Say why no action was found, given where the unclosed ones started."""
    if content_starts:
        name = max(content_starts, key=content_starts.__getitem__)
        return f"<{name}> is not closed by </{name}>"
    return "expected <search>query</search> or <answer>answer</answer>"


class ActionGrammar:
    """The grammar as an object, for an environment to publish in its metadata.

    Attributes:
        tags: Names of the tags that mean something.
        stops: Strings at which sampling an action ends; every complete action ends with one.
    """

    tags: ClassVar[tuple[str, ...]] = TAGS
    stops: ClassVar[tuple[str, ...]] = STOPS

    def parse(self, text: str) -> Action:
        """Return the action that `text` performs; see `parse` of this module."""
        return parse(text)

    def is_complete(self, text: str) -> bool:
        """Return whether nothing that follows can change what `text` does; see this module."""
        return is_complete(text)

    def __eq__(self, other: object) -> bool:
        """Return whether `other` is a grammar too: there is only one."""
        return isinstance(other, ActionGrammar)

    def __hash__(self) -> int:
        """Return the hash that all equal grammars share."""
        return hash(ActionGrammar)

    def __repr__(self) -> str:
        """Return the expression that makes it."""
        return "ActionGrammar()"


GRAMMAR: Final = ActionGrammar()
