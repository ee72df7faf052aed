"""Simulator tuning: labelled searches and any causal LM in, a model that writes documents out.

The simulator of ZeroSearch (arXiv 2505.04588, section 3.2): supervised fine-tuning on (question,
answers, query, useful or noisy) → documents, with the loss on the documents only.

    job = prepare(Path("labelled.jsonl"), "simulator", options)
    tune(job, options, Path("runs/simulator"))

A run can be killed at any moment: run again, it goes on from its last state, and on a CPU ends
with the same weights. Under `accelerate launch` the rows of every step are shared out among the
processes; a step's result is that of one process but for rounding. Every process holds the whole
model: sharded ones (FSDP, DeepSpeed) are refused.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch

from agents.durable import write_folder
from agents.metrics import Logger, Row
from agents.tuning.documents import (
    LabelledRow,
    augment,
    make_examples,
    of_split,
    read_rows,
    sample_rows,
)
from agents.tuning.packing import (
    DocumentLoss,
    check_packing,
    collate_rows,
    learned_weight,
    pack,
    split_rows,
)
from agents.tuning.sft import Example, batches, learning_rate_at, make_optimizer
from agents.tuning.sft_config import SFTOptions
from agents.tuning.sft_model import (
    EXTRA,
    TunedModel,
    choose_attention,
    load_model,
    load_tokenizer,
    resolve_model,
    save_model,
    seeded,
)
from agents.tuning.sft_state import (
    Progress,
    load_best,
    load_state,
    save_best,
    save_state,
)
from zs_env.random import derive

MODEL_FOLDER: Final = "model"
STATE_FOLDER: Final = "state"
_REPORT_EVERY: Final = 100
_SUPPORTED: Final = ("NO", "MULTI_CPU", "MULTI_GPU")


@dataclass(frozen=True, slots=True)
class Job:
    """A checked stage, loaded; nothing has been written yet.

    Attributes:
        train: What is learned.
        validation: What decides which weights are best, and when to stop.
        model: What is tuned.
        accelerator: Where and in which precision (accelerate's `Accelerator`).
        counts: Rows by what became of them.
    """

    train: Sequence[Example]
    validation: Sequence[Example]
    model: TunedModel
    accelerator: Any
    counts: dict[str, int] = field(default_factory=dict)


def prepare(file: Path, model: str, options: SFTOptions) -> Job:
    """Read the rows, load the model, and check that they fit each other and the options.

    Args:
        file: Labelled rows; see `agents.tuning.documents`.
        model: A shipped model, a model folder or a hub id.
        options: Hyper-parameters.

    Raises:
        ValueError: If something is wrong with the file (named by file and line), or it, the model
            and the options do not fit.
        OSError: If the file or the model cannot be read.
        ImportError: If accelerate, or peft where it is needed, is not installed.
    """
    rows = read_rows(file)
    train = of_split(rows, "train")
    validation = of_split(rows, "validation") if options.eval_every else []
    _check_splits(file, train, validation, options)
    augmented = augment(
        train, off_topic=options.off_topic, shuffled=options.shuffled, seed=options.seed
    )
    looked_at = sample_rows(validation, options.eval_rows, options.seed)
    loaded = _load(resolve_model(model), options)
    accelerator = make_accelerator(options.autocast)
    choose_attention(loaded.causal, accelerator.device)
    if options.pack:
        _check_pack(loaded, options.pack)
    learned = _examples(file, augmented, loaded, options)
    checked = _examples(file, looked_at, loaded, options)
    counts = {
        "train": len(learned),
        "off_topic": len(augmented) - len(train),
        "validation": len(checked),
        "too_long": len(augmented) + len(looked_at) - len(learned) - len(checked),
    }
    return Job(learned, checked, loaded, accelerator, counts)


def _check_splits(
    file: Path,
    train: Sequence[LabelledRow],
    validation: Sequence[LabelledRow],
    options: SFTOptions,
) -> None:
    if not train:
        raise ValueError(f"{file} must hold rows of split 'train', got none")
    if options.eval_every and not validation:
        raise ValueError(
            f"{file} must hold rows of split 'validation' where `eval_every` is above 0, got none"
        )


def _load(path: str, options: SFTOptions) -> TunedModel:
    return load_model(path, load_tokenizer(path), options)


def _check_pack(model: TunedModel, length: int) -> None:
    if length > model.max_context:
        raise ValueError(f"`pack` must be at most {model.max_context}, got {length!r}")
    check_packing(model.causal, length)


def _examples(
    file: Path, rows: Sequence[LabelledRow], model: TunedModel, options: SFTOptions
) -> list[Example]:
    """Return the examples of those rows that the model can read.

    Raises:
        ValueError: If there are rows but it can read none.
    """
    made = make_examples(rows, model.tokenizer, options.chat_template)
    kept = [example for example in made if len(example.token_ids) <= model.max_context]
    if made and not kept:
        raise ValueError(
            f"{file} must hold {rows[0].split} rows of at most {model.max_context} tokens, "
            f"got {len(made)} longer ones"
        )
    vocabulary = int(model.causal.config.get_text_config().vocab_size)
    largest = max((max(example.token_ids) for example in kept), default=0)
    if largest >= vocabulary:
        raise ValueError(
            f"`model` must have an embedding for every id, got {vocabulary} and the id {largest}"
        )
    return kept


def make_accelerator(autocast: bool) -> Any:
    """Return accelerate's `Accelerator`: one process, or those that it was launched with.

    Raises:
        ImportError: If accelerate is not installed.
        ValueError: If it was launched to shard the model.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise ImportError(f"simulator tuning needs accelerate: {EXTRA}") from error
    # Else the precision of the first model that a process tunes would be that of all.
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="bf16" if autocast else "no")
    kind = str(accelerator.distributed_type.value)
    if kind not in _SUPPORTED:
        raise ValueError(f"accelerate must be launched as one of {_SUPPORTED}, got {kind!r}")
    return accelerator


