"""`zerosearch tune run`: all stages of simulator tuning, as a file describes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar, get_args, get_origin
from typing import get_type_hints as annotations_of

from rich.console import Console
from tyro.conf import arg

from agents.cli.checks import CommandError, check_folder, usage_errors
from agents.cli.simulators import find_model
from agents.cli.tune_calibrate import Calibrate
from agents.cli.tune_card import Card
from agents.cli.tune_collect import Collect
from agents.cli.tune_label import Label
from agents.cli.tune_measure import Measure
from agents.cli.tune_sft import Sft
from agents.experiments.run_files import claimed
from agents.tuning.pipeline import (
    Decision,
    Recipe,
    Stage,
    Step,
    Table,
    decide,
    forecast,
    perform,
    read_recipe,
)
from agents.tuning.records import located
from zs_env.models import MODELS, model_folder
from zs_env.search.calibration import CALIBRATION_FILE

if TYPE_CHECKING:
    from rich.table import Table as ShownTable

Command = Collect | Label | Sft | Measure | Calibrate | Card
C = TypeVar("C", Collect, Label, Sft, Measure, Calibrate, Card)

COMMANDS: Final[Mapping[str, type[Command]]] = {
    "collect": Collect,
    "label": Label,
    "sft": Sft,
    "measure": Measure,
    "calibrate": Calibrate,
    "card": Card,
}
"""The command of each stage, in order."""

TRAJECTORIES_FILE, LABELLED_FILE = "trajectories.jsonl", "labelled.jsonl"
LABEL_REPORT_FILE = "label.json"
SFT_FOLDER, MODEL_FOLDER = "sft", "model"

_PLACES: Final = ("out", "output", "report")
"""Options that say where results go, for which the run's folder has fixed places."""

_IDLE: Final = ("threads", "num_envs", "save_every")
"""Options that change how long a stage takes, and not what comes of it."""

_READ: Final = ("input", "model")
"""Options that name what is read; it is known by its contents."""


@dataclass(frozen=True)
class Run:
    """Collect, label, tune, measure, calibrate and write a card, as a YAML file says.

    The file has `out`, the run's folder, and a table for each stage that is wanted, with the
    options of the stage's command. A stage that is done is skipped; one that was interrupted goes
    on; one whose options or inputs have changed is done again.

    Attributes:
        dry_run: Say what is done and what would be, and do nothing.
    """

    config: Annotated[Path, arg(metavar="FILE", help="Describes the run; see examples/tuning.")]
    dry_run: bool = False

    def run(self) -> None:
        """Do what is left to be done."""
        from agents.cli.display import say

        console = Console()
        with usage_errors():
            recipe = read_recipe(self.config, known_options(), several=("collect",))
            stages = make_stages(recipe)
            check_folder(recipe.out)
            decisions = forecast(stages, recipe.out)
        if self.dry_run:
            console.print(plan_table(stages, decisions))
            return
        with ExitStack() as stack:
            with usage_errors():
                stack.enter_context(claimed(recipe.out))
            execute(stages, recipe.out, console)
        say(console, f"all stages are done: {recipe.out}")


def known_options() -> dict[str, list[str]]:
    """Return the names of the options that each stage's table may have."""
    return {
        name: [field.name for field in fields(command) if field.name not in _PLACES]
        for name, command in COMMANDS.items()
    }


def execute(stages: Sequence[Stage], out: Path, console: Console) -> None:
    """Do every stage that is not done.

    Raises:
        CommandError: If one cannot be done.
    """
    from agents.cli.display import say

    for number, stage in enumerate(stages, start=1):
        with usage_errors():
            decision = decide(stage, out)
        say(console, f"[{number}/{len(stages)}] {stage.name}: {decision}")
        if decision.step is not Step.NONE:
            perform(stage, out, decision)


def plan_table(stages: Sequence[Stage], decisions: Sequence[Decision]) -> ShownTable:
    """Return what is done and what will be."""
    from rich.text import Text

    from agents.cli.display import new_table

    table = new_table()
    for name in ("stage", "state", "why"):
        table.add_column(name)
    for stage, decision in zip(stages, decisions, strict=True):
        table.add_row(stage.name, str(decision.step), Text(decision.reason))
    return table


# --- from tables to commands --------------------------------------------------------------------


def make_command(kind: type[C], recipe: Recipe, table: Table, **given: Any) -> C:
    """Return the command that a table describes.

    Args:
        kind: The command's class.
        recipe: The file that the table is in.
        table: Its settings come before what is given.
        given: Options by name: where results go, and what earlier stages make.

    Raises:
        DataError: If a setting is of the wrong type, an option is missing, or the command refuses
            a value; names the line.
    """
    kinds, options = annotations_of(kind), dict(given)
    for name, setting in table.settings.items():
        with located(recipe.file, setting.line):
            value = in_folder(setting.value, recipe.out)
            try:
                options[name] = converted(value, kinds[name])
            except TypeError as error:
                raise ValueError(f"`{name}` must be {error}, got {value!r:.80}") from error
    with located(recipe.file, table.line):
        for field in fields(kind):
            if field.default is MISSING and field.name not in options:
                raise ValueError(f"`{field.name}` must be given where no stage before makes it")
        command = kind(**options)
        check_values(command)
        return command


