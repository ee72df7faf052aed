"""Stages that are done once, and the file that describes them."""

import json
import os
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.tuning.pipeline import (
    Content,
    Decision,
    Stage,
    Step,
    decide,
    forecast,
    perform,
    put_aside,
    read_recipe,
    read_state,
    state_file,
)
from agents.tuning.records import DataError

LETTERS, WORDS, SHOUT = "letters", "words", "shout"


class KilledError(Exception):
    """Stands for the end of the process."""


class Line:
    """Three stages in a folder: one that goes on in its file, and two that write theirs anew.

    Attributes:
        ran: Names of the stages that were run, in order.
        kill: Where to stop: the name of a stage and how far it comes; None for nowhere.
    """

    def __init__(self, folder, letters="abc", mark="!", kill=None):
        self.folder, self.ran, self.kill = folder, [], kill
        self.files = {name: folder / f"{name}.txt" for name in (LETTERS, WORDS, SHOUT)}
        folder.mkdir(exist_ok=True)
        source = folder / "source.txt"
        if not source.exists():
            source.write_text("xy")
        file = self.files
        self.stages = [
            Stage(
                LETTERS,
                {"letters": letters},
                (source,),
                (file[LETTERS],),
                lambda: self.write_letters(letters),
                store=file[LETTERS],
                adds_to=lambda before: letters.startswith(before["letters"]),
            ),
            Stage(WORDS, {}, (file[LETTERS],), (file[WORDS],), self.write_words),
            Stage(SHOUT, {"mark": mark}, (file[WORDS],), (file[SHOUT],), lambda: self.shout(mark)),
        ]

    def write_letters(self, letters):
        self.ran.append(LETTERS)
        file = self.files[LETTERS]
        there = file.read_text() if file.exists() else ""
        assert letters.startswith(there)
        for count, letter in enumerate(letters[len(there) :]):
            self.stop(LETTERS, count)
            with file.open("a") as opened:
                opened.write(letter)

    def write_words(self):
        self.ran.append(WORDS)
        self.stop(WORDS, 0)
        words = self.files[LETTERS].read_text()[:2]
        self.files[WORDS].write_text(words)
        self.stop(WORDS, 1)

    def shout(self, mark):
        self.ran.append(SHOUT)
        self.stop(SHOUT, 0)
        self.files[SHOUT].write_text(self.files[WORDS].read_text() + mark)
        self.stop(SHOUT, 1)

    def stop(self, name, count):
        if self.kill == (name, count):
            raise KilledError

    def go(self):
        """Do all that is left, and return what was decided."""
        decisions = []
        for stage in self.stages:
            decisions.append(decide(stage, self.folder))
            if decisions[-1].step is not Step.NONE:
                perform(stage, self.folder, decisions[-1])
        return decisions

    def texts(self):
        return {name: file.read_text() for name, file in self.files.items()}


def steps(decisions):
    return [decision.step for decision in decisions]


# --- what is done again -------------------------------------------------------------------------


def test_stages_run_in_order_and_once(tmp_path):
    line = Line(tmp_path)
    assert steps(forecast(line.stages, tmp_path)) == [Step.START] * 3
    assert steps(line.go()) == [Step.START] * 3
    assert line.texts() == {LETTERS: "abc", WORDS: "ab", SHOUT: "ab!"}
    assert steps(line.go()) == steps(forecast(line.stages, tmp_path)) == [Step.NONE] * 3
    assert line.ran == [LETTERS, WORDS, SHOUT]


def test_state_tells_stage_options_and_checksums(tmp_path):
    Line(tmp_path).go()
    row = json.loads(state_file(tmp_path, SHOUT).read_text())
    assert (row["stage"], row["options"]) == (SHOUT, {"mark": "!"})
    assert [content["name"] for content in row["inputs"] + row["outputs"]] == [
        "words.txt",
        "shout.txt",
    ]
    assert {len(content["sha256"]) for content in row["inputs"] + row["outputs"]} == {64}


def test_changed_option_does_the_stage_and_no_other_again(tmp_path):
    Line(tmp_path).go()
    line = Line(tmp_path, mark="?")
    expected = Decision(Step.AGAIN, "`mark` was '!' and is '?'")
    assert forecast(line.stages, tmp_path)[2] == expected
    assert line.go()[2] == expected
    assert line.ran == [SHOUT]
    assert line.texts()[SHOUT] == "ab?"
    assert not (tmp_path / "earlier").exists()


def test_change_goes_as_far_as_it_shows(tmp_path):
    Line(tmp_path).go()
    other = Line(tmp_path, letters="xyz")
    assert steps(forecast(other.stages, tmp_path)) == [Step.AGAIN, Step.PERHAPS, Step.PERHAPS]
    assert [str(decision) for decision in other.go()] == [
        "again: `letters` was 'abc' and is 'xyz'",
        "again: letters.txt has changed",
        "again: words.txt has changed",
    ]
    same = Line(tmp_path, letters="xyq")
    assert steps(same.go()) == [Step.AGAIN, Step.AGAIN, Step.NONE]


