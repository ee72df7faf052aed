"""Training transcripts of the shipped search agents, in worlds that are thrown away.

*Skill* transcripts are perfect play: search each fact in turn, notice when the documents do not
name the asked entity and search again, answer with the name found. Every few transcripts get a
fresh world with fresh names, so that reading is the only thing left to learn; documents are BM25
results, as the simulator's are. *Habits* are the same transcripts spoilt on purpose. They make
the base model that reinforcement learning starts from: it can do everything and does it badly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from agents.tuning.sft import Example
from agents.tuning.simulator_data import GARBAGE, states, wording
from zs_env.episode import render_documents
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.engine import Document, NoiseKind, SearchRequest
from zs_env.search.world import WorldSearchEngine
from zs_env.task.actions import parse
from zs_env.task.miniwiki import NAMERS, RELATIONS, Fact, Plan, SubWorld, WorldSize, odd_name, pick

START, FOUND, MISSING, DONE = (
    " I have to search.",
    " Found. Search on.",
    " Not found. Search again.",
    " Found the answer.",
)
THOUGHTS = (START, FOUND, MISSING, DONE)
CONTEXT_WEIGHT = 0.1
TRANSCRIPTS_PER_WORLD = 12
_SIZE = WorldSize(20, 10, 4, 6, 12, 12)


@dataclass(frozen=True)
class Habits:
    """How transcripts are made, as shares in [0, 1].

    Attributes:
        one_hop: One-hop questions among all.
        noisy: Searches that get noisy documents ...
        named_noise: ... of which this share is one of `NOISE_KINDS`, the rest about somebody else.
        shuffled: Document lists in random order.
        stop_early: Two-hop questions answered with the bridge entity.
        guess: Questions answered without a search ...
        guess_last_wording: ... and those asked in the last of a relation's three wordings. A
            habit that is rare everywhere would change sampled answers but no greedy one.
        wrong_name: Answers that pick another name of the documents, or any other name of the world
            where they hold none.
        bad_query: Searches that name nothing.
        malformed: Turns without a complete action.
        guess_on_noise: Noisy replies after which the agent guesses instead of searching again.
    """

    one_hop: float = 0.4
    noisy: float = 0.4
    named_noise: float = 0.2
    shuffled: float = 0.3
    stop_early: float = 0.0
    guess: float = 0.0
    guess_last_wording: float = 0.0
    wrong_name: float = 0.0
    bad_query: float = 0.0
    malformed: float = 0.0
    guess_on_noise: float = 0.0


SKILL = Habits()
WEAK = Habits(
    stop_early=0.72,
    guess=0.1,
    guess_last_wording=0.8,
    wrong_name=0.14,
    bad_query=0.08,
    malformed=0.07,
    guess_on_noise=0.72,
)
MAX_TURNS = 6
NOISE_KINDS = (NoiseKind.PARTIAL, NoiseKind.OUTDATED, NoiseKind.EMPTY)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a transcript and whether the agent wrote it."""

    text: str
    is_action: bool


def search_text(thought: str, query: str) -> str:
    """Return the text of a search turn."""
    return f"<think>{thought}</think><search> {query}</search>"


def answer_text(thought: str, answer: str) -> str:
    """Return the text of an answering turn."""
    return f"<think>{thought}</think><answer> {answer}</answer>"


def observation_text(texts: list[str]) -> str:
    """Return documents as the environment shows them."""
    return render_documents([Document(text) for text in texts])


def fresh_world(rng: Random) -> SubWorld:
    """Return a world of new names; one in five has odd ones, and some names share a word."""
    odd = rng.random() < 0.2
    used: dict[str, list[str]] = {}

    def namer(rng: Random, kind: str) -> str:
        name = odd_name(rng) if odd else NAMERS[kind](rng)
        earlier = used.setdefault(kind, [])
        if earlier and rng.random() < 0.35:
            name = _mixed(rng, name, earlier[int(rng.random() * len(earlier))])
        earlier.append(name)
        return name

    return SubWorld.generate(rng, _SIZE, "fresh", namer=namer)


def _mixed(rng: Random, name: str, other: str) -> str:
    """Return `name` with one of its words replaced by the word of `other` at that place."""
    words, others = name.split(), other.split()
    place = int(rng.random() * min(len(words), len(others)))
    words[place] = others[place]
    return " ".join(words)


