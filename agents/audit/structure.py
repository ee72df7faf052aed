"""What the tokens of an episode tell by themselves: spans, masks, texts, stop tokens, rewards."""

from __future__ import annotations

from collections.abc import Iterator

from agents.audit.case import Case, differing, runs
from agents.audit.report import Check, Violation, shortened
from agents.policies.opening import encode_opening
from agents.trajectory import Turn


def structure_violations(case: Case) -> Iterator[Violation]:
    """Yield all that is wrong with an episode by itself."""
    broken = list(frame_violations(case))
    yield from broken
    if not broken:
        yield from mask_violations(case)
        yield from observation_violations(case)
        for number, turn in enumerate(case.turns):
            yield from action_violations(case, number, turn)
            yield from reward_violations(case, number, turn)
        yield from length_violations(case)


def frame_violations(case: Case) -> Iterator[Violation]:
    """Yield lists of unequal length, and turns that are out of order: nothing else can be read."""
    trajectory = case.trajectory
    length = len(trajectory.token_ids)
    for check, entries in (
        (Check.MASK, trajectory.action_mask),
        (Check.LOGPROBS, trajectory.logprobs),
    ):
        if len(entries) != length:
            expected = f"{check} should have one entry a token ({length}), has {len(entries)}"
            yield case.violation(check, min(len(entries), length), length, expected)
    before = 0
    for number, turn in enumerate(case.turns):
        if not before <= turn.start <= turn.end <= length:
            expected = f"turns should lie in order within {before}:{length}"
            yield case.violation(Check.MASK, turn.start, turn.end, expected, number)
        before = turn.end


def mask_violations(case: Case) -> Iterator[Violation]:
    """Yield where the mask is not the union of the turns' spans."""
    mask = case.trajectory.action_mask
    sampled = [False] * len(mask)
    for turn in case.turns:
        sampled[turn.start : turn.end] = [True] * (turn.end - turn.start)
    for state, problem in (
        (True, "masked in, but written by the environment"),
        (False, "masked out, but sampled by the agent"),
    ):
        places = [i for i, on in enumerate(mask) if on == state and sampled[i] != state]
        for start, end in runs(places):
            yield case.violation(Check.MASK, start, end, problem)
    if mask and mask[0]:
        problem = "the first token should be observed: nothing comes before it that predicts it"
        yield case.violation(Check.MASK, 0, 1, problem)


def observation_violations(case: Case) -> Iterator[Violation]:
    """Yield where the tokens around the actions are not those of what the environment showed."""
    trajectory, turns = case.trajectory, case.turns
    starts = [0, *(turn.end for turn in turns)]
    ends = [*(turn.start for turn in turns), len(trajectory.token_ids)]
    shown = [trajectory.prompt, *(turn.observation for turn in turns[:-1]), ""]
    for number, (start, end, text) in enumerate(zip(starts, ends, shown, strict=True)):
        if number == 0 and not text:
            continue  # whoever collected the episode did not write its prompt down
        codec = case.facts.codec
        wanted = codec.encode(text) if number else encode_opening(codec, text)
        found = trajectory.token_ids[start:end]
        if span := differing(found, wanted):
            cut = number == 0 and len(found) < len(wanted) and wanted[-len(found) :] == found
            check = Check.LENGTHS if cut else Check.MASK
            expected = f"the environment showed {shortened(text)!r}" if text else "nothing follows"
            problem = f"cut on the left: {expected}" if cut else expected
            yield case.violation(check, start + span[0], start + span[1], problem)


def action_violations(case: Case, number: int, turn: Turn) -> Iterator[Violation]:
    """Yield an action whose ids do not say its text, or lack the token that ended it."""
    text = case.text(turn.start, turn.end)
    if _ends_text(case, turn) and case.text(turn.start, turn.end - 1) == turn.action:
        return
    if text == turn.action:
        if problem := _unended(case, turn):
            yield case.violation(Check.STOPS, *_last_token(turn), problem, number)
    elif turn.action.startswith(text):
        missing = turn.action[len(text) :]
        problem = f"the tokens of {shortened(missing)!r} should follow"
        yield case.violation(Check.STOPS, *_last_token(turn), problem, number)
    else:
        problem = f"the agent's text was {shortened(turn.action)!r}"
        yield case.violation(Check.IDS, turn.start, turn.end, problem, number)


def _ends_text(case: Case, turn: Turn) -> bool:
    ids = case.trajectory.token_ids[turn.start : turn.end]
    return bool(ids) and ids[-1] in case.facts.codec.end_ids()


def _last_token(turn: Turn) -> tuple[int, int]:
    # Of an action without any, the one before it.
    return max(0, turn.end - 1), turn.end


def _unended(case: Case, turn: Turn) -> str:
    """Return what is missing at the end of an action without an end-of-text token, or nothing."""
    facts, length = case.facts, turn.end - turn.start
    if any(stop in turn.action for stop in facts.stops) or not may_go_on(case, turn):
        return ""
    stops = ", ".join((*facts.stops, "end of text"))
    return (
        f"a stop token should follow ({stops}): {length} tokens of at most {facts.max_new_tokens}"
    )


def may_go_on(case: Case, turn: Turn) -> bool:
    """Return whether sampling could have gone on after an action, as far as is known."""
    limit = case.facts.max_new_tokens
    within = limit is not None and turn.end - turn.start < limit
    return within and turn.end < case.facts.codec.max_context


def reward_violations(case: Case, number: int, turn: Turn) -> Iterator[Violation]:
    """Yield a reward that no sampled token earned.

    Where the context was full before the turn, nothing could be sampled that might have.
    """
    mask = case.trajectory.action_mask
    sits = turn.end > turn.start and mask[turn.end - 1]
    if turn.reward and not sits and turn.end < case.facts.codec.max_context:
        problem = f"the reward {turn.reward:g} should sit on a token that the agent sampled"
        yield case.violation(Check.REWARDS, *_last_token(turn), problem, number)


def length_violations(case: Case) -> Iterator[Violation]:
    """Yield sampled tokens beyond the model's context.

    What was observed there was read by nobody: an episode may go on when its context is full.
    """
    limit = case.facts.codec.max_context
    mask = case.trajectory.action_mask
    for start, end in runs([i for i in range(limit, len(mask)) if mask[i]]):
        yield case.violation(Check.LENGTHS, start, end, f"the context ends at {limit} tokens")
