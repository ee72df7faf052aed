"""Retrieval-augmented generation (arXiv 2005.11401): search for the question once, then answer."""

from __future__ import annotations

from typing import Final

from agents.baselines.programs import ANSWER, Part, Program
from agents.baselines.prompted import Method, Story, forced_answer, one_line
from zs_env.lm.generator import Chat

_SYSTEM: Final = (
    "Answer the question with the help of the documents; they can be wrong or off the topic. "
    "Write only the name, date or phrase that is asked for, between <answer> and </answer>, and "
    "nothing else."
)


def search_for(question: str) -> str:
    """Return the action that searches for a question as it stands."""
    return f"<search>{one_line(question)}</search>"


class RAG(Program):
    """The program searches for the question; with the documents read, an answer is forced."""

    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return the search in the first turn, and then the forced answer."""
        return (Part(search_for(question)),) if turn == 0 and not is_last else (ANSWER,)


class RAGPrompt(Method):
    """The documents that the question brought, the question, and that an answer is wanted."""

    def ask(self, story: Story, is_last: bool) -> Chat | str:
        """Search first, without asking the model; then ask."""
        if not story.turns and not is_last:
            return search_for(story.question)
        documents = "".join(read for _, read in story.turns)
        return Chat(f"{documents}Question: {story.question}", _SYSTEM)

    def read(self, reply: str, is_last: bool) -> str:
        """Return the reply as an answer."""
        return forced_answer(reply)
