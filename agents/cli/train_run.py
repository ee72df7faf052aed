"""What `zerosearch train` does with a trainer: updates, and a folder that tells of them."""

from __future__ import annotations

import shlex
import signal
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from agents.cli.checks import CommandError
from agents.cli.data_digests import data_digests, joined
from agents.cli.files import write_json
from agents.cli.provenance import provenance
from agents.cli.train import Train
from agents.cli.train_folder import CONFIG_FILE, FAILED_FOLDER, start_folder
from agents.cli.train_setup import (
    Setup,
    evaluated_together,
    log_formats,
    out_of_memory,
    shown,
    torch_out_of_memory,
)

if TYPE_CHECKING:
    from agents.evaluate import Evaluation
    from agents.learner import NonFiniteLossError
    from agents.metrics import Logger
    from agents.policies.causal_lm import CausalLMPolicy
    from agents.policies.policy import Policy
    from agents.trainer import Callback, Trainer
    from agents.trajectory import Trajectory

NUM_REPLAYED: Final = 3
"""Questions of an evaluation whose episodes go into the transcripts."""


def execute(
    config: Train, setup: Setup, console: Console, threads: int, left_out: str = ""
) -> bool:
    """Train as `config` says and write everything into its folder.

    Args:
        config: The options.
        setup: The same, loaded.
        console: Where progress is shown.
        threads: How many torch uses.
        left_out: What to say, if training ends early, of what resuming the run does not do.

    Returns:
        Whether all updates are done; False if SIGTERM ended training early.

    Raises:
        KeyboardInterrupt: If Ctrl-C ended training early; what was done is saved.
        CommandError: If the loss was not finite; its batch is saved.
    """
    from agents.cli.display import say
    from agents.signals import StopOnSignal

    out, trainer = config.out_dir, setup.trainer
    with StopOnSignal() as stop:
        if trainer.processes.is_first:
            if setup.resumed_from is None:
                start_folder(out)
            write_json(out / CONFIG_FILE, describe(config, setup, threads))
        try:
            learn(config, setup, console, stop, left_out)
        finally:
            if trainer.sampler is not None:
                trainer.sampler.close()
    for env in trainer.envs:
        env.close()
    if trainer.num_updates_done == config.steps and stop.received is None:
        return True
    say(
        console,
        f"stopped after update {trainer.num_updates_done} of {config.steps}; "
        f"{how_to_go_on(out, left_out)}",
    )
    if stop.received is signal.SIGINT:
        raise KeyboardInterrupt
    return False


def learn(
    config: Train, setup: Setup, console: Console, stop: Callback, left_out: str = ""
) -> None:
    """Do the updates that are left; `left_out` as in `execute`."""
    from agents.audit import AuditError
    from agents.callbacks import ProgressCallback
    from agents.distributed import PeerError
    from agents.learner import NonFiniteLossError
    from agents.metrics import Logger
    from zs_env.lm.generator import LanguageModelError
    from zs_env.search.engine import SearchEngineError

    trainer = setup.trainer
    with ExitStack() as stack:
        callbacks = [_checkpoints(config, setup), stop]
        if trainer.processes.is_first:
            first = trainer.num_updates_done + 1 if trainer.num_updates_done else 0
            logger = stack.enter_context(Logger(config.out_dir, log_formats(config), first))
            label = setup.engine_label(config.engine)
            progress = stack.enter_context(ProgressCallback(console, config.steps, label))
            callbacks = [*_callbacks(config, setup, logger), progress, stop]
        try:
            trainer.learn(None if trainer.num_updates_done else config.steps, callbacks)
        except NonFiniteLossError as error:
            raise CommandError(save_failed(config.out_dir, trainer, error)) from error
        except (SearchEngineError, LanguageModelError) as error:
            raise CommandError(lost(config.out_dir, error, left_out)) from error
        except (AuditError, PeerError) as error:
            raise CommandError(str(error)) from error
        except torch_out_of_memory() as error:
            raise CommandError(out_of_memory(config, error)) from error


def how_to_go_on(out: Path, left_out: str = "") -> str:
    """Return what to type for the rest of a run, and what that leaves out, if anything."""
    command = f"go on with: zerosearch train --resume {shlex.quote(str(out))}"
    return f"{command}; {left_out}" if left_out else command


