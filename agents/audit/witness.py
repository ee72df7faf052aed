"""A witness: what passed between a sampler and an environment, written down beside the rollout.

Without one, an audit believes the episodes about what was sampled and shown, as far as their
log-probabilities and their ids bear that out. With one, they are compared with the originals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv, VectorWrapper

from agents.audit.case import Case, differing
from agents.audit.report import Check, Violation
from agents.policies.opening import encode_opening
from zs_env.lm.generator import Completion, SamplingParams, TokenGenerator, TokenSession

if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _VectorWrapper = VectorWrapper  # no generic class before Gymnasium 1.4


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a sampler read and wrote in one turn."""

    read: list[int]
    completion: Completion


@dataclass(frozen=True, slots=True)
class Step:
    """What an environment was told, and what it said upon that."""

    action: str
    reward: float
    observation: str


class Witness:
    """Writes down one batch of episodes, one a slot.

        witness = Witness()
        rollout = collect(witness.sampler(policy), witness.environment(env), seed=0)
        audit(policy, rollout.trajectories, metadata=env.metadata, witness=witness)

    Attributes:
        exchanges: What each row of the session read and wrote, turn by turn.
        prompts: What each slot opened with.
        steps: What happened in each slot, until its episode was over.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.exchanges: list[list[Exchange]] = []
        self.prompts: list[str] = []
        self.steps: list[list[Step]] = []

    def sampler(self, policy: TokenGenerator) -> TokenGenerator:
        """Return `policy`, observed."""
        return _WitnessedSampler(policy, self)

    def environment(self, env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
        """Return `env`, observed."""
        return _WitnessedEnvironment(env, self)


class _WitnessedSampler:
    def __init__(self, policy: TokenGenerator, witness: Witness) -> None:
        self._policy, self._witness = policy, witness

    def encode(self, text: str) -> list[int]:
        return self._policy.encode(text)

    def encode_prompt(self, text: str) -> list[int]:
        return encode_opening(self._policy, text)

    def session(self, num_rows: int) -> TokenSession:
        self._witness.exchanges = [[] for _ in range(num_rows)]
        return _WitnessedSession(self._policy.session(num_rows), self._witness)


class _WitnessedSession:
    def __init__(self, session: TokenSession, witness: Witness) -> None:
        self._session, self._witness = session, witness

    def generate(
        self,
        rows: Sequence[int],
        new_tokens: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
    ) -> list[Completion]:
        completions = self._session.generate(rows, new_tokens, seeds, params)
        for row, read, written in zip(rows, new_tokens, completions, strict=True):
            # Copies: whoever gets the originals may change them.
            kept = Completion(
                list(written.token_ids), list(written.logprobs), written.text, written.finish_reason
            )
            self._witness.exchanges[row].append(Exchange(list(read), kept))
        return completions

    def clear(self, rows: Sequence[int]) -> None:
        self._session.clear(rows)
        for row in rows:
            self._witness.exchanges[row] = []


class _WitnessedEnvironment(_VectorWrapper):
    def __init__(self, env: VectorEnv[Any, Any, Any], witness: Witness) -> None:
        super().__init__(env)
        self._witness = witness

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        observations, infos = self.env.reset(seed=seed, options=options)
        self._witness.prompts = list(observations)
        self._witness.steps = [[] for _ in observations]
        self._over = [False] * len(observations)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        for slot, steps in enumerate(self._witness.steps):
            if not self._over[slot]:
                step = Step(str(actions[slot]), float(rewards[slot]), observations[slot])
                steps.append(step)
            self._over[slot] = bool(terminated[slot] or truncated[slot])
        return observations, rewards, terminated, truncated, infos


def witness_violations(case: Case, witness: Witness) -> Iterator[Violation]:
    """Yield where an episode is not what the witness saw in the slot of its number."""
    yield from _token_violations(case, witness.exchanges[case.number])
    yield from _step_violations(case, witness.steps[case.number])
    if case.trajectory.prompt != witness.prompts[case.number]:
        end = case.turns[0].start if case.turns else len(case.trajectory.token_ids)
        problem = f"the environment opened with {witness.prompts[case.number]!r}"
        yield case.violation(Check.MASK, 0, end, problem)


def _token_violations(case: Case, exchanges: Sequence[Exchange]) -> Iterator[Violation]:
    token_ids: list[int] = []
    mask: list[bool] = []
    logprobs: list[float] = []
    for exchange in exchanges:
        read, written = exchange.read, exchange.completion
        token_ids += [*read, *written.token_ids]
        mask += [False] * len(read) + [True] * len(written.token_ids)
        logprobs += [0.0] * len(read) + written.logprobs
    trajectory, decode = case.trajectory, case.facts.codec.decode
    if span := differing(trajectory.token_ids, token_ids):
        stop = len(token_ids) - (len(trajectory.token_ids) - span[1])
        problem = f"the sampler read or wrote {decode(token_ids[span[0] : stop])!r} here"
        yield case.violation(Check.IDS, *span, problem)
    elif span := differing(trajectory.action_mask, mask):
        state = "sampled" if mask[span[0]] else "read"
        yield case.violation(Check.MASK, *span, f"the sampler {state} this")
    elif span := differing(trajectory.logprobs, logprobs):
        problem = f"the sampler gave it the log-probability {logprobs[span[0]]:.6g}"
        yield case.violation(Check.LOGPROBS, *span, problem)


def _step_violations(case: Case, steps: Sequence[Step]) -> Iterator[Violation]:
    turns = case.turns
    if len(steps) != len(turns):
        end = len(case.trajectory.token_ids)
        problem = f"the environment took {len(steps)} turns, the episode has {len(turns)}"
        yield case.violation(Check.MASK, end, end, problem)
    for number, (turn, step) in enumerate(zip(turns, steps, strict=False)):
        seen: Mapping[Check, tuple[Any, Any]] = {
            Check.IDS: (turn.action, step.action),
            Check.REWARDS: (turn.reward, step.reward),
            Check.MASK: (turn.observation, step.observation),
        }
        for check, (found, wanted) in seen.items():
            if found != wanted:
                problem = f"between agent and environment passed {wanted!r}, not {found!r}"
                yield case.violation(check, turn.start, turn.end, problem, number)
