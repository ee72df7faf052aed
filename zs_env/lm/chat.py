"""What a model in this process reads where a chat is to be replied to."""

from __future__ import annotations

from typing import Any

from zs_env.lm.generator import Chat


def prompt_text(prompt: str | Chat, tokenizer: Any) -> str:
    """Return all that a model reads before it writes; no special token is to be added to it.

    Args:
        prompt: A text, which is left as it is, or a chat.
        tokenizer: Of the model; its chat template, if it has one, is applied to a chat.

    Raises:
        ValueError: If the template refuses the chat, as some do if there is a system message.
    """
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        return prompt.plain
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            prompt.messages, tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise ValueError(f"the model's chat template refuses the prompt: {error}") from error
    return str(text)