class TranscriptWriter:
    """Write transcripts in one world."""

    def __init__(self, world: SubWorld, habits: Habits, rng: Random) -> None:
        """Index the passages of `world` for searching."""
        self._world, self._habits, self._rng = world, habits, rng
        self._engine = BM25SearchEngine([text for fact in world.facts for text in fact.passages])
        self._made_up = WorldSearchEngine(world)
        self._one_hop = [plan for plan in world.plans if len(plan.facts) == 1]
        self._two_hop = [plan for plan in world.plans if len(plan.facts) == 2]

    def write(self) -> list[Piece]:
        """Return the pieces of one transcript, the question first."""
        plan = pick(self._rng, self._one_hop if self._chance("one_hop") else self._two_hop)
        pieces = [Piece(f"Question: {plan.question.text}\n", False)]
        if self._guesses(plan):
            return [*pieces, Piece(answer_text(START, self._any_name(plan.facts[-1])), True)]
        if self._chance("malformed"):
            pieces.extend(self._stumble())
        return pieces + self._play(plan, START, (len(pieces) - 1) // 2)

    def _play(self, plan: Plan, thought: str, turn: int) -> list[Piece]:
        pieces: list[Piece] = []
        hop = 0
        while turn < MAX_TURNS - 1:
            turn += 1
            fact = plan.facts[hop]
            query, texts = self._searched(fact)
            pieces.append(Piece(search_text(thought, query), True))
            pieces.append(Piece(observation_text(texts), False))
            if any(states(text, fact) for text in texts):
                if hop + 1 == len(plan.facts) or self._chance("stop_early"):
                    return [*pieces, Piece(answer_text(DONE, self._read(fact, texts)), True)]
                hop, thought = hop + 1, FOUND
            elif self._chance("guess_on_noise"):
                return [*pieces, Piece(answer_text(MISSING, self._read(None, texts)), True)]
            else:
                thought = MISSING
        return pieces

    def _searched(self, fact: Fact) -> tuple[str, list[str]]:
        """Return a query for `fact` and the documents that it finds."""
        if self._chance("bad_query"):
            query = pick(self._rng, GARBAGE)
            return query, self._retrieve(query)
        query = wording(self._rng, fact)
        if not self._chance("noisy"):
            return query, self._retrieve(query)
        if self._chance("named_noise"):
            return query, self._named_noise(query)
        others = [f for f in self._world.facts if f.relation == fact.relation]
        alike = [f for f in others if set(f.subject.split()) & set(fact.subject.split()) - {"The"}]
        other = pick(self._rng, alike if len(alike) > 1 and self._rng.random() < 0.5 else others)
        found = self._retrieve(wording(self._rng, other), 8)
        avoid = (fact.subject, fact.object)
        return query, [t for t in found if not any(name in t for name in avoid)][:3]

    def _named_noise(self, query: str) -> list[str]:
        seed = int(self._rng.random() * 2**31)
        kind = pick(self._rng, NOISE_KINDS)
        return self._made_up.passages(SearchRequest(query, noisy=True, noise_kind=kind, seed=seed))

    def _retrieve(self, query: str, top_k: int = 3) -> list[str]:
        found = self._engine.search([SearchRequest(query, top_k=top_k)])[0]
        texts = [document.text for document in found]
        if self._chance("shuffled"):
            texts.sort(key=lambda _: self._rng.random())
        return texts

    def _read(self, fact: Fact | None, texts: list[str]) -> str:
        """Return the answer read from `texts`: the fact's object, or some name in them."""
        if fact is not None and not self._chance("wrong_name"):
            return fact.object
        objects = [f.object for f in self._world.facts if any(t in texts for t in f.passages)]
        wrong = [name for name in objects if fact is None or name != fact.object]
        if not wrong:
            everything = dict.fromkeys(f.object for f in self._world.facts)
            wrong = [name for name in everything if fact is None or name != fact.object]
        return pick(self._rng, wrong)

    def _guesses(self, plan: Plan) -> bool:
        wording_index = _question_wording(plan)
        share = "guess_last_wording" if wording_index == 2 else "guess"
        return self._chance(share)

    def _any_name(self, fact: Fact) -> str:
        same = [f.object for f in self._world.facts if f.relation == fact.relation]
        return pick(self._rng, same)

    def _stumble(self) -> list[Piece]:
        """Return a malformed turn and the environment's remark about it."""
        text = f"<think>{START}</think><search></search>"
        return [Piece(text, True), Piece(f"{parse(text).error}\n", False)]

    def _chance(self, habit: str) -> bool:
        return bool(self._rng.random() < getattr(self._habits, habit))


def _question_wording(plan: Plan) -> int:
    """Return which of the last relation's three wordings the question uses."""
    questions = RELATIONS[plan.facts[-1].relation].questions
    starts = [question.split("{s}")[0] for question in questions]
    matches = [i for i, start in enumerate(starts) if plan.question.text.startswith(start)]
    return matches[-1] if matches else 0


def policy_examples(
    tokenizer: PreTrainedTokenizerBase, habits: Habits, num: int, seed: int
) -> Iterator[Example]:
    """Yield `num` transcripts as training examples.

    Args:
        tokenizer: Of the model that learns them.
        habits: How the agent in them behaves.
        num: How many.
        seed: Key of all that is random.
    """
    rng = Random(seed)
    done = 0
    while done < num:
        writer = TranscriptWriter(fresh_world(rng), habits, rng)
        for _ in range(min(TRANSCRIPTS_PER_WORLD, num - done)):
            yield to_example(tokenizer, writer.write())
            done += 1


def to_example(tokenizer: PreTrainedTokenizerBase, pieces: list[Piece]) -> Example:
    """Tokenise piece by piece, exactly as a rollout will see the pieces arrive."""
    ids: list[int] = []
    weights: list[float] = []
    for piece in pieces:
        tokens = tokenizer.encode(piece.text)
        ids.extend(tokens)
        weights.extend([1.0 if piece.is_action else CONTEXT_WEIGHT] * len(tokens))
    return Example(ids, weights)