def test_results_that_took_long_are_put_aside(tmp_path):
    for letters in ("abc", "xyz", "abc"):
        Line(tmp_path, letters).go()
    earlier = {p.parent.name: p.read_text() for p in (tmp_path / "earlier").rglob("*.txt")}
    assert earlier == {"letters-1": "abc", "letters-2": "xyz"}
    assert Line(tmp_path).texts()[LETTERS] == "abc"


def test_nothing_is_put_aside_where_nothing_is(tmp_path):
    put_aside(tmp_path / "none", tmp_path, "stage")
    assert not list(tmp_path.iterdir())


def test_more_of_the_same_is_added(tmp_path):
    Line(tmp_path).go()
    line = Line(tmp_path, letters="abcd")
    assert str(line.go()[0]) == "goes on: `letters` was 'abc' and is 'abcd'"
    assert line.texts()[LETTERS] == "abcd"
    assert not (tmp_path / "earlier").exists()


def test_changed_input_starts_anew_what_could_be_added_to(tmp_path):
    Line(tmp_path).go()
    (tmp_path / "source.txt").write_text("new")
    decision = Line(tmp_path, letters="abcd").go()[0]
    assert decision.step is Step.AGAIN
    assert decision.reason.endswith("; source.txt has changed")
    assert (tmp_path / "earlier/letters-1/letters.txt").exists()


def test_other_input_is_named(tmp_path):
    line = Line(tmp_path)
    line.go()
    (tmp_path / "other.txt").write_text("ab")
    stage = replace(line.stages[2], inputs=(tmp_path / "other.txt",))
    assert decide(stage, tmp_path).reason == "reads other.txt and no longer words.txt"


def test_same_content_elsewhere_is_the_same(tmp_path):
    Line(tmp_path / "a").go()
    (tmp_path / "a").rename(tmp_path / "b")
    assert steps(Line(tmp_path / "b").go()) == [Step.NONE] * 3


def test_result_that_is_gone_is_made_again(tmp_path):
    line = Line(tmp_path)
    line.go()
    line.files[WORDS].unlink()
    assert [str(decision) for decision in line.go()] == ["done", "again: words.txt is gone", "done"]


def test_result_that_somebody_changed_is_not_written_over(tmp_path):
    line = Line(tmp_path)
    line.go()
    line.files[WORDS].write_text("mine")
    for look in (lambda: forecast(line.stages, tmp_path), line.go):
        with pytest.raises(ValueError, match=r"what words made, but '.*words.txt' was changed"):
            look()
    assert line.files[WORDS].read_text() == "mine"


def test_file_of_somebody_else_is_not_written_over(tmp_path):
    line = Line(tmp_path)
    line.files[SHOUT].write_text("mine")
    with pytest.raises(ValueError, match=r"results that shout did not make, got '.*shout.txt'"):
        forecast(line.stages, tmp_path)
    assert line.ran == []


def test_store_that_is_there_is_for_the_stage_to_judge(tmp_path):
    line = Line(tmp_path)
    line.files[LETTERS].write_text("ab")
    assert str(line.go()[0]) == "goes on"
    assert line.texts()[LETTERS] == "abc"


def test_input_that_no_stage_makes_must_exist(tmp_path):
    line = Line(tmp_path)
    (tmp_path / "source.txt").unlink()
    with pytest.raises(ValueError, match=r"input of letters must exist, got '.*source.txt'"):
        forecast(line.stages, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"options": {}}', '{"options": 3, "inputs": []}'])
def test_state_that_cannot_be_read_is_named(tmp_path, text):
    line = Line(tmp_path)
    line.go()
    state_file(tmp_path, WORDS).write_text(text)
    with pytest.raises(DataError, match=r"words.json:1: "):
        forecast(line.stages, tmp_path)


def test_content_of_a_model_is_its_weights_and_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model in"):
        Content.of(tmp_path)
    (tmp_path / "model.safetensors").write_text("weights")
    (tmp_path / "generation_config.json").write_text("{}")
    before = Content.of(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    assert Content.of(tmp_path) == before
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5}')
    assert Content.of(tmp_path) != before


# --- interruptions ------------------------------------------------------------------------------

kills = st.sampled_from(
    [(LETTERS, 0), (LETTERS, 2), (WORDS, 0), (WORDS, 1), (SHOUT, 0), (SHOUT, 1)]
)


