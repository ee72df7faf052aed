"""Prompt templates: what an episode opens with. Data, not code.

A template is any string that holds `{question}`; nothing else in it is special. None of the
shipped ones shows an example answer, so nothing in a prompt can ever be graded.
"""

from __future__ import annotations

from typing import Final

PLACEHOLDER: Final = "{question}"

PROMPTS: Final[dict[str, str]] = {
    # For the shipped tiny models, which learned the protocol and only need the question.
    "miniwiki": "Question: {question}\n",
    # For real language models, which have to be told the protocol.
    "zerosearch": (
        "You answer a question with the help of a search engine. Work in turns.\n"
        "In every turn, first reason between <think> and </think> about what you know and what is "
        "missing. Then do exactly one thing:\n"
        "- If a fact is missing, write a short query between <search> and </search>. The results "
        "come back between <information> and </information>; they can be wrong or off the topic, "
        "so check them and search again where needed.\n"
        "- If you know the answer, write it between <answer> and </answer>: only the name, date "
        "or phrase that was asked for, with no explanation. This ends the task.\n"
        "\n"
        "Question: {question}\n"
    ),
}


def make_prompt(prompt: object) -> str:
    """Return the template that `prompt` names or is.

    Args:
        prompt: A key of `PROMPTS`, or a template that holds `{question}`.

    Raises:
        ValueError: If it is a text that is neither.
        TypeError: If it is no text.
    """
    template = PROMPTS.get(prompt, prompt) if isinstance(prompt, str) else ""
    if PLACEHOLDER not in template:
        known = ", ".join(PROMPTS)
        error = ValueError if isinstance(prompt, str) else TypeError
        raise error(f"`prompt` must be {known} or a template holding {PLACEHOLDER}, got {prompt!r}")
    return template


def fill(template: str, question: str) -> str:
    r"""Return the template with the question in its place; other braces stay as they are.

    Example:
        >>> fill("Question: {question}\n", "Who was {X}?")
        'Question: Who was {X}?\n'
    """
    return template.replace(PLACEHOLDER, question)