def tune(
    job: Job,
    options: SFTOptions,
    out: Path,
    *,
    save_every: int = 200,
    report: Callable[[str], None] = print,
) -> Progress:
    """Train, or go on training, and write `out`/model; `out`/metrics.jsonl has a row a step.

    Args:
        job: What `prepare` returned; its model is changed.
        options: Those that the job was prepared with. That they are those of an earlier run in
            `out` is for the caller to check.
        out: The run's folder. If it holds a model, the run is over, and nothing is done.
        save_every: Steps between states to resume from, at least 1.
        report: Receives a line now and then.

    Returns:
        How far the run came; that of a new run if it was over before.

    Raises:
        FloatingPointError: If the loss or its gradient is not finite; names step and rows.
        OSError: If files cannot be written, or a state cannot be read.
    """
    accelerator = job.accelerator
    progress = Progress()
    if not (out / MODEL_FOLDER).exists():
        with seeded(options.seed), ExitStack() as stack:
            run = _Run(job, options, out, report)
            if accelerator.is_main_process:
                first = run.progress.step + 1 if run.progress.step else 0
                run.writer = stack.enter_context(Logger(out, first_step=first))
            progress = run.learn(save_every)
            if accelerator.is_main_process:
                _finish(job, options, out, progress)
    if accelerator.is_main_process:
        shutil.rmtree(out / STATE_FOLDER, ignore_errors=True)
    accelerator.wait_for_everyone()
    return progress


def _finish(job: Job, options: SFTOptions, out: Path, progress: Progress) -> None:
    """Write the model with its best weights."""
    if progress.best_step not in (-1, progress.step):
        load_best(out / STATE_FOLDER, progress.best_step, job.model.trained())
    write_folder(out / MODEL_FOLDER, lambda folder: save_model(job.model, options, folder))


