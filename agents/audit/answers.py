"""Whether the graded answer is the agent's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Final

from agents.audit.case import Case, Codec
from agents.audit.report import Check, Violation, shortened
from zs_env.task.actions import ActionKind

_GRADES: Final = ("f1", "exact_match")


def answer_violations(case: Case) -> Iterator[Violation]:
    """Yield an answer that the agent did not write in its last turn, or a grade without one.

    Nothing is said of an episode whose environment does not tell what it graded.
    """
    answer = case.trajectory.outcome.get("answer")
    if not isinstance(answer, str) or not case.turns:
        return
    last = case.turns[-1]
    if not answer:
        graded = [f"{n} {v:g}" for n in _GRADES if (v := case.trajectory.outcome.get(n))]
        if graded:
            problem = f"graded {', '.join(graded)} without an answer"
            yield case.violation(Check.ANSWERS, last.start, last.end, problem)
    elif not _wrote(case, answer):
        start, end = _source(case, answer)
        problem = f"graded as the answer: {shortened(answer)!r}"
        where = f"the agent's last turn says {shortened(case.own_text(last))!r}"
        yield case.violation(Check.ANSWERS, start, end, f"{problem}; {where}")


def _wrote(case: Case, answer: str) -> bool:
    text = case.own_text(case.turns[-1])
    if case.facts.parse is None:
        return answer in text
    action = case.facts.parse(text)
    return action.kind is ActionKind.ANSWER and action.content == answer


def _source(case: Case, answer: str) -> tuple[int, int]:
    """Return the span that an answer came from: of what was read, the latest; else the last turn.

    An agent's earlier turns are looked at as well.
    """
    token_ids = case.trajectory.token_ids
    borders = [0, *chain.from_iterable((turn.start, turn.end) for turn in case.turns)]
    for start, end in reversed(list(pairwise(borders))):
        found = locate(case.facts.codec, token_ids[start:end], answer)
        if found:
            return start + found[0], start + found[1]
    return case.turns[-1].start, case.turns[-1].end


def locate(codec: Codec, token_ids: Sequence[int], text: str) -> tuple[int, int] | None:
    """Return the shortest span of ids that says `text` where it first occurs; None if none does."""
    if text not in codec.decode(token_ids):
        return None
    end = next(e for e in range(1, len(token_ids) + 1) if text in codec.decode(token_ids[:e]))
    start = next(s for s in reversed(range(end)) if text in codec.decode(token_ids[s:end]))
    return start, end
