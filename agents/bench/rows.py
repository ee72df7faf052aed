"""What a benchmark keeps of each episode: one JSON object a line of `episodes.jsonl`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

EPISODES_FILE: Final = "episodes.jsonl"
RESULTS_FILE: Final = "results.json"


@dataclass(frozen=True, slots=True)
class Condition:
    """Who plays where: all episodes of a condition make one number of the table.

    Attributes:
        agent: Name of the agent, as the benchmark's file has it.
        environment: The registered id.
        engine: Name of what answers queries.
        noise: Probability of noisy documents, in [0, 1].
        seed: Key of noise and sampling.
    """

    agent: str
    environment: str
    engine: str
    noise: float
    seed: int


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One turn.

    Attributes:
        action: What the agent wrote.
        kind: What the environment made of it: search, answer or malformed.
        query: What was searched for; empty if nothing was.
        noisy: Whether the search asked for noisy documents.
        observation: What the environment showed next, documents included; empty after the last
            turn.
    """

    action: str
    kind: str
    query: str
    noisy: bool
    observation: str


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """One episode.

    Attributes:
        condition: Who played where.
        question_id: Which question; with `data_source` it is the same one in every condition.
        data_source: Where it comes from.
        num_hops: Facts that it takes; None where that is unknown.
        question: Its text.
        golden_answers: What is right.
        answer: What was answered; empty if nothing was.
        exact_match: 1 or 0.
        f1: Token F1, in [0, 1].
        sub_exact_match: 1 if a golden answer is part of the answer, else 0.
        reward: Sum of the environment's rewards.
        searches: Queries sent.
        turns: What happened.
        invalid: Malformed actions.
        tokens: Tokens that the agent wrote; None where it does not tell.
        seconds: Wall time of the episode's share of its batch.
        stop_reason: Why the episode ended; "failed" if something outside did.
        error: What failed; empty if nothing did. A failed episode counts as a wrong answer.
    """

    condition: Condition
    question_id: str
    data_source: str
    num_hops: int | None
    question: str
    golden_answers: tuple[str, ...]
    answer: str
    exact_match: float
    f1: float
    sub_exact_match: float
    reward: float
    searches: int
    turns: tuple[TurnRow, ...]
    invalid: int
    tokens: int | None
    seconds: float
    stop_reason: str
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, those of the condition beside the others."""
        values = asdict(self)
        condition: dict[str, Any] = values.pop("condition")
        return condition | values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EpisodeRow:
        """Return what `to_json` was made of.

        Raises:
            KeyError: If a value is missing.
            TypeError: If there is one too many.
        """
        rest = dict(values)
        condition = Condition(**{name: rest.pop(name) for name in Condition.__slots__})
        rest["turns"] = tuple(TurnRow(**turn) for turn in rest["turns"])
        rest["golden_answers"] = tuple(rest["golden_answers"])
        return cls(condition=condition, **rest)