@settings(max_examples=40)
@given(st.lists(st.tuples(kills, st.sampled_from(["abc", "abcd", "xyz"])), max_size=5))
def test_interruptions_do_not_show(tmp_path_factory, runs):
    folder = tmp_path_factory.mktemp("runs")
    for kill, letters in runs:
        with suppress(KilledError):
            Line(folder / "disturbed", letters, kill=kill).go()
    for name in ("disturbed", "whole"):
        Line(folder / name).go()
    assert Line(folder / "disturbed").texts() == Line(folder / "whole").texts()
    again = Line(folder / "disturbed")
    assert steps(again.go()) == [Step.NONE] * 3


def test_interrupted_stage_goes_on(tmp_path):
    with pytest.raises(KilledError):
        Line(tmp_path, kill=(LETTERS, 2)).go()
    assert read_state(tmp_path, LETTERS).outputs is None
    line = Line(tmp_path)
    assert str(forecast(line.stages, tmp_path)[0]) == "goes on: was interrupted"
    line.go()
    assert line.texts()[LETTERS] == "abc"


def test_kill_while_putting_aside_loses_nothing(tmp_path, monkeypatch):
    Line(tmp_path).go()

    def die(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("agents.tuning.pipeline.write_state", die)
        with pytest.raises(KilledError):
            Line(tmp_path, letters="xyz").go()
    assert (tmp_path / "earlier/letters-1/letters.txt").read_text() == "abc"
    line = Line(tmp_path, letters="xyz")
    line.go()
    assert line.texts()[LETTERS] == "xyz"


# --- the file -----------------------------------------------------------------------------------

KNOWN = {"collect": ["policy", "noise"], "label": ["rule"], "card": []}


def recipe(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_recipe(file, KNOWN, several=("collect",))


def test_recipe_has_stages_in_their_order_with_lines(tmp_path):
    found = recipe(tmp_path, "card:\nlabel:\n  rule: agree\nout: runs/a\n\ncollect: {noise: 0.5}\n")
    assert str(found.out) == os.path.join("runs", "a")
    assert list(found.tables) == ["collect", "label", "card"]
    [table] = found.tables["label"]
    assert (table.line, table.settings["rule"].value, table.settings["rule"].line) == (
        2,
        "agree",
        3,
    )
    assert found.tables["card"][0].settings == {}


def test_stage_may_have_several_tables_where_that_is_allowed(tmp_path):
    found = recipe(tmp_path, "out: a\ncollect:\n- noise: 0\n-\n- noise: 1\n")
    assert [len(table.settings) for table in found.tables["collect"]] == [1, 0, 1]
    assert found.tables["collect"][2].line == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: a folder `out` and a table a stage were expected, got nothing"),
        ("- out: a\n", r":1: a folder `out` and a table a stage was expected, got \[\{'out'"),
        ("out: a\n", r":1: at least one stage must be wanted: collect, label, card"),
        ("label:\n", r":1: `out` is missing"),
        ("\nout: 3\nlabel:\n", r":2: `out` must be a text, got 3"),
        ("out: a\nlabel:\nfly:\n", r":3: unknown part: `fly`; known are out, collect, label, card"),
        ("out: a\nlabel:\n  rules: x\n", r":3: unknown option of label: `rules`; known are rule$"),
        ("out: a\nlabel: 3\n", r":2: a table of options of label was expected, got 3"),
        ("out: a\nlabel: []\n", r":2: a table of options of label was expected, got \[\]"),
        ("out: a\nlabel:\n- rule: x\n", r":3: a table of options of label was expected"),
        ("out: a\ncollect: []\n", r":2: a table of options of collect was expected, got \[\]"),
        (
            "out: a\nlabel:\n  rule: x\n  rule: y\n",
            r":4: `rule` must stand once, and stands in.* 3",
        ),
        ("out: a\nout: b\nlabel:\n", r":2: `out` must stand once, and stands in line 1"),
        ("out: a\nlabel:\n  3: x\n", r":3: `name` must be a text, got 3"),
        ("out: a\nlabel: {rule: [}\n", r":2: "),
        ("out: a\nlabel: {rule: !!python/name:os.system }\n", r":2: could not determine a constr"),
        ("out: a\nlabel: {rule: 2024-99-99}\n", r":2: "),
        ("out: a\n---\nlabel:\n", r":2: "),
        (b"\xff\xfe\x00", r":1: "),
        ("out: \x00", r":1: "),
    ],
)
def test_mistake_in_a_recipe_is_named_by_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=f"run.yaml{message}"):
        recipe(tmp_path, text)


@given(st.text(max_size=60))
def test_reading_any_text_gives_a_recipe_or_a_mistake(tmp_path_factory, text):
    with suppress(DataError):
        recipe(tmp_path_factory.mktemp("any"), text.encode("utf-8", "surrogatepass"))


@given(st.text("outlabel: {}[]-&*!|>'\"%@\n3#,?", max_size=40))
def test_reading_nearly_yaml_gives_a_recipe_or_a_mistake(tmp_path_factory, text):
    with suppress(DataError):
        recipe(tmp_path_factory.mktemp("any"), "out: a\n" + text)
