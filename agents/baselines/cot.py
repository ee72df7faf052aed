"""Chain of thought (arXiv 2201.11903): think, then answer; no search."""

from __future__ import annotations

from typing import Final

from agents.baselines.programs import ANSWER, THOUGHT, Part, Program
from agents.baselines.prompted import Method, Story, forced_answer
from zs_env.lm.generator import Chat

_SYSTEM: Final = (
    "Answer the question. Think step by step first, in a few sentences. Then write the answer, "
    "only the name, date or phrase that is asked for, between <answer> and </answer>."
)


class ChainOfThought(Program):
    """The policy thinks after a forced `<think>`, then goes on from a forced `<answer>`."""

    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return a thought and the forced answer."""
        return (THOUGHT, ANSWER)


class ChainOfThoughtPrompt(Method):
    """The question, and that the answer comes after the steps that lead to it."""

    def ask(self, story: Story, is_last: bool) -> Chat:
        """Ask the question."""
        return Chat(f"Question: {story.question}\nLet us think step by step.", _SYSTEM)

    def read(self, reply: str, is_last: bool) -> str:
        """Return the end of the reply as an answer."""
        return forced_answer(reply)
