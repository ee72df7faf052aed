"""How a context begins: with the tokenizer's own first token, or as a chat.

The question is put into the chat template once, as a user's message, and the model's reply is
begun. Everything after that, what the model writes and what it is shown, is appended to that
reply as it is: no template ever sees an episode again, and no token is encoded twice.
"""

from __future__ import annotations

from typing import Any, Final

from zs_env.lm.chat import prompt_text
from zs_env.lm.generator import Chat

_REPLY: Final = "xyzzy"


def decide_chat(chat: bool | None, tokenizer: Any) -> bool:
    """Return whether contexts begin as chats.

    Args:
        chat: What is wanted; None means wherever the tokenizer has a chat template.
        tokenizer: Of the model.

    Raises:
        ValueError: If it is wanted, and there is no template.
    """
    has_template = bool(tokenizer.chat_template)
    if chat and not has_template:
        raise ValueError("`chat` must be false for a tokenizer without chat template, got true")
    return has_template if chat is None else chat


def opening_ids(text: str, tokenizer: Any, chat: bool) -> list[int]:
    """Return the ids that a context begins with.

    Args:
        text: The first observation.
        tokenizer: Of the model.
        chat: Whether to put it into the chat template. If not, it comes after the token that the
            tokenizer begins every text with, if there is one.

    Raises:
        ValueError: If the template refuses it.
    """
    if chat:
        # A template writes special tokens out, the first one too.
        text = prompt_text(Chat(text), tokenizer)
    return [*([] if chat else _first_ids(tokenizer)), *_plain(text, tokenizer)]


def _plain(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _first_ids(tokenizer: Any) -> list[int]:
    first = tokenizer.encode("")[:1]
    return list(first) if first == [tokenizer.bos_token_id] else []


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the id with which a reply ends in the chat template.

    Base models often come with a template whose end of turn their configuration does not know.

    Args:
        tokenizer: One with a chat template.

    Returns:
        The id; None if the template ends replies with no special token.
    """
    messages = [*Chat("?").messages, {"role": "assistant", "content": _REPLY}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    rest = _plain(text.rpartition(_REPLY)[2].lstrip(), tokenizer)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return rest[0] if rest and rest[0] in special else None
