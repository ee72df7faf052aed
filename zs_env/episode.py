"""The rules of one episode, with no input or output of its own.

The two environments are shells around this class: they hand it what the agent wrote, ask a
search engine on its behalf, and hand it the documents.

    request = episode.begin_turn(text)         # None if this turn asks for nothing
    documents = engine.search([request])[0]    # only if there is a request
    outcome = episode.end_turn(documents)

`begin_turn` changes nothing but the pending turn, so a turn whose search failed can be retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from zs_env.random import derive, uniform
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.neutralise import neutralise_document
from zs_env.task.actions import Action, ActionKind, malformed, parse
from zs_env.task.prompts import PLACEHOLDER, PROMPTS, fill
from zs_env.task.questions import Question
from zs_env.task.rewards import RewardFunction, exact_match, token_f1

MAX_QUESTION_LENGTH: Final = 4096
MAX_TITLE_LENGTH: Final = 200
_LAYOUT_LENGTH: Final = 64  # more than the characters around a document, or around all of them
_MAX_ERROR_LENGTH: Final = 200  # more than the longest message about a malformed action

# Each turn has two draws of its own in the noise stream: counters 2 * turn and 2 * turn + 1.
_NOISE_DRAW: Final = 0
_REQUEST_SEED: Final = 1


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"  # the agent gave a final answer: terminated
    MAX_TURNS = "max_turns"  # the last turn brought no answer: truncated


class Role(StrEnum):
    """Who wrote a part of the transcript."""

    ENVIRONMENT = "environment"  # the prompt, documents, or a note about a malformed action
    AGENT = "agent"  # an action, cut after its closing tag


class Message(NamedTuple):
    """One part of the transcript."""

    role: Role
    text: str


class Outcome(NamedTuple):
    """What a turn led to, in the order in which Gymnasium's `step` returns it.

    Attributes:
        observation: What the agent reads next; empty after its final answer.
        reward: The turn's reward: that of the answer, 0 for every other turn.
        terminated: Whether the agent answered.
        truncated: Whether the turns ran out; never together with `terminated`.
        info: The chapter "Information" of `ZeroSearchEnv` lists it.
    """

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What stays the same from one episode to the next.

    Attributes:
        prompt: Template of the first observation; holds `{question}`.
        top_k: Documents a search brings, at least 1.
        max_turns: Actions an episode lasts at most, at least 1.
        reward: From (answer, golden answers) to the reward of answering so.
        max_action_length: Characters of the longest action that is read at all.
        max_document_length: Characters at which a document is clipped.
    """

    prompt: str = PROMPTS["miniwiki"]
    top_k: int = 3
    max_turns: int = 6
    reward: RewardFunction = token_f1
    max_action_length: int = 8192
    max_document_length: int = 2048

    @property
    def max_observation_length(self) -> int:
        """An upper bound of the characters of any observation under these rules."""
        prompt = len(self.prompt) + self.prompt.count(PLACEHOLDER) * MAX_QUESTION_LENGTH
        document = self.max_document_length + MAX_TITLE_LENGTH + _LAYOUT_LENGTH
        return max(prompt, self.top_k * document + _LAYOUT_LENGTH, _MAX_ERROR_LENGTH)


