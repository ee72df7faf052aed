"""`zerosearch tune sft`: tune a language model to write useful or noisy documents."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import CommandError, check_at_least, check_folder, usage_errors
from agents.cli.files import write_json
from agents.cli.options import Threads
from agents.cli.provenance import provenance, weights_checksum
from agents.cli.threads import use_threads
from agents.tuning.sft_config import SFTOptions

if TYPE_CHECKING:
    from agents.tuning.sft_state import Progress
    from agents.tuning.tune import Job

CONFIG_FILE = "config.json"
STAGE = "tune sft"


@dataclass(frozen=True, kw_only=True)
class Sft(SFTOptions):
    """Tune a language model to write useful or noisy documents, as the labelled searches show.

    The loss is on the documents only. The folder gets config.json, metrics.jsonl with a row a
    step, TensorBoard events, and model/ in Hugging Face format. A run that was killed goes on
    when the same command is given again; `accelerate launch` shares the work among processes.

    Attributes:
        save_every: Steps between states that a killed run can go on from.
    """

    input: Annotated[
        Path, arg(metavar="FILE", help="Labelled searches, a JSON object a line (`tune label`).")
    ]
    model: Annotated[
        str, arg(metavar="MODEL", help="What is tuned: a model folder, a hub id, or simulator.")
    ] = "simulator"
    out: Annotated[
        Path, arg(metavar="DIR", help="A new folder, or that of the same run to be continued.")
    ] = Path("runs/simulator")
    save_every: int = 200
    threads: Threads = 0

    def run(self) -> None:
        """Tune, and say where the model is."""
        from agents.cli.display import say

        console = Console()
        with usage_errors():
            threads = use_threads(self.threads)
            job, description = prepare(self, threads)
        main = job.accelerator.is_main_process

        def report(line: str) -> None:
            if main:
                say(console, line)

        report(opening(self, job, threads))
        report(closing(self.out, execute(self, job, description, report)))


def prepare(command: Sft, threads: int) -> tuple[Job, dict[str, Any]]:
    """Check every option, load what they name, and describe the run; nothing is written.

    Raises:
        ValueError: If an option is out of its range, the rows are not as they should be, or the
            folder holds something else than this run.
        OSError: If a file or the model cannot be read.
        ImportError: If accelerate or peft is missing.
    """
    from agents.tuning.tune import prepare as load

    check_at_least(1, save_every=command.save_every)
    check_folder(command.out)
    job = load(command.input, command.model, command)
    description = describe(command, job, threads)
    check_same_run(command.out, description)
    return job, description


def execute(command: Sft, job: Job, description: dict[str, Any], report: Any = print) -> Progress:
    """Tune as `command` says and write everything into its folder.

    Raises:
        CommandError: If the loss is not finite.
    """
    from agents.tuning.tune import tune

    if job.accelerator.is_main_process and not (command.out / CONFIG_FILE).exists():
        write_json(command.out / CONFIG_FILE, description)
    try:
        return tune(job, command, command.out, save_every=command.save_every, report=report)
    except FloatingPointError as error:
        raise CommandError(str(error)) from error


def describe(command: Sft, job: Job, threads: int) -> dict[str, Any]:
    """Return all that decides the result of a run, as JSON values."""
    packages = ["accelerate", "peft"] if command.lora_rank else ["accelerate"]
    origin = provenance()
    origin["versions"] |= {name: version(name) for name in packages}
    options = asdict(command) | {"input": str(command.input), "out": str(command.out)}
    return {
        "stage": STAGE,
        "config": options | {"threads": threads},
        "input_sha256": sha256(command.input.read_bytes()).hexdigest(),
        "start_weights": start_weights(job),
        "rows": job.counts,
        "device": str(job.accelerator.device),
        "num_processes": job.accelerator.num_processes,
        **origin,
    }


def start_weights(job: Job) -> str:
    """Return what tells the weights that tuning starts from: a checksum, or the hub's commit."""
    folder = Path(job.model.path)
    if folder.is_dir():
        return weights_checksum(folder)
    return f"{job.model.path}@{getattr(job.model.causal.config, '_commit_hash', None)}"


def check_same_run(out: Path, description: dict[str, Any]) -> None:
    """Check that `out` is new, or was begun by the run that `description` tells of.

    Raises:
        ValueError: If it holds something else; names the first difference.
    """
    mistake = f"`out` must be a new folder or that of the same run, got {str(out)!r}"
    try:
        earlier = json.loads((out / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any((out / name).exists() for name in ("metrics.jsonl", "model")):
            raise ValueError(f"{mistake}, which holds results of something else") from None
        return
    if not isinstance(earlier, dict) or earlier.get("stage") != STAGE:
        raise ValueError(f"{mistake}, whose {CONFIG_FILE} is not that of `{STAGE}`")
    before, now = _identity(earlier), _identity(description)
    for name, value in now.items():
        if before.get(name) != value:
            raise ValueError(f"{mistake}, whose `{name}` is {before.get(name)!r} and not {value!r}")


def _identity(description: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a description that must not change while a run goes on."""
    parts = ("input_sha256", "start_weights", "num_processes")
    options = {name: description["config"].get(name) for name in _OPTION_NAMES}
    return options | {name: description.get(name) for name in parts}


_OPTION_NAMES = tuple(field.name for field in fields(SFTOptions))


def opening(command: Sft, job: Job, threads: int) -> str:
    """Return what is said before a run."""
    trained = sum(parameter.numel() for parameter in job.model.trained().values())
    counts = job.counts
    lines = [
        f"{command.model} · {trained:,} of {job.model.causal.num_parameters():,} parameters · "
        f"{job.accelerator.device} · torch threads: {threads}",
        f"{counts['train']} rows to learn ({counts['off_topic']} of them off topic), "
        f"{counts['validation']} to validate; results: {command.out}",
    ]
    if counts["too_long"]:
        limit = job.model.max_context
        lines.append(f"warning: {counts['too_long']} rows dropped, longer than {limit} tokens")
    return "\n".join(lines)


def closing(out: Path, progress: Progress) -> str:
    """Return what is said after a run."""
    if not progress.step:
        return f"finished before: {out / 'model'}"
    if progress.best_step < 0:
        return f"weights after step {progress.step}: {out / 'model'}"
    return (
        f"weights after step {progress.best_step} of {progress.step}, "
        f"validation loss {progress.best_loss:.4f}: {out / 'model'}"
    )