def in_folder(value: Any, out: Path) -> Any:
    """Return a setting with the run's folder in the place of `{out}`.

    Example:
        >>> in_folder(["{out}/labelled.jsonl", 3], Path("runs/a"))
        ['runs/a/labelled.jsonl', 3]
    """
    if isinstance(value, list):
        return [in_folder(each, out) for each in value]
    return value.replace("{out}", str(out)) if isinstance(value, str) else value


def converted(value: Any, kind: Any) -> Any:
    """Return a value from a YAML file as the type of an option.

    Raises:
        TypeError: If it is not of that type; says what is expected.

    Example:
        >>> converted(["a", "b"], tuple[Path, ...])
        (PosixPath('a'), PosixPath('b'))
        >>> converted("1e-4", float)  # to YAML a number has a dot
        0.0001
    """
    if get_origin(kind) is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(converted(item, get_args(kind)[0]) for item in items)
    if get_origin(kind) is UnionType:
        if value is None:
            return None
        [kind] = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is Literal:
        # YAML reads an unquoted true as no text.
        value = str(value).lower() if isinstance(value, bool) else value
        if value not in get_args(kind):
            raise TypeError(f"one of {', '.join(get_args(kind))}")
        return value
    if kind is float:
        return _to_float(value)
    expected = str if kind is Path else kind
    if type(value) is not expected:
        raise TypeError(_NAMES[kind])
    return kind(value)


