"""Transcripts that policies are trained on: to the letter what the environment would have said."""

import re
from itertools import pairwise
from random import Random

import pytest

from agents.tuning.policy_data import (
    CONTEXT_WEIGHT,
    MAX_TURNS,
    SKILL,
    WEAK,
    Habits,
    TranscriptWriter,
    fresh_world,
    observation_text,
    policy_examples,
    to_example,
)
from agents.tuning.simulator_data import GARBAGE
from zs_env.episode import Episode, Rules, StopReason, render_documents
from zs_env.search.engine import Document
from zs_env.task.actions import STOPS, ActionKind, parse
from zs_env.task.miniwiki import RELATIONS
from zs_env.task.questions import Question

SEEDS = range(6)
PER_WORLD = 30


def transcripts(habits, seeds=SEEDS):
    """Yield (world, pieces) for many transcripts."""
    for seed in seeds:
        rng = Random(seed)
        world = fresh_world(rng)
        writer = TranscriptWriter(world, habits, rng)
        for _ in range(PER_WORLD):
            yield world, writer.write()


def question_of(world, pieces):
    """Return the question that a transcript opens with, as the environment would know it."""
    text = pieces[0].text.removeprefix("Question: ").removesuffix("\n")
    golden = {
        answer
        for plan in world.plans
        if plan.question.text == text
        for answer in plan.question.golden_answers
    }
    return Question("q", text, tuple(sorted(golden)))


def documents_of(observation):
    """Return the documents shown in an observation."""
    block = re.fullmatch(r"<information>(.*)</information>\n", observation, re.DOTALL)
    lines = block[1].split("\n") if block and block[1] else []
    return [Document(line.split(": ", 1)[1]) for line in lines]


def replay(world, pieces):
    """Play a transcript's actions through an episode; return it and its last outcome."""
    episode = Episode(question_of(world, pieces), Rules())
    assert pieces[0].text == episode.prompt
    outcome = None
    for place in range(1, len(pieces), 2):
        action = pieces[place]
        following = pieces[place + 1].text if place + 1 < len(pieces) else ""
        request = episode.begin_turn(action.text)
        outcome = episode.end_turn(documents_of(following) if request else ())
        assert outcome.observation == following
    return episode, outcome


def asked_facts(world):
    """Return the fact that each query of a world asks for."""
    return {
        query.format(s=fact.subject): fact
        for fact in world.facts
        for query in RELATIONS[fact.relation].queries
    }


def searches(world, pieces):
    """Yield (asked fact, observation) for each search of a transcript that names something."""
    facts = asked_facts(world)
    for action, shown in pairwise(pieces):
        if action.is_action and parse(action.text).kind is ActionKind.SEARCH:
            query = parse(action.text).content
            if query not in GARBAGE:
                yield facts[query], shown.text


@pytest.mark.parametrize("habits", [SKILL, WEAK])
def test_transcript_replays_in_the_environment_letter_by_letter(habits):
    """Prompt, documents and remarks about malformed actions are what an episode shows."""
    for world, pieces in transcripts(habits):
        episode, _ = replay(world, pieces)
        agent = [piece.text for piece in pieces if piece.is_action]
        assert [m.text for m in episode.transcript if m.role == "agent"] == agent


def test_perfect_play_earns_everything():
    scores = []
    for world, pieces in transcripts(SKILL):
        episode, outcome = replay(world, pieces)
        if episode.stop_reason is StopReason.ANSWERED:
            scores.append(outcome.reward)
    assert set(scores) == {1.0}
    assert len(scores) > 0.8 * len(SEEDS) * PER_WORLD


@pytest.mark.parametrize("habits", [SKILL, WEAK])
def test_pieces_alternate_and_fit_into_an_episode(habits):
    for _, pieces in transcripts(habits):
        assert [piece.is_action for piece in pieces] == [i % 2 == 1 for i in range(len(pieces))]
        assert sum(piece.is_action for piece in pieces) <= MAX_TURNS == Rules().max_turns


def test_documents_are_shown_as_the_environment_shows_them():
    texts = ["one.", "two."]
    assert observation_text(texts) == render_documents([Document(text) for text in texts])
    assert observation_text([]) == render_documents([])


@pytest.mark.parametrize("habits", [SKILL, WEAK])
def test_sampling_would_stop_exactly_where_an_action_ends(habits):
    for _, pieces in transcripts(habits):
        for piece in pieces:
            if piece.is_action:
                ends = [piece.text.find(stop) + len(stop) for stop in STOPS if stop in piece.text]
                assert min(ends) == len(piece.text)
                assert parse(piece.text).text == piece.text


