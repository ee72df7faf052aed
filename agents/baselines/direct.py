"""Direct answer: no thought, no search; what the model knows by heart."""

from __future__ import annotations

from typing import Final

from agents.baselines.programs import ANSWER, Part, Program
from agents.baselines.prompted import Method, Story, forced_answer
from zs_env.lm.generator import Chat

_SYSTEM: Final = (
    "Answer the question at once. Write only the name, date or phrase that is asked for, between "
    "<answer> and </answer>, and nothing else."
)


class Direct(Program):
    """The policy goes on from a forced `<answer>`."""

    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return the forced answer."""
        return (ANSWER,)


class DirectPrompt(Method):
    """The question, and that nothing but the answer is wanted."""

    def ask(self, story: Story, is_last: bool) -> Chat:
        """Ask the question."""
        return Chat(f"Question: {story.question}", _SYSTEM)

    def read(self, reply: str, is_last: bool) -> str:
        """Return the reply as an answer."""
        return forced_answer(reply)
