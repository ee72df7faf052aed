"""How an episode's first observation becomes tokens, which may differ from all that follow."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class _Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...


@runtime_checkable
class PromptEncoder(Protocol):
    """A token generator whose contexts begin in a form of their own, such as a chat's."""

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of the observation that opens an episode."""
        ...


def encode_opening(generator: _Encoder, text: str) -> list[int]:
    """Return the ids of the observation that opens an episode.

    Args:
        generator: Reads it. One that is no `PromptEncoder` reads it like any other.
        text: What the environment showed.
    """
    if isinstance(generator, PromptEncoder):
        return generator.encode_prompt(text)
    return generator.encode(text)