def test_skill_is_never_malformed_and_every_habit_shows():
    kinds = {"skill": [], "weak": []}
    for name, habits in (("skill", SKILL), ("weak", WEAK)):
        for _, pieces in transcripts(habits):
            kinds[name].extend(parse(piece.text).kind for piece in pieces if piece.is_action)
    assert set(kinds["skill"]) == {ActionKind.SEARCH, ActionKind.ANSWER}
    assert set(kinds["weak"]) == set(ActionKind)


def test_malformed_share_is_the_habits():
    stumbles = [
        any(piece.is_action and parse(piece.text).kind is ActionKind.MALFORMED for piece in pieces)
        for _, pieces in transcripts(Habits(malformed=0.5))
    ]
    assert 0.35 < sum(stumbles) / len(stumbles) < 0.65


def test_noisy_documents_never_name_asked_subject_or_object():
    found = [
        s
        for w, p in transcripts(Habits(noisy=1.0, named_noise=0.0), range(2))
        for s in searches(w, p)
    ]
    assert len(found) > 100
    for fact, shown in found:
        assert fact.subject not in shown
        assert fact.object not in shown


def test_useful_documents_state_the_asked_fact():
    found = [s for w, p in transcripts(Habits(noisy=0.0)) for s in searches(w, p)]
    hits = [fact.subject in shown and fact.object in shown for fact, shown in found]
    assert sum(hits) / len(hits) > 0.95


def test_share_of_noisy_searches_is_the_habits():
    found = [s for w, p in transcripts(Habits(noisy=0.4)) for s in searches(w, p)]
    noisy = [fact.subject not in shown for fact, shown in found]
    assert 0.3 < sum(noisy) / len(noisy) < 0.5


def test_guessing_at_the_last_wording_guesses_there_and_nowhere_else():
    for world, pieces in transcripts(Habits(guess_last_wording=1.0)):
        question = question_of(world, pieces)
        plan = next(p for p in world.plans if p.question.text == question.text)
        relation = RELATIONS[plan.facts[-1].relation]
        wordings = [
            index
            for index, text in enumerate(relation.questions)
            if question.text.startswith(text.split("{s}")[0])
            and question.text.endswith(text.split("{s}")[1])
        ]
        guessed = parse(pieces[1].text).kind is ActionKind.ANSWER
        assert guessed == (max(wordings) == 2)


def test_perfect_play_answers_only_what_it_has_just_read():
    for _, pieces in transcripts(SKILL):
        action = parse(pieces[-1].text)
        if action.kind is ActionKind.ANSWER:
            assert action.content in pieces[-2].text


def test_wrong_name_is_another_name_of_the_documents_where_they_hold_one():
    answers = []
    for world, pieces in transcripts(Habits(one_hop=1.0, noisy=0.0, wrong_name=1.0)):
        answer = parse(pieces[-1].text).content
        golden = question_of(world, pieces).golden_answers
        shown = {f.object for f in world.facts if any(t in pieces[-2].text for t in f.passages)}
        if shown - set(golden):
            assert answer in shown - set(golden)
        answers.append(answer in pieces[-2].text)
    assert sum(answers) / len(answers) > 0.9


def test_stopping_early_answers_with_the_bridge():
    for world, pieces in transcripts(Habits(one_hop=0.0, noisy=0.0, stop_early=1.0)):
        question = question_of(world, pieces)
        plan = next(p for p in world.plans if p.question.text == question.text)
        assert parse(pieces[-1].text).content == plan.facts[0].object


def test_example_weighs_what_the_agent_wrote_and_encodes_piece_by_piece(tokenizer):
    """A rollout encodes each observation by itself, so training must too."""
    for _, pieces in transcripts(SKILL, range(1)):
        example = to_example(tokenizer, pieces)
        place = 0
        for piece in pieces:
            ids = tokenizer.encode(piece.text, add_special_tokens=False)
            end = place + len(ids)
            assert example.token_ids[place:end] == ids
            expected = 1.0 if piece.is_action else CONTEXT_WEIGHT
            assert set(example.weights[place:end]) == {expected}
            place = end
        assert place == len(example.token_ids) == len(example.weights)
        assert tokenizer.decode(example.token_ids) == "".join(piece.text for piece in pieces)


def test_protocol_tag_is_one_token_that_decodes_to_itself(tokenizer):
    for stop in STOPS:
        assert tokenizer.decode(tokenizer.encode(stop)) == stop
        assert len(tokenizer.encode(stop)) == 1


def test_same_seed_gives_the_same_examples(tokenizer):
    first, again, other = (list(policy_examples(tokenizer, WEAK, 20, seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 20
