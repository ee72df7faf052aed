"""What an agent is told of the game before it plays."""

from __future__ import annotations

from dataclasses import dataclass

from zs_env.task.prompts import PLACEHOLDER, PROMPTS, make_prompt
from zs_env.task.questions import Question


@dataclass(frozen=True, slots=True)
class PlayRules:
    """The rules of the episodes that an agent will play.

    Attributes:
        prompt: Template of the first observation, or its name in `PROMPTS`.
        max_turns: Actions an episode lasts at most.
        max_new_tokens: Tokens that a language model may write at a time.
        temperature: Of its sampling; 0 takes the best.
        seed: Key of that sampling.
        questions: What will be asked, golden answers included: for the oracle, and for no other.
    """

    prompt: str = PROMPTS["miniwiki"]
    max_turns: int = 6
    max_new_tokens: int = 48
    temperature: float = 0.0
    seed: int = 0
    questions: tuple[Question, ...] = ()

    def question_in(self, observation: str) -> str:
        r"""Return the question that an episode opens with, or all of a text of another form.

        Example:
            >>> PlayRules(prompt="Question: {question}\n").question_in("Question: Who?\n")
            'Who?'
        """
        start, _, end = make_prompt(self.prompt).partition(PLACEHOLDER)
        end = end.partition(PLACEHOLDER)[0]
        if not observation.startswith(start) or end not in observation[len(start) :]:
            return observation
        rest = observation[len(start) :]
        return rest[: rest.rindex(end)] if end else rest

    def is_last(self, turn: int) -> bool:
        """Return whether what is done in turn `turn`, from 0, ends the episode anyway."""
        return turn + 1 >= self.max_turns
