"""The rules of one episode, with no input or output of its own.

The two environments are shells around this class: they hand it what the agent wrote, ask a
search engine on its behalf, and hand it the documents.

    request = episode.begin_turn(text)         # None if this turn asks for nothing
    documents = engine.search([request])[0]    # only if there is a request
    judged = episode.judge(documents)          # all that can fail has been done
    episode.commit(judged)                     # cannot fail

`commit` alone changes the episode, so a turn that failed anywhere before, in the engine or in a
reward, can be tried again. `end_turn` is both of the last steps at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from zs_env.random import Stream, derive
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.neutralise import neutralise_documents
from zs_env.task.actions import Action, ActionKind, malformed, parse
from zs_env.task.prompts import PLACEHOLDER, PROMPTS, fill
from zs_env.task.questions import MAX_QUESTION_LENGTH, Question
from zs_env.task.reward_terms import AnswerGrade, RewardTerm, Turn
from zs_env.task.rewards import exact_match, token_f1

MAX_TITLE_LENGTH: Final = 200
_LAYOUT_LENGTH: Final = 64  # more than the characters around a document, or around all of them
_MAX_ERROR_LENGTH: Final = 200  # more than the longest message about a malformed action

# Each turn has two draws of its own in the noise stream: counters 2 * turn and 2 * turn + 1.
_NOISE_DRAW: Final = 0
_REQUEST_SEED: Final = 1
_KIND_DRAW: Final = 0  # of the request's own seed

# Every step compares with these, and to read one off its class costs more than the comparison.
_SEARCH: Final = ActionKind.SEARCH
_ANSWER: Final = ActionKind.ANSWER
_MALFORMED: Final = ActionKind.MALFORMED


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
        reward: The turn's reward.
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
        reward: What a turn is worth.
        max_action_length: Characters of the longest action that is read at all.
        max_document_length: Characters at which a document is clipped.
        noise_kinds: Kinds of noise among which each noisy search draws one; none leaves the kind
            to the engine.
        makes_noise: Whether the engine can be asked for noisy documents. Where it cannot, noise
            is drawn and asked for all the same, and none is reported.
    """

    prompt: str = PROMPTS["miniwiki"]
    top_k: int = 3
    max_turns: int = 6
    reward: RewardTerm = field(default_factory=AnswerGrade)
    max_action_length: int = 8192
    max_document_length: int = 2048
    noise_kinds: tuple[NoiseKind, ...] = ()
    makes_noise: bool = True

    @property
    def max_observation_length(self) -> int:
        """An upper bound of the characters of any observation under these rules."""
        prompt = len(self.prompt) + self.prompt.count(PLACEHOLDER) * MAX_QUESTION_LENGTH
        document = self.max_document_length + MAX_TITLE_LENGTH + _LAYOUT_LENGTH
        return max(prompt, self.top_k * document + _LAYOUT_LENGTH, _MAX_ERROR_LENGTH)


class _Played(NamedTuple):
    """One turn that is over; what the agent read after it can be written again from this."""

    action: Action
    shown: tuple[Document, ...]
    searched: bool

    @property
    def observation(self) -> str:
        """What the agent reads after the action; nothing where nobody would read it."""
        if self.searched:
            return render_documents(self.shown)
        if self.action.kind is _MALFORMED:
            return f"{self.action.error}\n"
        return ""

    @property
    def messages(self) -> list[Message]:
        """What the turn adds to the transcript."""
        answer = [Message(Role.ENVIRONMENT, text)] if (text := self.observation) else []
        return [Message(Role.AGENT, self.action.text), *answer]


class Judged(NamedTuple):
    """A turn whose outcome is known, and that its episode has yet to take.

    Attributes:
        played: What the episode will keep of it.
        outcome: What it leads to.
        stop_reason: Why the episode ends with it, or None if it goes on.
    """

    played: _Played
    outcome: Outcome
    stop_reason: StopReason | None

    @property
    def messages(self) -> list[Message]:
        """What the turn will add to the transcript."""
        return self.played.messages


