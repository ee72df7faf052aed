"""A pipeline: stages from files to files; what is done is not done again.

    FOLDER/stages/NAME.json   what a stage was begun with, and what it left when it had finished
    FOLDER/earlier/NAME-N/    what it had made with other options or of other inputs

A stage runs again if its options or the contents of its inputs have changed, or its results are
gone; a later one then does if that changes what it reads. A stage that was interrupted goes on.
Results that took long to make are put aside rather than lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import yaml

from agents.tuning.records import DataError, as_object, located, take, write_records

STATE_FOLDER: Final = "stages"
EARLIER_FOLDER: Final = "earlier"

_MODEL_FILES: Final = ("*.safetensors", "*config.json", "tokenizer.json")
"""What decides what a model does; measurements and cards beside it do not."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a pipeline.

    Attributes:
        name: Tells it from the others.
        options: What decides its results beside its inputs, as JSON values.
        inputs: Files and model folders that it reads.
        outputs: Files and model folders that are there when it has finished.
        run: Does the work.
        store: The file or folder that it goes on in after an interruption, and that is put aside
            before it starts anew; None for a stage that replaces what it wrote before.
        adds_to: Tells whether it can also go on where only its options changed, given what they
            were.
    """

    name: str
    options: Mapping[str, Any]
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    run: Callable[[], None]
    store: Path | None = None
    adds_to: Callable[[Mapping[str, Any]], bool] = lambda _: False


# --- what is known of a stage -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Content:
    """A file or model folder by its name, and a checksum of what is in it."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Content:
        """Return the content of a file or of a model folder.

        Raises:
            OSError: If it is not there, or cannot be read.
        """
        if not path.is_dir():
            return cls(path.name, _file_checksum(path))
        files = sorted({file for pattern in _MODEL_FILES for file in path.glob(pattern)})
        if not any(file.suffix == ".safetensors" for file in files):
            raise FileNotFoundError(f"there is no model in {path}")
        parts = "".join(f"{file.name} {_file_checksum(file)}\n" for file in files)
        return cls(path.name, hashlib.sha256(parts.encode()).hexdigest())


def _file_checksum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class State:
    """What a stage was begun with, and what it left.

    Attributes:
        options: Its options.
        inputs: What it read.
        outputs: What it left; None if it has not finished.
    """

    options: Mapping[str, Any]
    inputs: tuple[Content, ...]
    outputs: tuple[Content, ...] | None = None


def state_file(folder: Path, name: str) -> Path:
    """Return where the state of a stage is kept."""
    return folder / STATE_FOLDER / f"{name}.json"


def read_state(folder: Path, name: str) -> State | None:
    """Return the state of a stage, None if it was never begun.

    Raises:
        DataError: If the file holds something else.
    """
    file = state_file(folder, name)
    if not file.exists():
        return None
    with located(file, 1):
        row = as_object(json.loads(file.read_text(encoding="utf-8")))
        finished = row.get("outputs") is not None
        return State(
            take(row, "options", dict),
            _read_contents(row, "inputs"),
            _read_contents(row, "outputs") if finished else None,
        )


def _read_contents(row: Mapping[str, Any], name: str) -> tuple[Content, ...]:
    given = [as_object(each) for each in take(row, name, list)]
    return tuple(Content(take(each, "name", str), take(each, "sha256", str)) for each in given)


def write_state(folder: Path, name: str, state: State) -> None:
    """Keep the state of a stage, whole or not at all."""
    row: dict[str, Any] = {"stage": name, "options": dict(state.options)}
    for part, contents in (("inputs", state.inputs), ("outputs", state.outputs)):
        row[part] = contents and [{"name": c.name, "sha256": c.sha256} for c in contents]
    row["inputs"] = row["inputs"] or []
    write_records(state_file(folder, name), [row])


# --- what has to be done ------------------------------------------------------------------------