_NAMES: Final = {
    str: "a text",
    Path: "a path",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def _to_float(value: Any) -> float:
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    raise TypeError(_NAMES[float])


def check_values(command: Command) -> None:
    """Check the values that the stage would check only when it is its turn.

    Raises:
        ValueError: If one is out of its range.
    """
    from agents.tuning.calibrate import CalibrateOptions
    from agents.tuning.label import LabelOptions
    from agents.tuning.measure import MeasureOptions
    from agents.tuning.signals import OutcomeRule

    checked: dict[type, tuple[Callable[..., object], ...]] = {
        Label: (LabelOptions, OutcomeRule),
        Measure: (MeasureOptions,),
        Calibrate: (CalibrateOptions,),
    }
    values = {field.name: getattr(command, field.name) for field in fields(command)}
    for kind in checked.get(type(command), ()):
        names = {field.name for field in fields(kind)} & values.keys()  # type: ignore[arg-type]
        kind(**{name: values[name] for name in names})


# --- from commands to stages --------------------------------------------------------------------


def make_stages(recipe: Recipe) -> list[Stage]:
    """Return the stages that a file describes, in order.

    Raises:
        ValueError: If something is wrong with the file.
        FileNotFoundError: If a policy or model is not there.
    """
    makers: Mapping[str, Callable[[Recipe, Table, int], Stage]] = {
        "collect": collect_stage,
        "label": label_stage,
        "sft": sft_stage,
        "measure": measure_stage,
        "calibrate": calibrate_stage,
        "card": card_stage,
    }
    return [
        makers[name](recipe, table, number)
        for name, tables in recipe.tables.items()
        for number, table in enumerate(tables, start=1)
    ]


def make_stage(
    name: str,
    command: Command,
    inputs: Iterable[Path],
    outputs: Iterable[Path],
    options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Stage:
    """Return the stage that runs a command; `options` count beside those of the command."""
    left_out = {*_PLACES, *_IDLE, *_READ}
    own = {key: value for key, value in asdict(command).items() if key not in left_out}
    # As they will be read back: a list is a list then.
    kept = json.loads(json.dumps({**own, **(options or {})}))
    run = partial(run_command, name, command)
    return Stage(name, kept, tuple(inputs), tuple(outputs), run, **kwargs)


def run_command(name: str, command: Command) -> None:
    """Run the command of a stage; its mistakes name the stage.

    Raises:
        CommandError: If it cannot be run.
    """
    try:
        command.run()
    except CommandError as error:
        raise CommandError(f"{name}: {error}") from error


def collect_stage(recipe: Recipe, table: Table, number: int) -> Stage:
    """Return the stage that plays episodes; each table has a file of its own."""
    from agents.policies.causal_lm import find_policy

    file = trajectories_file(recipe.out, number)
    command = make_command(Collect, recipe, table, out=file)
    inputs = [] if command.agent else [find_policy(command.policy)]
    inputs += _shipped(command.engine)
    inputs += [path for path in [Path(command.questions)] if path.is_file()]
    name = "collect" if number == 1 else f"collect-{number}"
    adds_to = partial(asks_for_more, command)
    return make_stage(name, command, inputs, [file], store=file, adds_to=adds_to)


def trajectories_file(out: Path, number: int) -> Path:
    """Return where the episodes of the `number`-th table go.

    Example:
        >>> trajectories_file(Path("runs"), 2).name
        'trajectories-2.jsonl'
    """
    file = out / TRAJECTORIES_FILE
    return file if number == 1 else file.with_stem(f"{file.stem}-{number}")


def asks_for_more(command: Collect, before: Mapping[str, Any]) -> bool:
    """Tell whether a command wants the episodes of an earlier one, and more of the same."""
    now = asdict(command)
    sizes = ("num_questions", "num_samples")
    others = before.keys() - {*sizes}
    was, wanted = (options.get("num_questions") or float("inf") for options in (before, now))
    return (
        all(before[name] == now.get(name) for name in others)
        and wanted >= was
        and command.num_samples >= before.get("num_samples", 1)
    )


def label_stage(recipe: Recipe, table: Table, _: int) -> Stage:
    """Return the stage that labels searches."""
    collects = recipe.tables.get("collect", ())
    made = tuple(trajectories_file(recipe.out, number + 1) for number in range(len(collects)))
    output = recipe.out / LABELLED_FILE
    given = {"output": output, "report": recipe.out / LABEL_REPORT_FILE}
    command = make_command(Label, recipe, table, **given, **({"input": made} if made else {}))
    inputs = [*command.input, *_models(command.judge)]
    return make_stage("label", command, inputs, [output])


def sft_stage(recipe: Recipe, table: Table, _: int) -> Stage:
    """Return the stage that tunes a model."""
    folder = recipe.out / SFT_FOLDER
    given = {"input": recipe.out / LABELLED_FILE} if "label" in recipe.tables else {}
    command = make_command(Sft, recipe, table, out=folder, **given)
    with located(recipe.file, table.line):
        _check_is_whole(command, recipe)
    models = _models(command.model)
    options = {} if models else {"model": command.model}
    inputs, outputs = [command.input, *models], [folder / MODEL_FOLDER]
    return make_stage("sft", command, inputs, outputs, options, store=folder)


def _check_is_whole(command: Sft, recipe: Recipe) -> None:
    """Check that later stages can load what this one makes.

    Raises:
        ValueError: If it makes an adapter.
    """
    later = [name for name in ("measure", "calibrate", "card") if name in recipe.tables]
    if command.lora_rank and not command.lora_merge and later:
        raise ValueError(f"`lora_merge` must be true where {later[0]} is wanted, got false")


def measure_stage(recipe: Recipe, table: Table, _: int) -> Stage:
    """Return the stage that measures the simulator."""
    from agents.tuning.cards import FIGURE_FILE, METRICS_FILE

    home = results_folder(recipe, table)
    command = make_command(Measure, recipe, table, out=home, **_tuned(recipe))
    inputs = _simulator(command, recipe) + [path for path in [command.input] if path]
    return make_stage("measure", command, inputs, [home / METRICS_FILE, home / FIGURE_FILE])


def calibrate_stage(recipe: Recipe, table: Table, _: int) -> Stage:
    """Return the stage that calibrates the simulator."""
    file = results_folder(recipe, table) / CALIBRATION_FILE
    command = make_command(Calibrate, recipe, table, out=file, **_tuned(recipe))
    return make_stage("calibrate", command, _simulator(command, recipe), [file])


def card_stage(recipe: Recipe, table: Table, _: int) -> Stage:
    """Return the stage that writes the card of a model."""
    from agents.tuning.cards import CARD_FILE, METRICS_FILE

    command = make_command(Card, recipe, table, **_tuned(recipe))
    folder = _folder_of(command.model, recipe)
    inputs = [folder, folder / METRICS_FILE]
    if "calibrate" in recipe.tables or (folder / CALIBRATION_FILE).is_file():
        inputs.append(folder / CALIBRATION_FILE)
    return make_stage("card", command, inputs, [folder / CARD_FILE])


def _tuned(recipe: Recipe) -> dict[str, str]:
    """Return the option that names the model which this run tunes, if it does."""
    return {"model": str(tuned_model(recipe))} if "sft" in recipe.tables else {}


def tuned_model(recipe: Recipe) -> Path:
    """Return where the tuned model will be."""
    return recipe.out / SFT_FOLDER / MODEL_FOLDER


def results_folder(recipe: Recipe, table: Table) -> Path:
    """Return where results about a simulator go: beside the caller's own model, else into `out`."""
    setting = table.settings.get("model")
    given = in_folder(setting.value, recipe.out) if setting else _tuned(recipe).get("model", "")
    own = given and given not in MODELS
    return _folder_of(str(given), recipe) if own else recipe.out


def _folder_of(model: str, recipe: Recipe) -> Path:
    """Return the folder of a model, which this run may yet have to make."""
    tuned = tuned_model(recipe)
    made_here = "sft" in recipe.tables and Path(model) in (tuned, tuned.parent)
    return tuned if made_here else find_model(model)


def _simulator(command: Measure | Calibrate, recipe: Recipe) -> list[Path]:
    """Return the folder of the model that answers, if one does."""
    return [_folder_of(command.model, recipe)] if command.model else _shipped(command.engine)


def _models(name: str) -> list[Path]:
    """Return the folder of the model that an option names, if it names one that is here."""
    return _shipped(name) or [path for path in [Path(name)] if name and path.is_dir()]


def _shipped(name: str) -> list[Path]:
    return [model_folder(name)] if name in MODELS else []