class _Run:
    """The training loop of one process."""

    def __init__(
        self, job: Job, options: SFTOptions, out: Path, report: Callable[[str], None]
    ) -> None:
        self._job, self._options, self._report = job, options, report
        self._accelerator, self._state = job.accelerator, out / STATE_FOLDER
        self._loss = DocumentLoss(job.model.causal)
        self._loss.to(self._accelerator.device)
        self._trained = job.model.trained()
        self._optimizer = make_optimizer(self._trained.values(), options)
        self.progress = load_state(self._state, self._trained, self._optimizer)
        self._wrapped = self._accelerator.prepare(self._loss)
        self._epoch, self._batches = -1, list[list[Example]]()
        self._start = time.perf_counter()
        self.writer: Logger | None = None

    @property
    def num_steps(self) -> int:
        """Gradient steps of the whole run, unless it stops early."""
        options = self._options
        planned = options.epochs * self._steps_an_epoch
        return min(planned, options.max_steps) if options.max_steps else planned

    @property
    def _steps_an_epoch(self) -> int:
        return math.ceil(len(self._job.train) / self._options.batch_size)

    def learn(self, save_every: int) -> Progress:
        """Take all steps that are left, with what is due between them."""
        if self.progress.step == 0 and self._options.eval_every:
            self._write(self._validate())
        while not self._is_over():
            row = self._step()
            self.progress = replace(self.progress, step=self.progress.step + 1)
            if self._is_due(self._options.eval_every):
                row |= self._validate()
            self._write(row)
            if self._is_due(save_every) or self._is_over():
                self._save()
        return self.progress

    def _is_over(self) -> bool:
        patience = self._options.patience
        worse = patience > 0 and self.progress.num_worse >= patience
        return self.progress.step >= self.num_steps or worse

    def _is_due(self, every: int) -> bool:
        step = self.progress.step
        return every > 0 and (step % every == 0 or step == self.num_steps)

    def _step(self) -> Row:
        """Take one gradient step; return what is to be logged of it."""
        start, step = time.perf_counter(), self.progress.step
        batch = self._batch(step)
        rate = learning_rate_at(self._options, step, self.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        # Dropout is a function of the step, so that a run which is resumed drops the same.
        torch.manual_seed(derive(self._options.seed, step, self._accelerator.process_index))
        self._optimizer.zero_grad()
        loss = self._backward(batch)
        norm = float(self._clip())
        self._check_finite(loss, norm, batch)
        self._optimizer.step()
        return {
            "train/loss": loss,
            "train/learning_rate": rate,
            "train/grad_norm": norm,
            "train/tokens": sum(len(example.token_ids) for example in batch),
            "time/step_s": time.perf_counter() - start,
        }

    def _batch(self, step: int) -> list[Example]:
        """Return the examples of a step; every epoch has an order of its own."""
        epoch, index = divmod(step, self._steps_an_epoch)
        if epoch != self._epoch:
            options = self._options
            order = batches(self._job.train, options.batch_size, options.seed + epoch)
            self._epoch, self._batches = epoch, list(order)
        return self._batches[index]

    def _backward(self, batch: Sequence[Example]) -> float:
        """Add the gradient of the mean loss over a batch; return that loss."""
        rows = pack(batch, self._options.pack)
        total, accelerator = learned_weight(rows), self._accelerator
        passes = split_rows(self._share(rows), self._options.max_tokens_per_pass)
        found = torch.zeros((), device=accelerator.device)
        for number, part in enumerate(passes, start=1):
            last = number == len(passes)
            with nullcontext() if last else accelerator.no_sync(self._wrapped):
                loss = self._wrapped(collate_rows(part).to(accelerator.device)) / total
                # Gradients are averaged over processes, while this loss is a share of the sum.
                accelerator.backward(loss * accelerator.num_processes)
            found += loss.detach()
        return float(accelerator.reduce(found, reduction="sum"))

    def _share(self, rows: list[list[Example]]) -> list[list[Example]]:
        """Return the rows of this process, at least one: all of them must take part."""
        own = rows[self._accelerator.process_index :: self._accelerator.num_processes]
        idle = replace(rows[0][0], weights=[0.0] * len(rows[0][0].weights))
        return own or [[idle]]

    def _clip(self) -> torch.Tensor:
        return torch.nn.utils.clip_grad_norm_(
            list(self._trained.values()), self._options.max_grad_norm
        )

    def _check_finite(self, loss: float, norm: float, batch: Sequence[Example]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        names = ", ".join(example.name for example in batch)
        raise FloatingPointError(
            f"loss {loss} with gradient norm {norm} in step {self.progress.step + 1}, whose rows "
            f"are {names}; the weights before it are kept"
        )

    @torch.no_grad()
    def _validate(self) -> Row:
        """Measure the validation loss, and keep the weights if they are the best so far."""
        self._loss.eval()
        accelerator, device = self._accelerator, self._accelerator.device
        ordered = sorted(self._job.validation, key=lambda example: len(example.token_ids))
        rows = pack(ordered, self._options.pack)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for part in split_rows(self._share(rows), self._options.max_tokens_per_pass):
            total += self._loss(collate_rows(part).to(device))
        loss = float(accelerator.reduce(total, reduction="sum")) / learned_weight(rows)
        self._loss.train()
        if not math.isfinite(loss):
            raise FloatingPointError(f"validation loss {loss} after step {self.progress.step}")
        self.progress = self.progress.validated(loss)
        if accelerator.is_main_process and self.progress.best_step == self.progress.step:
            save_best(self._state, self.progress.step, self._trained)
        return {"eval/validation/loss": loss}

    def _save(self) -> None:
        if self._accelerator.is_main_process:
            save_state(self._state, self.progress, self._trained, self._optimizer)

    def _write(self, row: Row) -> None:
        """Log a row, and report it if it is time."""
        if self.writer is None:
            return
        for key, value in row.items():
            self.writer.record(key, value)
        self.writer.dump(self.progress.step)
        if "eval/validation/loss" in row or self._is_due(_REPORT_EVERY):
            self._report(self._line(row))

    def _line(self, row: Row) -> str:
        parts = [f"step {self.progress.step}/{self.num_steps}"]
        for label, key in (("loss", "train/loss"), ("validation", "eval/validation/loss")):
            if key in row:
                parts.append(f"{label} {row[key]:.4f}")
        return "  ".join([*parts, f"{time.perf_counter() - self._start:.0f} s"])
