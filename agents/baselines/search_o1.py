"""Search-o1 (arXiv 2501.05366): documents are condensed before they enter the reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agents.baselines.documents import read_documents
from agents.baselines.programs import ANSWER, Part, Program, ProgramAgent, ProgramState
from agents.baselines.prompted import Method, Story, forced_answer
from zs_env.episode import render_documents
from zs_env.lm.generator import Chat
from zs_env.search.engine import Document
from zs_env.search.neutralise import neutralise
from zs_env.task.actions import STOPS, ActionKind, parse
from zs_env.task.prompts import fill, make_prompt

_MAX_LENGTH: Final = 2048  # characters of what is condensed

_SYSTEM: Final = (
    "You answer a question by reasoning, and look up what you are not sure of. Reason between "
    "<think> and </think>. Then write either a short query between <search> and </search>, and "
    "the search results come back, condensed, between <information> and </information>; or, when "
    "you know it, the answer between <answer> and </answer>: only the name, date or phrase that "
    "is asked for."
)
_LAST: Final = "This is your last turn: write the answer.\n"
_CONDENSE: Final = (
    "You read search results for somebody who is in the midst of reasoning. Write down, in one or "
    "two sentences, what in the documents helps with the current query, with the exact names, "
    "dates and numbers. If nothing does, write: No helpful information found."
)


class SearchO1(Program):
    """The policy plays as it will; in the last turn an answer is forced."""

    def parts(self, question: str, turn: int, is_last: bool) -> tuple[Part, ...]:
        """Return what the policy writes."""
        return (ANSWER,) if is_last else (Part("", STOPS),)


class SearchO1Agent(ProgramAgent):
    """Answers each query in a context of its own, and reads on with what holds that answer.

    A policy that knows only its own protocol cannot write a summary; it can point at documents.
    """

    def _read(
        self,
        observations: Sequence[str],
        state: ProgramState,
        shown: Sequence[int],
        temperature: float,
    ) -> None:
        searched = [index for index in shown if read_documents(observations[index])]
        texts = [self._side_text(state.slots[i].action, observations[i]) for i in searched]
        names = self._complete_aside(state, searched, texts, temperature)
        condensed = {
            index: render_documents(_that_hold(name, read_documents(observations[index])))
            for index, name in zip(searched, names, strict=True)
        }
        read = [condensed.get(index, text) for index, text in enumerate(observations)]
        super()._read(read, state, shown, temperature)

    def _side_text(self, action: str, observation: str) -> str:
        parsed = parse(action)
        asked = fill(make_prompt(self._rules.prompt), parsed.content)
        return f"{asked}<search> {parsed.content}</search>{observation}"


class SearchO1Prompt(Method):
    """The reasoning so far, with condensed documents; a call of its own condenses them."""

    def ask(self, story: Story, is_last: bool) -> Chat:
        """Show the reasoning so far and ask to go on."""
        told = "".join(f"{action}\n{read}" for action, read in story.turns)
        return Chat(f"Question: {story.question}\n{told}{_LAST if is_last else ''}", _SYSTEM)

    def read(self, reply: str, is_last: bool) -> str:
        """Return the reply up to the end of its action; in the last turn always an answer."""
        return forced_answer(reply) if is_last else parse(reply).text

    def condense(self, story: Story, observation: str) -> Chat | None:
        """Ask what in the documents helps, given the reasoning so far and the query."""
        action = parse(story.action)
        if action.kind is not ActionKind.SEARCH or not read_documents(observation):
            return None
        told = "".join(f"{action}\n{read}" for action, read in story.turns) + story.action
        parts = (
            f"Question: {story.question}",
            f"Reasoning so far: {told}",
            f"Current query: {action.content}",
            observation,
        )
        return Chat("\n".join(parts), _CONDENSE)

    def take_in(self, reply: str) -> str:
        """Return the condensed documents as the model reads them."""
        return information(reply)


def _that_hold(name: str, documents: Sequence[Document]) -> list[Document]:
    """Return the documents that hold a name; all of them if none does."""
    found = [each for each in documents if name and name in f"{each.title} {each.text}"]
    return found or list(documents)


def information(note: str) -> str:
    """Return a note in the form of a search result; nothing in it acts."""
    return render_documents([Document(neutralise(note.strip(), _MAX_LENGTH))])
