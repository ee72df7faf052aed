"""`zerosearch audit`: is what would be trained what was sampled?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from rich.console import Console

from agents.cli.checks import check_at_least, check_file, usage_errors
from agents.cli.files import write_json
from agents.cli.options import (
    CacheFile,
    CacheModeName,
    EngineName,
    Noise,
    PolicyName,
    Questions,
    ResultsFile,
    Split,
    Threads,
    load_cached_engine,
    load_policy,
    noise_warnings,
    question_source,
)
from agents.cli.provenance import provenance, weights_checksum
from agents.cli.threads import use_threads

if TYPE_CHECKING:
    from agents.audit import AuditReport
    from agents.policies.causal_lm import CausalLMPolicy
    from zs_env.search.engine import SearchEngine

MAX_SHOWN = 5


@dataclass(frozen=True)
class Audit:
    """Play one batch as training does, and prove that its tokens are what they should be.

    The exit code is 1 if they are not.

    Attributes:
        num_questions: Questions of the batch.
        group_size: Episodes a question.
        seed: Key of questions, noise and sampling.
        max_turns: Actions an episode lasts at most.
        top_k: Documents a search brings.
        prompt: What an episode opens with: miniwiki, zerosearch, or a template holding {question}.
        max_new_tokens: Tokens of an action at most.
        temperature: Of sampling, above 0.
        tolerance: Distance of sampler's and trainer's log-probability that is no violation.
    """

    policy: PolicyName = "base"
    engine: EngineName = "simulator"
    noise: Noise = 0.0
    split: Split = "train"
    questions: Questions = "miniwiki"
    num_questions: int = 16
    group_size: int = 8
    seed: int = 0
    max_turns: int = 6
    top_k: int = 3
    prompt: str = "miniwiki"
    max_new_tokens: int = 48
    temperature: float = 1.0
    tolerance: float = 1e-3
    json: ResultsFile = None
    cache: CacheFile = ""
    cache_mode: CacheModeName = "record"
    threads: Threads = 0

    def run(self) -> None:
        """Play, audit, print a table, and write what was asked for.

        Raises:
            SystemExit: With code 1, if there is a violation.
        """
        from agents.cli.display import say

        console = Console()
        with usage_errors():
            threads = use_threads(self.threads)
            setup = prepare(self)
        for warning in noise_warnings(self.engine, setup.engine, self.noise):
            say(console, warning)
        report = measure(self, setup)
        show(self, report, console)
        if self.json:
            write_json(self.json, describe(self, report, setup, threads))
            console.print(f"results: {self.json}", soft_wrap=True, highlight=False, markup=False)
        if not report.passed:
            raise SystemExit(1)


@dataclass(frozen=True)
class Setup:
    """What a checked configuration stands for, loaded."""

    policy: CausalLMPolicy
    engine: SearchEngine
    env: gym.vector.VectorEnv[Any, Any, Any]
    weights_checksum: str


def prepare(config: Audit) -> Setup:
    """Check every option and load what they name.

    Raises:
        ValueError: If an option is out of its range or names nothing.
        FileNotFoundError: If there is no model where one should be.
    """
    import zs_env  # noqa: F401 - registers the ids
    from agents.policies.causal_lm import find_policy

    check_at_least(
        1,
        num_questions=config.num_questions,
        group_size=config.group_size,
        max_new_tokens=config.max_new_tokens,
    )
    check_at_least(0, seed=config.seed)
    for name in ("temperature", "tolerance"):
        if not getattr(config, name) > 0:
            raise ValueError(f"`{name}` must be greater than 0, got {getattr(config, name)!r}")
    check_file(config.json, "json")
    engine = load_cached_engine(config.engine, config.cache, config.cache_mode)
    env = gym.make_vec(
        "ZeroSearch-v0",
        num_envs=config.num_questions * config.group_size,
        group_size=config.group_size,
        engine=engine,
        noise=config.noise,
        split=config.split,
        questions=question_source(config.questions, config.split),
        max_turns=config.max_turns,
        top_k=config.top_k,
        prompt=config.prompt,
        autoreset_mode=AutoresetMode.DISABLED,
    )
    checksum = weights_checksum(find_policy(config.policy))
    return Setup(load_policy(config.policy), engine, env, checksum)


def measure(config: Audit, setup: Setup) -> AuditReport:
    """Play one batch before a witness, and audit it."""
    from agents.audit import Witness, audit
    from agents.rollout import collect

    witness = Witness()
    rollout = collect(
        witness.sampler(setup.policy),
        witness.environment(setup.env),
        seed=config.seed,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
    )
    return audit(
        setup.policy,
        rollout.trajectories,
        metadata=setup.env.metadata,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        tolerance=config.tolerance,
        witness=witness,
    )


def show(config: Audit, report: AuditReport, console: Console) -> None:
    """Print a row a check, how far the log-probabilities are apart, and the first violations."""
    from agents.audit.report import violations_text
    from agents.cli.display import new_table, say

    title = f"{config.policy} · {config.engine} · noise {config.noise:g} · {config.questions}"
    table = new_table(f"{title} · {report.num_episodes} episodes")
    table.add_column("check")
    table.add_column("claim")
    for name in ("checked", "violations"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in report.results:
        checked = f"{result.num_checked:,} {result.unit}"
        table.add_row(str(result.check), result.check.claim, checked, str(result.num_violations))
    console.print(table)
    say(
        console,
        f"log-probabilities, sampler against trainer: max {report.max_gap:.1e}, "
        f"mean {report.mean_gap:.1e}, tolerance {report.tolerance:.1e}",
    )
    if report.passed:
        say(console, "passed: what would be trained is what was sampled")
    else:
        say(console, f"FAILED: {violations_text(report.violations, MAX_SHOWN)}")


def describe(config: Audit, report: AuditReport, setup: Setup, threads: int) -> dict[str, Any]:
    """Return the results, and all that decides them, as JSON values."""
    options = asdict(config) | {"threads": threads}
    return {
        **report.summary(),
        "config": {k: v for k, v in options.items() if k != "json"},
        "weights_sha256": setup.weights_checksum,
        **provenance(),
    }
