"""Reasoning in the style of R1 (arXiv 2501.12948), without search: the model's own knowledge.

What the paper trains without a search engine stands here as the way in which such a model plays;
any model can be put into its place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agents.baselines.programs import ANSWER, THOUGHT, Part, Program
from agents.baselines.prompted import Method, Story, forced_answer
from zs_env.lm.generator import Chat

_SYSTEM: Final = (
    "You answer a question from what you know; there is nothing to look it up in. First reason "
    "between <think> and </think>: take the question apart, check each step, and correct yourself "
    "where needed. Then write the answer, only the name, date or phrase that is asked for, "
    "between <answer> and </answer>."
)


class R1(Program):
    """The policy thinks and goes on as it will; a search is not sent, but an answer forced."""

    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return what the policy makes of a thought, and an answer if that was none."""
        own = Part(THOUGHT.opening, ("</answer>", "<search>"))
        return (own, replace(ANSWER, unless_answered=True))


class R1Prompt(Method):
    """The question, and that the answer comes after a thought between tags."""

    def ask(self, story: Story, is_last: bool) -> Chat:
        """Ask the question."""
        return Chat(f"Question: {story.question}", _SYSTEM)

    def read(self, reply: str, is_last: bool) -> str:
        """Return the thought and the answer; a search in the reply is not sent."""
        return forced_answer(reply)
