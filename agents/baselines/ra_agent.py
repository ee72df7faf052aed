"""RA-Agent: ReAct (arXiv 2210.03629), in which thoughts, actions and observations take turns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Final

from agents.baselines.documents import read_documents
from agents.baselines.programs import ANSWER, THOUGHT, Part, Program
from agents.baselines.prompted import Method, Story, forced_answer, one_line
from zs_env.lm.generator import Chat
from zs_env.task.actions import STOPS, ActionKind, parse

_SYSTEM: Final = (
    "You answer a question with the help of a search engine, in turns of this form:\n"
    "Thought: what is known, what is missing, and what to do next, in a sentence or two.\n"
    "Action: search[a short query], or finish[the answer] when you know it.\n"
    "After a search you read an Observation; it can be wrong or off the topic. Write one Thought "
    "and one Action at a time, and never an Observation. The answer is only the name, date or "
    "phrase that is asked for."
)
_LAST: Final = "This is your last turn: the Action must be finish[the answer].\n"
_ACTION: Final = re.compile(r"\b(search|finish)\s*\[(.*?)\]\s*(?:\n|$)", re.IGNORECASE | re.DOTALL)
_THOUGHT: Final = re.compile(r"^\s*(?:Thought(?: \d+)?\s*:)?\s*")
_CALL: Final = re.compile(r"\s*Action(?: \d+)?\s*:\s*$")


class ReAct(Program):
    """Each turn the policy thinks, then acts as it will; in the last one an answer is forced."""

    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return a thought and an action."""
        return (THOUGHT, ANSWER) if is_last else (Part(THOUGHT.opening, STOPS),)


class ReActPrompt(Method):
    """All thoughts, actions and observations so far; the model writes the next two."""

    stops: ClassVar[tuple[str, ...]] = ("\nObservation",)

    def ask(self, story: Story, is_last: bool) -> Chat:
        """Show the story and ask for what comes next."""
        lines = [f"Question: {story.question}\n", *_retell(story)]
        return Chat("".join(lines) + (_LAST if is_last else ""), _SYSTEM)

    def read(self, reply: str, is_last: bool) -> str:
        """Return the reply's thought and action in the environment's tags.

        A reply without an action stays as it is, and the environment calls it malformed; in the
        last turn it is read as an answer.
        """
        found = _ACTION.search(f"{reply}\n")
        if found is None:
            return forced_answer(reply) if is_last else one_line(reply)
        before = _CALL.sub("", _THOUGHT.sub("", reply[: found.start()]))
        tag = "search" if found[1].lower() == "search" else "answer"
        return f"<think>{one_line(before)}</think><{tag}>{one_line(found[2])}</{tag}>"


def _retell(story: Story) -> Iterator[str]:
    """Yield each turn in the form in which the model is to write the next one."""
    for number, (action, read) in enumerate(story.turns, start=1):
        parsed = parse(action)
        thought = one_line(action.partition("</think>")[0]) if "</think>" in action else ""
        documents = [f"{each.title} {each.text}".strip() for each in read_documents(read)]
        call = f"search[{parsed.content}]" if parsed.kind is ActionKind.SEARCH else parsed.text
        yield f"Thought {number}: {thought}\nAction {number}: {call}\n"
        yield f"Observation {number}: {' | '.join(documents) or one_line(read)}\n"