class Episode:
    """One question, from the prompt to the answer or to the last turn.

    Args:
        question: What is asked.
        rules: The rules to play by.
        noise: Probability, in [0, 1], that a search asks for noisy documents.
        noise_seed: Key of the noise draws and of the seeds that requests carry. Episodes of one
            question that share it get the same draws turn by turn: they are one group.

    Raises:
        ValueError: If the question is longer than `MAX_QUESTION_LENGTH` characters.
    """

    def __init__(
        self, question: Question, rules: Rules, noise: float = 0.0, noise_seed: int = 0
    ) -> None:
        """Begin at turn 0, with the prompt as the only part of the transcript."""
        if len(question.text) > MAX_QUESTION_LENGTH:
            raise ValueError(
                f"`question` must be at most {MAX_QUESTION_LENGTH} characters long, "
                f"got {len(question.text)} in question {question.id!r}"
            )
        self.question = question
        self.rules = rules
        self.noise = noise
        self.noise_seed = noise_seed
        self.group = _group_id(question, noise_seed)
        self.turn = 0
        self.num_searches = 0
        self.stop_reason: StopReason | None = None
        self.prompt = fill(rules.prompt, question.text)
        self.transcript = [Message(Role.ENVIRONMENT, self.prompt)]
        self._action: Action | None = None
        self._request: SearchRequest | None = None

    def reset_info(self) -> dict[str, Any]:
        """Return the info that goes with the prompt."""
        return {
            "question_id": self.question.id,
            "data_source": self.question.data_source,
            "group": self.group,
            "turn": self.turn,
            "noise": self.noise,
            "num_searches": self.num_searches,
        }

    def begin_turn(self, text: str) -> SearchRequest | None:
        """Read what the agent wrote.

        Returns:
            What to ask the search engine, or None if this turn asks for nothing: it answers, is
            malformed, or is the last one, whose documents nobody would read.

        Raises:
            TypeError: If `text` is not a string.
            RuntimeError: If the episode is over.
        """
        if self.stop_reason is not None:
            raise RuntimeError(f"the episode is over ({self.stop_reason}): begin another one")
        self._action = action = self._read(text)
        self._request = None
        if action.kind is ActionKind.SEARCH and self.turn + 1 < self.rules.max_turns:
            self._request = self._ask(action.content)
        return self._request

    def _read(self, text: str) -> Action:
        if not isinstance(text, str):
            raise TypeError(f"`action` must be a string, got {text!r}")
        limit = self.rules.max_action_length
        if len(text) > limit:
            return malformed(text[:limit], f"{len(text)} characters, at most {limit} are read")
        return parse(text)

    def _ask(self, query: str) -> SearchRequest:
        draw = 2 * self.turn
        noisy = self.noise > 0 and uniform(self.noise_seed, draw + _NOISE_DRAW) < self.noise
        return SearchRequest(
            query=query,
            question=self.question.text,
            golden_answers=self.question.golden_answers,
            noisy=noisy,
            seed=derive(self.noise_seed, draw + _REQUEST_SEED),
            top_k=self.rules.top_k,
        )

    def end_turn(self, documents: Sequence[Document] = ()) -> Outcome:
        """Finish the turn that `begin_turn` began.

        Args:
            documents: What the engine returned for the request; ignored if there was none.

        Raises:
            RuntimeError: If no turn was begun.
        """
        action, request = self._action, self._request
        if action is None:
            raise RuntimeError("`end_turn` must follow `begin_turn`")
        shown = () if request is None else self._neutralise(documents)
        observation = _observe(action, shown, searched=request is not None)
        self._advance(action, searched=request is not None, observation=observation)
        info = self._step_info(action, request, shown)
        if self.stop_reason is not None:
            info |= self._final_info(action)
        answered = self.stop_reason is StopReason.ANSWERED
        return Outcome(
            observation=observation,
            reward=float(self._reward(action)) if answered else 0.0,
            terminated=answered,
            truncated=self.stop_reason is StopReason.MAX_TURNS,
            info=info,
        )

    def _neutralise(self, documents: Sequence[Document]) -> tuple[Document, ...]:
        limit = self.rules.max_document_length
        kept = documents[: self.rules.top_k]
        return tuple([neutralise_document(doc, limit, MAX_TITLE_LENGTH) for doc in kept])

    def _advance(self, action: Action, *, searched: bool, observation: str) -> None:
        """Move on to the next turn, or end."""
        self._action = self._request = None
        self.turn += 1
        self.num_searches += searched
        self.transcript.append(Message(Role.AGENT, action.text))
        if observation:
            self.transcript.append(Message(Role.ENVIRONMENT, observation))
        if action.kind is ActionKind.ANSWER:
            self.stop_reason = StopReason.ANSWERED
        elif self.turn >= self.rules.max_turns:
            self.stop_reason = StopReason.MAX_TURNS

    def _reward(self, action: Action) -> float:
        return self.rules.reward(action.content, self.question.golden_answers)

    def _step_info(
        self, action: Action, request: SearchRequest | None, shown: tuple[Document, ...]
    ) -> dict[str, Any]:
        return {
            "question_id": self.question.id,
            "data_source": self.question.data_source,
            "group": self.group,
            "turn": self.turn,
            "action": action.kind.value,
            "query": action.content if action.kind is ActionKind.SEARCH else "",
            "documents": shown,
            "noisy": request is not None and request.noisy,
            "noise": self.noise,
            "num_searches": self.num_searches,
        }

    def _final_info(self, action: Action) -> dict[str, Any]:
        """Return how the episode ended; an episode without an answer scores 0 in everything."""
        golden_answers = self.question.golden_answers
        answered = action.kind is ActionKind.ANSWER
        return {
            "answer": action.content if answered else "",
            "exact_match": exact_match(action.content, golden_answers) if answered else 0.0,
            "f1": token_f1(action.content, golden_answers) if answered else 0.0,
            "golden_answers": golden_answers,
            "stop_reason": self.stop_reason,
        }


def render_documents(documents: Sequence[Document]) -> str:
    r"""Return the block in which an agent reads documents.

    Example:
        >>> render_documents([Document("It is red."), Document("It is far.", title="Mars")])
        '<information>Doc 1: It is red.\nDoc 2(Title: Mars) It is far.</information>\n'
    """
    lines = [
        f"Doc {number}(Title: {document.title}) {document.text}"
        if document.title
        else f"Doc {number}: {document.text}"
        for number, document in enumerate(documents, start=1)
    ]
    return "<information>" + "\n".join(lines) + "</information>\n"


def _observe(action: Action, shown: Sequence[Document], *, searched: bool) -> str:
    """Return what the agent reads after an action; nothing where nobody would read it."""
    if searched:
        return render_documents(shown)
    if action.kind is ActionKind.MALFORMED:
        return f"{action.error}\n"
    return ""


def _group_id(question: Question, noise_seed: int) -> int:
    """Return the id, in [0, 2**63), that episodes share if and only if they are one group."""
    name = f"{question.data_source}\0{question.id}".encode("utf-8", "surrogatepass")
    return derive(noise_seed, int.from_bytes(blake2b(name, digest_size=8).digest()))