def lost(out: Path, error: Exception, left_out: str = "") -> str:
    """Return the line that tells of a server that was lost, and of the checkpoint if there is one.

    Args:
        out: The run's folder.
        error: Why training could not go on.
        left_out: As in `execute`.
    """
    from agents.callbacks import CHECKPOINTS_FOLDER
    from agents.checkpoint import has_checkpoint

    is_saved = has_checkpoint(out / CHECKPOINTS_FOLDER)
    return f"{error}; {how_to_go_on(out, left_out)}" if is_saved else str(error)


def save_failed(out: Path, trainer: Trainer, error: NonFiniteLossError) -> str:
    """Write the batch whose loss was not finite, and return the line that tells so."""
    from agents.checkpoint import write_batch

    update = trainer.num_updates_done + 1
    file = out / FAILED_FOLDER / f"update-{update:06}.safetensors"
    write_batch(file, error.batch, {"update": str(update), "error": str(error)})
    return f"update {update} failed: {error}; its batch is in {file}"


def describe(config: Train, setup: Setup, threads: int) -> dict[str, Any]:
    """Return all that decides the results of a run, as JSON values."""
    from agents.recipe import describe

    options = asdict(config) | {"out": str(config.out_dir), "threads": threads}
    for name in ("resume", "recipe", "dry_run"):
        del options[name]
    return {
        "config": options,
        "algorithm": describe(setup.trainer.algorithm),
        "start_weights_sha256": setup.weights_checksum,
        **joined(setup.former, data_digests(config.questions, config.asked_engine)),
        "engine_label": setup.engine_label(config.engine),
        "num_processes": setup.trainer.processes.size,
        **provenance(),
    }


def _callbacks(config: Train, setup: Setup, logger: Logger) -> list[Callback]:
    """Return what happens during an update and at its end, in its order."""
    from agents.audit import AuditCallback
    from agents.callbacks import (
        EvaluateCallback,
        MetricsCallback,
        PlotCallback,
        TranscriptCallback,
    )

    out = config.out_dir
    return [
        AuditCallback(audit_tolerance(setup.policy)),
        EvaluateCallback(
            setup.engine_label(config.engine),
            lambda policy: _evaluate(config, setup, policy),
            every=config.eval_every,
        ),
        MetricsCallback(logger),
        TranscriptCallback(
            out,
            setup.policy.decode,
            replay=lambda policy: _replay(config, setup, policy),
            replay_every=config.eval_every,
        ),
        _checkpoints(config, setup),
        PlotCallback(out),
    ]


def audit_tolerance(policy: CausalLMPolicy) -> float:
    """Return which distance of log-probabilities of sampler and trainer is no violation."""
    import torch

    from agents.audit.auditing import TOLERANCE, TOLERANCE_BFLOAT16

    return TOLERANCE_BFLOAT16 if policy.model.dtype == torch.bfloat16 else TOLERANCE


def _checkpoints(config: Train, setup: Setup) -> Callback:
    from agents.callbacks import Best, CheckpointCallback

    best = setup.resumed_from.state["best"] if setup.resumed_from else None
    return CheckpointCallback(
        config.out_dir,
        every=config.checkpoint_every,
        keep=config.keep_checkpoints,
        best_key=f"eval/{setup.engine_label(config.engine)}/exact_match",
        best=Best(**best) if best else None,
    )


def _evaluate(config: Train, setup: Setup, policy: Policy) -> Evaluation:
    from agents.evaluate import evaluate
    from agents.policies.agent import PolicyAgent

    stops = setup.trainer.env.metadata["action_stops"]
    return evaluate(
        PolicyAgent(policy, stops, max_new_tokens=config.max_new_tokens),
        setup.eval_questions,
        num_envs=evaluated_together(config, setup.trainer.processes.size),
        **_exam(config, setup),
    )


def _replay(config: Train, setup: Setup, policy: Policy) -> list[Trajectory]:
    from agents.evaluate import replay

    questions = setup.eval_questions[:NUM_REPLAYED]
    most = evaluated_together(config, setup.trainer.processes.size)
    return [
        trajectory
        for start in range(0, len(questions), most)
        for trajectory in replay(
            policy,
            questions[start : start + most],
            max_new_tokens=config.max_new_tokens,
            **_exam(config, setup),
        )
    ]


def _exam(config: Train, setup: Setup) -> dict[str, Any]:
    """Return where evaluations ask their questions."""
    return {
        "env_id": config.env_id,
        "env_kwargs": {"engine": setup.engine, "max_turns": config.max_turns, **shown(config)},
        "seed": config.seed,
    }