class Episode:
    """One question, from the prompt to the answer or to the last turn.

    Args:
        question: What is asked.
        rules: The rules to play by.
        noise: Probability, in [0, 1], that a search asks for noisy documents.
        noise_seed: Key of the noise draws and of the seeds that requests carry. Episodes of one
            question that share it get the same draws turn by turn: they are one group.
    """

    def __init__(
        self, question: Question, rules: Rules, noise: float = 0.0, noise_seed: int = 0
    ) -> None:
        """Begin at turn 0, before the agent's first action."""
        self.question = question
        self.rules = rules
        self.noise = noise
        self.noise_seed = noise_seed
        self._draws = Stream(noise_seed)
        self.group = _group_id(question, noise_seed)
        self.turn = 0
        self.num_searches = 0
        self.stop_reason: StopReason | None = None
        self.prompt = fill(rules.prompt, question.text)
        self._played: list[_Played] = []
        self._action: Action | None = None
        self._request: SearchRequest | None = None

    def reset_info(self) -> dict[str, Any]:
        """Return the info that goes with the prompt."""
        return {
            "question_id": self.question.id,
            "data_source": self.question.data_source,
            "group": self.group,
            "turn": self.turn,
            "noise": self._noise_made,
            "num_searches": self.num_searches,
        }

    @property
    def _noise_made(self) -> float:
        """The probability of noisy documents: 0 where the engine makes none."""
        return self.noise if self.rules.makes_noise else 0.0

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
        if action.kind is _SEARCH and self.turn + 1 < self.rules.max_turns:
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
        noisy = self.noise > 0 and self._draws.uniform(draw + _NOISE_DRAW) < self.noise
        seed = self._draws.derive(draw + _REQUEST_SEED)
        kind = self._noise_kind(seed) if noisy else None
        question = self.question
        # JSON may escape half of a surrogate pair, which no tokenizer takes and no file holds.
        query = query.encode("utf-8", "replace").decode()
        # In the order of its fields: keywords cost a third more.
        return SearchRequest(
            query, question.text, question.golden_answers, noisy, seed, self.rules.top_k, kind
        )

    def _noise_kind(self, seed: int) -> NoiseKind | None:
        kinds = self.rules.noise_kinds
        return kinds[derive(seed, _KIND_DRAW) % len(kinds)] if kinds else None

    def end_turn(self, documents: Sequence[Document] = ()) -> Outcome:
        """Finish the turn that `begin_turn` began: `judge` and `commit` at once."""
        judged = self.judge(documents)
        self.commit(judged)
        return judged.outcome

    def judge(self, documents: Sequence[Document] = ()) -> Judged:
        """Return what the turn that `begin_turn` began leads to; the episode is as before.

        Args:
            documents: What the engine returned for the request; ignored if there was none.

        Raises:
            RuntimeError: If no turn was begun.
        """
        action, request = self._action, self._request
        if action is None:
            raise RuntimeError("`end_turn` must follow `begin_turn`")
        shown = () if request is None else self._neutralise(documents)
        played = _Played(action, shown, request is not None)
        stop_reason = self._stop_reason(action)
        observation = played.observation
        info = self._step_info(played, request)
        if stop_reason is not None:
            info |= self._final_info(action, stop_reason)
        reward = self._reward(played, observation, stop_reason is not None)
        terminated = stop_reason is StopReason.ANSWERED
        truncated = stop_reason is not None and not terminated
        outcome = Outcome(observation, reward, terminated, truncated, info)
        return Judged(played, outcome, stop_reason)

    def commit(self, judged: Judged) -> None:
        """Take the turn that `judge` returned: go on to the next one, or end."""
        self._advance(judged.played, judged.stop_reason)

    def _neutralise(self, documents: Sequence[Document]) -> tuple[Document, ...]:
        rules = self.rules
        kept = documents[: rules.top_k]
        return neutralise_documents(kept, rules.max_document_length, MAX_TITLE_LENGTH)

    def _stop_reason(self, action: Action) -> StopReason | None:
        """Return why the episode ends with `action`, or None if it goes on."""
        if action.kind is _ANSWER:
            return StopReason.ANSWERED
        return StopReason.MAX_TURNS if self.turn + 1 >= self.rules.max_turns else None

    def _advance(self, played: _Played, stop_reason: StopReason | None) -> None:
        """Move on to the next turn, or end."""
        self.stop_reason = stop_reason
        self._action = self._request = None
        self._played.append(played)
        self.turn += 1
        self.num_searches += played.searched

    def _reward(self, played: _Played, observation: str, ended: bool) -> float:
        turn = Turn(
            played.action,
            self.question.golden_answers,
            observation,
            self.turn + 1,
            played.searched,
            self.num_searches + played.searched,
            ended,
        )
        return float(self.rules.reward(turn))

    def _step_info(self, played: _Played, request: SearchRequest | None) -> dict[str, Any]:
        action = played.action
        asked = request if self.rules.makes_noise else None
        kind = None if asked is None else asked.noise_kind
        return {
            "question_id": self.question.id,
            "data_source": self.question.data_source,
            "group": self.group,
            "turn": self.turn + 1,
            "action": str(action.kind),
            "query": action.content if action.kind is _SEARCH else "",
            "documents": played.shown,
            "noisy": asked is not None and asked.noisy,
            "noise_kind": kind or "",
            "noise": self._noise_made,
            "num_searches": self.num_searches + played.searched,
        }

    def _final_info(self, action: Action, stop_reason: StopReason) -> dict[str, Any]:
        """Return how the episode ends; an episode without an answer scores 0 in everything."""
        golden_answers = self.question.golden_answers
        answered = action.kind is _ANSWER
        return {
            "answer": action.content if answered else "",
            "exact_match": exact_match(action.content, golden_answers) if answered else 0.0,
            "f1": token_f1(action.content, golden_answers) if answered else 0.0,
            "golden_answers": golden_answers,
            "stop_reason": stop_reason,
        }

    @property
    def transcript(self) -> list[Message]:
        """Who wrote what so far: the prompt, then every action and what followed it, if anything.

        Written anew each time: kept texts would be most of an episode's memory.
        """
        turns = (message for played in self._played for message in played.messages)
        return [Message(Role.ENVIRONMENT, self.prompt), *turns]

    def get_state(self) -> dict[str, Any]:
        """Return where the episode stands: dicts, lists, texts, numbers and None, for any codec.

        A turn that has begun and not ended is not part of it.
        """
        answers = list(self.question.golden_answers)
        return {
            "question": asdict(self.question) | {"golden_answers": answers},
            "max_turns": self.rules.max_turns,
            "noise": self.noise,
            "noise_seed": self.noise_seed,
            "stop_reason": None if self.stop_reason is None else self.stop_reason.value,
            "played": [
                {
                    "action": [str(part) for part in played.action],
                    "documents": [list(astuple(document)) for document in played.shown],
                    "searched": played.searched,
                }
                for played in self._played
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], rules: Rules) -> Episode:
        """Return an episode that goes on from where another one stood.

        Args:
            state: What `get_state` returned.
            rules: The rules of that episode, but for `max_turns`, which the state knows.
        """
        answers = tuple(state["question"]["golden_answers"])
        question = Question(**state["question"] | {"golden_answers": answers})
        rules = replace(rules, max_turns=state["max_turns"])
        episode = cls(question, rules, state["noise"], state["noise_seed"])
        for played in state["played"]:
            kind, *texts = played["action"]
            shown = tuple(Document(*parts) for parts in played["documents"])
            action = Action(ActionKind(kind), *texts)
            turn = _Played(action, shown, played["searched"])
            episode._advance(turn, episode._stop_reason(action))
        return episode


def render_documents(documents: Sequence[Document]) -> str:
    r"""Return the block in which an agent reads documents.

    Example:
        >>> render_documents([Document("It is red."), Document("It is far.", title="Mars")])
        '<information>Doc 1: It is red.\nDoc 2(Title: Mars) It is far.</information>\n'
    """
    pieces = ["<information>"]
    for number, document in enumerate(documents, start=1):
        title = f"(Title: {document.title}) " if document.title else ": "
        pieces += ("\nDoc " if number > 1 else "Doc ", str(number), title, document.text)
    pieces.append("</information>\n")
    return "".join(pieces)


def name_texts(*texts: str) -> int:
    """Return 64 bits that name a sequence of texts: other texts have, in all likelihood, others."""
    # The expression of a tuple tells where each text ends, and escapes what cannot be encoded.
    return int.from_bytes(blake2b(repr(texts).encode(), digest_size=8).digest())


def _group_id(question: Question, noise_seed: int) -> int:
    """Return the id, in [0, 2**63), that episodes share if and only if they are one group."""
    # All of the question goes in, for nobody vouches for the ids of a caller's records.
    parts = (question.data_source, question.id, question.text, *question.golden_answers)
    return derive(noise_seed, name_texts(*parts))
