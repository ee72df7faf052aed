r"""Episodes of a training run as JSON values: what a line of transcripts.jsonl holds.

    update            after which it was written, from 1
    split             train: one of the update's episodes; validation: one of a few questions that
                      every evaluation asks again, greedily, by the weights after the update
    question_id, question, golden_answers, answer, reward, exact_match, stop_reason
    turns             [{action, kind, noisy, observation}]
    tokens            {pieces, mask, logprobs, advantages}

The tokens are the policy's whole context. `pieces` has a text for each, which together give the
text of all; one that ends within a character is empty, and the next has the character. `mask` is a
string with a 1 for each token that the policy sampled and a 0 for the others. `logprobs` has the
sampler's log-probability of each sampled token, `advantages` what the algorithm made of it, or
null where nothing was learned from the episode. Runs of version 0.1 and before had neither `split`
nor `tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from agents.trajectory import Trajectory
from zs_env.task.prompts import PLACEHOLDER

TRAIN: Final = "train"
VALIDATION: Final = "validation"

Decode = Callable[[list[int]], str]

_DIGITS = 4  # of a number of a token: the colours of a page need no more
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def episode_record(
    trajectory: Trajectory, update: int, split: str, template: str, decode: Decode
) -> dict[str, Any]:
    """Return an episode as JSON values.

    Args:
        trajectory: What happened.
        update: After which it is written, from 1.
        split: `TRAIN` or `VALIDATION`.
        template: The environment's prompt, with a place for the question.
        decode: From token ids to text.
    """
    # The tokens may hold more than the prompt: a chat's frame, or a text's first token.
    prompt = trajectory.prompt or decode(trajectory.token_ids[: trajectory.turns[0].start])
    outcome = trajectory.outcome
    return {
        "update": update,
        "split": split,
        "question_id": trajectory.question_id,
        "question": unfill(template, prompt),
        "turns": [
            {
                "action": turn.action,
                "kind": turn.kind,
                "noisy": turn.noisy,
                "observation": turn.observation,
            }
            for turn in trajectory.turns
        ],
        "answer": outcome["answer"],
        "golden_answers": list(outcome["golden_answers"]),
        "reward": trajectory.reward,
        "exact_match": outcome["exact_match"],
        "stop_reason": str(outcome["stop_reason"]),
        "tokens": _token_record(trajectory, decode),
    }


def _token_record(trajectory: Trajectory, decode: Decode) -> dict[str, Any]:
    sampled = [place for place, acts in enumerate(trajectory.action_mask) if acts]
    advantages = trajectory.advantages
    return {
        "pieces": pieces(trajectory.token_ids, decode),
        "mask": "".join("1" if acts else "0" for acts in trajectory.action_mask),
        "logprobs": _short([trajectory.logprobs[place] for place in sampled]),
        "advantages": _short([advantages[place] for place in sampled]) if advantages else None,
    }


def _short(values: Sequence[float]) -> list[float]:
    """Return rounded numbers, of which none is -0.0."""
    return [round(value, _DIGITS) + 0.0 for value in values]


def pieces(token_ids: Sequence[int], decode: Decode) -> list[str]:
    """Return what each token adds to the text of all.

    A token is decoded beside the ones before it, since decoders drop or add a space where a text
    begins, and one token may end in the midst of a character.

    Example:
        >>> pieces(list("Zoë".encode()), lambda ids: bytes(ids).decode(errors="replace"))
        ['Z', 'o', '', 'ë']
    """
    found: list[str] = []
    context = begin = 0  # of the last tokens with a text, and of those that wait for one
    for end in range(1, len(token_ids) + 1):
        before = decode(list(token_ids[context:begin]))
        after = decode(list(token_ids[context:end]))
        if after.endswith(_UNFINISHED) and end < len(token_ids):
            found.append("")
            continue
        found.append(after[len(before) :])
        context, begin = begin, end
    return found


def unfill(template: str, prompt: str) -> str:
    r"""Return the question inside a prompt, or the whole prompt if it is not of `template`.

    Example:
        >>> unfill("Question: {question}\n", "Question: Who was X?\n")
        'Who was X?'
    """
    before, _, after = template.partition(PLACEHOLDER)
    if not (prompt.startswith(before) and prompt.endswith(after)):
        return prompt
    return prompt[len(before) : len(prompt) - len(after)]