class Step(StrEnum):
    """What is to be done about a stage."""

    NONE = "done"
    START = "to do"
    GO_ON = "goes on"  # with what an interruption, or a smaller run, left
    AGAIN = "again"  # from the beginning
    PERHAPS = "done, perhaps again"  # that depends on what stages before it will make


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done about a stage, and why."""

    step: Step
    reason: str = ""

    def __str__(self) -> str:
        """Return both as words."""
        return f"{self.step}: {self.reason}" if self.reason else str(self.step)


def forecast(stages: Sequence[Stage], folder: Path) -> list[Decision]:
    """Return what is to be done about each stage, as far as that can be told beforehand.

    Raises:
        ValueError: If an input is missing that no stage makes, results are in the way, or a state
            cannot be read.
        OSError: If an input cannot be read.
    """
    decisions: list[Decision] = []
    made: set[Path] = set()
    changing: set[Path] = set()
    for stage in stages:
        for path in stage.inputs:
            if path not in made and not path.exists():
                raise ValueError(f"input of {stage.name} must exist, got {str(path)!r}")
        decision = decide(stage, folder, changing)
        decisions.append(decision)
        made.update(stage.outputs)
        if decision.step is not Step.NONE:
            changing.update(stage.outputs)
    return decisions


def decide(stage: Stage, folder: Path, changing: Collection[Path] = ()) -> Decision:
    """Return what is to be done about a stage.

    Args:
        stage: The stage.
        folder: Of the pipeline.
        changing: Files and model folders that other stages will have made, or made anew, before
            it is this one's turn.

    Raises:
        ValueError: If something is where its results belong that it did not make.
        OSError: If an input cannot be read.
    """
    state = read_state(folder, stage.name)
    if state is None:
        return _decide_first(stage)
    options = _changed_options(state.options, stage.options)
    waiting = [path.name for path in stage.inputs if path in changing]
    inputs = [] if waiting else _changed_inputs(state.inputs, _contents(stage.inputs))
    if options and not inputs and stage.adds_to(state.options):
        return Decision(Step.GO_ON, "; ".join(options))
    if options or inputs:
        return Decision(Step.AGAIN, "; ".join(options + inputs))
    if state.outputs is None:
        return Decision(Step.GO_ON, "was interrupted")
    return _decide_finished(stage, state.outputs, waiting)


def _decide_first(stage: Stage) -> Decision:
    """Decide about a stage that this pipeline has not begun."""
    if stage.store is not None:
        # The stage itself checks whether what is there is its own.
        return Decision(Step.GO_ON if stage.store.exists() else Step.START)
    found = [path for path in stage.outputs if path.exists()]
    if found:
        raise ValueError(
            f"`out` must not hold results that {stage.name} did not make, got {str(found[0])!r}: "
            "move it away"
        )
    return Decision(Step.START)


def _decide_finished(stage: Stage, outputs: Sequence[Content], waiting: Sequence[str]) -> Decision:
    gone = [path.name for path in stage.outputs if not path.exists()]
    if gone:
        return Decision(Step.AGAIN, f"{', '.join(gone)} is gone")
    for path, before, now in zip(stage.outputs, outputs, _contents(stage.outputs), strict=True):
        if before != now:
            raise ValueError(
                f"`out` must hold what {stage.name} made, but {str(path)!r} was changed since: "
                "move it away to have it made again"
            )
    if waiting:
        return Decision(Step.PERHAPS, f"if that changes {', '.join(waiting)}")
    return Decision(Step.NONE)


def _contents(paths: Sequence[Path]) -> tuple[Content, ...]:
    return tuple(Content.of(path) for path in paths)


def _changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*now, *before])
    return [
        f"`{name}` was {before.get(name)!r} and is {now.get(name)!r}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _changed_inputs(before: Sequence[Content], now: Sequence[Content]) -> list[str]:
    names = [content.name for content in now]
    if [content.name for content in before] != names:
        return [f"reads {', '.join(names)} and no longer {', '.join(c.name for c in before)}"]
    return [f"{new.name} has changed" for old, new in zip(before, now, strict=True) if old != new]


# --- doing it -----------------------------------------------------------------------------------


def perform(stage: Stage, folder: Path, decision: Decision) -> None:
    """Do what was decided about a stage, and write down that it is done.

    Raises:
        OSError: If a file cannot be read or written.
    """
    if decision.step is Step.AGAIN and stage.store is not None:
        put_aside(stage.store, folder, stage.name)
    state = State(stage.options, _contents(stage.inputs))
    write_state(folder, stage.name, state)
    stage.run()
    write_state(folder, stage.name, replace(state, outputs=_contents(stage.outputs)))


def put_aside(path: Path, folder: Path, name: str) -> None:
    """Move the results of a stage to where those of earlier settings are kept, if there are any."""
    if not path.exists():
        return
    number = 1
    while (place := folder / EARLIER_FOLDER / f"{name}-{number}").exists():
        number += 1
    place.mkdir(parents=True)
    path.rename(place / path.name)


# --- the file that describes a pipeline ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of an option, and the line where it stands."""

    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """What the file says about one run of a stage's command.

    Attributes:
        line: Where it begins.
        settings: By option.
    """

    line: int
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A file that describes a pipeline.

    Attributes:
        file: Where it stands.
        out: Folder of the results.
        tables: By stage, in the order of stages; several of one stage are runs of it.
    """

    file: Path
    out: Path
    tables: Mapping[str, tuple[Table, ...]]


def read_recipe(
    file: Path, options: Mapping[str, Collection[str]], several: Collection[str] = ()
) -> Recipe:
    """Return what a YAML file says: `out`, and a table for each stage that is wanted.

    Args:
        file: The file.
        options: By stage, in order, the names of its options.
        several: Stages that may have a list of tables.

    Raises:
        DataError: If it is no such file; names the line.
        OSError: If it cannot be read.
    """
    root = _parse(file)
    if root is None:
        raise DataError(f"{file}:1: a folder `out` and a table a stage were expected, got nothing")
    entries = _entries(file, root, "a folder `out` and a table a stage")
    for name, (line, _) in entries.items():
        with located(file, line):
            _check_known("part", name, ("out", *options))
    if "out" not in entries:
        raise DataError(f"{file}:1: `out` is missing, the folder of the results")
    with located(file, entries["out"][0]):
        out = take({"out": _value(entries["out"][1])}, "out", str)
    tables = {
        stage: tuple(_tables(file, stage, known, entries[stage], stage in several))
        for stage, known in options.items()
        if stage in entries
    }
    if not tables:
        raise DataError(f"{file}:1: at least one stage must be wanted: {', '.join(options)}")
    return Recipe(file, Path(out), tables)


def read_table(file: Path, command: str, known: Collection[str]) -> Table:
    """Return what a YAML file says that is one table of options.

    Args:
        file: The file.
        command: Whose options they are, for messages.
        known: Their names.

    Raises:
        DataError: If it is no such file; names the line.
        OSError: If it cannot be read.
    """
    root = _parse(file)
    if root is None:
        raise DataError(f"{file}:1: a table of options of {command} was expected, got nothing")
    [table] = _tables(file, command, known, (1, root), False)
    return table


def _parse(file: Path) -> Any:
    """Return the root node of a YAML file, None if there is none."""
    try:
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DataError(f"{file}:{mark.line + 1 if mark else 1}: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file}:1: {error}") from error


def _entries(file: Path, node: Any, expected: str) -> dict[str, tuple[int, Any]]:
    """Return the line and the value node of each key of a mapping."""
    with located(file, _line(node)):
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{expected} was expected, got {_value(node)!r:.80}")
    entries: dict[str, tuple[int, Any]] = {}
    for key_node, value in node.value:
        with located(file, _line(key_node)):
            key = take({"name": _value(key_node)}, "name", str)
            if key in entries:
                raise ValueError(f"`{key}` must stand once, and stands in line {entries[key][0]}")
        entries[key] = _line(key_node), value
    return entries


def _tables(
    file: Path, stage: str, known: Collection[str], entry: tuple[int, Any], several: bool
) -> Iterator[Table]:
    """Yield the tables of a stage; nothing after its name is a table without settings."""
    line, node = entry
    if isinstance(node, yaml.SequenceNode) and several and node.value:
        nodes = node.value
    else:
        nodes = [node]
    for each in nodes:
        if each.tag == "tag:yaml.org,2002:null":
            yield Table(line)
            continue
        settings = {}
        for name, (at, value) in _entries(file, each, f"a table of options of {stage}").items():
            with located(file, at):
                _check_known(f"option of {stage}", name, known)
                settings[name] = Setting(_value(value), at)
        yield Table(line if len(nodes) == 1 else _line(each), settings)


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"unknown {what}: `{name}`; known are {', '.join(known)}")


def _value(node: Any) -> Any:
    """Return the Python value of a node.

    Raises:
        ValueError: If it has none.
    """
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise ValueError(str(getattr(error, "problem", error))) from error
    _check_keys(node)
    return value


def _check_keys(root: Any) -> None:
    """Check that no mapping within a node has a key twice: YAML would keep the last one."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.ScalarNode):
            continue
        if isinstance(node, yaml.MappingNode):
            _check_distinct(node)
        for each in node.value:
            parts = each if isinstance(each, tuple) else (each,)
            waiting += [part for part in parts if id(part) not in seen]
            seen.update(map(id, parts))


def _check_distinct(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name = str(key.value)
        if name in lines:
            raise ValueError(f"`{name}` must stand once, and stands in line {lines[name]}")
        lines[name] = _line(key)


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
