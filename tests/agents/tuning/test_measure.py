"""Measuring simulators: one that is perfect, one that cheats, and the one that ships."""

import dataclasses
import json
from pathlib import Path

import pytest

from agents.tuning.matching import Match
from agents.tuning.measure import MeasureOptions, measure_simulator
from agents.tuning.measure_labelled import choose, measure_labelled, num_asked, read_held_out
from agents.tuning.records import DataError
from agents.tuning.replies import ask
from agents.tuning.report import Rate
from agents.tuning.requests import NOISE_SORTS, Sort
from zs_env.search.bm25 import BM25SearchEngine
from zs_env.search.empty import EmptySearchEngine
from zs_env.search.engine import Document, SearchRequest
from zs_env.search.registry import make_engine
from zs_env.search.simulator import SimulatedSearchEngine
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

WORLD = default_world()
OPTIONS = MeasureOptions(num_requests=80)


class Cheat:
    """Gives the answer of the question away, whatever is asked."""

    def search(self, requests):
        return [
            [Document(f"The answer is {request.golden_answers[0]}.")] * request.top_k
            for request in requests
        ]


class Parrot:
    """A language model that always writes the same."""

    def __init__(self, reply):
        self.reply = reply

    def complete(self, prompts, seeds, params):
        return [self.reply] * len(prompts)


@pytest.fixture(scope="module")
def perfect():
    return measure_simulator(WorldSearchEngine(WORLD), OPTIONS, WORLD)


@pytest.fixture(scope="module")
def cheat():
    return measure_simulator(Cheat(), OPTIONS, WORLD)


def test_perfect_engine_has_no_fault(perfect):
    for name in ("parsed", "parsed_all", "useful_hit", "bridge_hit", "on_topic", "noisy_relation"):
        assert perfect.rate(name).value == 1, name
    for name in ("verbatim", "readable", "true"):
        assert perfect.rate(f"useful_{name}").value == perfect.rate(f"noisy_{name}").value == 1
    for name in ("repeated", "noisy_leak", "noisy_leak_alias", "garbage_cheat"):
        assert perfect.rate(name).value == 0, name
    assert perfect.rate("parsed_all").count == OPTIONS.num_requests * (len(Sort) - 1)
    without = (Sort.EMPTY, Sort.PARTIAL, Sort.GARBAGE)
    assert perfect.rate("parsed").count == OPTIONS.num_requests * (len(Sort) - len(without))


@pytest.mark.parametrize("sort", [Sort.USEFUL, *NOISE_SORTS])
def test_perfect_engine_obeys(perfect, sort):
    found = perfect.confusion[sort.value]
    assert sum(found.values()) == OPTIONS.num_requests
    # A name may look alike within its split, but not so much among all names, which are searched.
    least = 0.9 if sort is Sort.IRRELEVANT else 1
    # Noise of no kind in particular is about somebody else, whose name may look alike.
    kinds = (Sort.IRRELEVANT, Sort.NEAR_MISS) if sort is Sort.PLAIN else (sort,)
    assert sum(found[kind.value] for kind in kinds) >= least * OPTIONS.num_requests


def test_perfect_engine_leaks_no_kind_of_noise(perfect):
    assert set(perfect.leaks) == {sort.value for sort in NOISE_SORTS}
    for rates in perfect.leaks.values():
        assert rates["exact"].value == rates["alias"].value == 0
        assert rates["fuzzy"].value <= 0.05


def test_cheat_is_caught(cheat):
    for name in ("off_topic_cheat", "garbage_cheat", "somebody_else_cheat", "bridge_cheat"):
        assert cheat.rate(name).value == 1, name
        assert cheat.shares[name].real.value < 0.1, name
    assert cheat.rate("answer_leak").value == 1
    assert cheat.rate("useful_hit").value == 0
    assert cheat.rate("on_topic").value < 0.1  # the answer to a comparison is whom it is about
    assert cheat.rate("repeated").value == 1
    assert cheat.rate("parsed").value == 0
    assert cheat.rate("useful_readable").value == cheat.rate("useful_verbatim").value == 0


def test_engine_that_ignores_noise_leaks_and_is_its_own_yardstick():
    report = measure_simulator(BM25SearchEngine(WORLD.passages), OPTIONS, WORLD)
    assert report.rate("noisy_leak").value > 0.9
    assert report.confusion["plain noise"]["useful"] > 0.9 * OPTIONS.num_requests
    for name in ("useful_hit", "relevance", "off_topic_cheat", "bridge_cheat"):
        assert report.shares[name].real == report.rate(name)
    assert report.scores["style_distance"].value == pytest.approx(0, abs=1e-12)
    assert report.scores["style_distance"].real > 0.1
    assert report.rate("self_overlap_useful").value == 1


def test_empty_engine_finds_nothing():
    report = measure_simulator(EmptySearchEngine(), MeasureOptions(10), WORLD)
    names = ("parsed", "parsed_all", "useful_hit", "noisy_leak", "relevance", "off_topic_cheat")
    for name in names:
        assert report.rate(name).value == 0
    assert report.rate("useful_true").count == 0
    assert report.confusion["useful"]["empty"] == report.confusion["empty"]["empty"] == 10
    assert report.scores["style_distance"].value == 1


def test_what_a_model_writes_is_looked_at_before_it_is_cleaned():
    engine = SimulatedSearchEngine(Parrot("Doc 1: a\nDoc 2: b\nDoc 3: a"))
    report = measure_simulator(engine, MeasureOptions(4), WORLD)
    assert report.rate("repeated").value == report.rate("well_formed").value == 1
    assert report.rate("parsed").value == 0
    engine = SimulatedSearchEngine(Parrot("Here you are. Doc 1: a Doc 2: b"))
    report = measure_simulator(engine, MeasureOptions(4), WORLD)
    assert report.rate("repeated").value == report.rate("well_formed").value == 0


def test_engine_that_is_no_model_has_nothing_to_say_about_form(perfect):
    assert perfect.rate("well_formed").count == 0
    assert perfect.speed.num_tokens is None


def test_same_seed_measures_the_same():
    engine = make_engine("simulator")
    options = MeasureOptions(num_requests=2, seed=3)
    first, second = (measure_simulator(engine, options).as_json() for _ in range(2))
    assert first.pop("speed")["num_requests"] == second.pop("speed")["num_requests"]
    assert first == second


def test_progress_adds_up():
    asked = []
    measure_simulator(EmptySearchEngine(), OPTIONS, WORLD, asked.append)
    assert sum(asked) == OPTIONS.num_asked


def test_shipped_simulator_is_good_enough():
    report = measure_simulator(make_engine("simulator"), MeasureOptions(num_requests=25))
    assert report.rate("useful_hit").value >= 0.8
    assert report.rate("on_topic").value >= 0.8
    assert report.rate("noisy_leak").value <= 0.25
    assert report.rate("somebody_else_cheat").value <= 0.2
    assert report.rate("bridge_cheat").value <= 0.2
    assert report.scores["style_distance"].value < report.scores["style_distance"].real
    assert report.speed.num_tokens > 0


def test_report_is_json(perfect):
    value = json.loads(json.dumps(perfect.as_json()))
    assert value["rates"]["useful_hit"]["value"] == 1
    assert value["rates"]["useful_hit"]["real"]["count"] == OPTIONS.num_requests
    assert value["rates"]["noisy_leak"]["real"] is None
    assert list(value["leaks"]["empty"]) == [match.value for match in Match]


def test_rate_of_nothing_says_nothing():
    assert Rate.of([]) == Rate(0.0, 0.0, 1.0, 0)
    assert Rate.of([True, False]).value == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_requests": 0}, "`num_requests` must be at least 1, got 0"),
        ({"threshold": 0.0}, r"`threshold` must be in \(0, 1\], got 0.0"),
        ({"threshold": 1.5}, r"`threshold` must be in \(0, 1\], got 1.5"),
    ],
)
def test_bad_option_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeasureOptions(**arguments)


# --- labelled searches --------------------------------------------------------------------------


def labelled(number, label="useful", split="test"):
    answer = f"Answer{number}"
    text = f"It was {answer} in the year." if label == "useful" else "It was somebody."
    return {
        "id": str(number),
        "data_source": "made up",
        "question": f"Who was it in case {number}?",
        "golden_answers": [answer, f"Alias{number}"],
        "query": f"who was it {number}",
        "documents": [{"title": f"Case {number}", "text": text}, {"title": "", "text": "More."}],
        "label": label,
        "outcome": None,
        "evidence": None,
        "split": split,
    }


@pytest.fixture
def file(tmp_path: Path):
    rows = [labelled(i, "useful" if i % 2 else "noisy") for i in range(40)]
    rows.append(labelled(99, split="train"))
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Replay:
    """Returns what was found, whatever the question."""

    def __init__(self, rows):
        self.found = {row.request.query: list(row.documents) for row in rows}

    def search(self, requests):
        return [self.found[request.query] for request in requests]


def test_real_documents_are_their_own_yardstick(file):
    rows = read_held_out(file, "test")
    report = measure_labelled(Replay(rows), rows, OPTIONS)
    for name in ("useful_hit", "answerable_hit", "parsed"):
        assert report.rate(name).value == 1, name
    for name in ("noisy_leak", "off_topic_cheat", "repeated"):
        assert report.rate(name).value == 0, name
    assert report.shares["relevance"].real == report.rate("relevance")
    assert report.scores["style_distance"].value == pytest.approx(0, abs=1e-12)
    assert report.shares["well_formed"].real is None
    assert not report.confusion


def test_cheat_is_caught_on_labelled_searches(file):
    report = measure_labelled(Cheat(), read_held_out(file, "test"), OPTIONS)
    assert report.rate("off_topic_cheat").value == report.rate("noisy_leak").value == 1
    assert report.shares["off_topic_cheat"].real.value == 0
    assert report.rate("useful_hit").value == 1


def test_off_topic_searches_ask_the_query_of_another_question(file):
    chosen = choose(read_held_out(file, "test"), OPTIONS)
    for row in chosen[Sort.SOMEBODY_ELSE]:
        number = row.request.query.split()[-1]
        assert f"case {number}?" not in row.request.question
        assert not row.request.noisy
    assert len(chosen[Sort.USEFUL]) == len(chosen[Sort.PLAIN]) == 20


def test_progress_adds_up_on_labelled_searches(file):
    asked = []
    rows, options = read_held_out(file, "test"), MeasureOptions(num_requests=8)
    measure_labelled(EmptySearchEngine(), rows, options, asked.append)
    assert sum(asked) == num_asked(rows, options) == 8 * 3 + 4 * 2


def test_answers_that_tell_nothing_are_left_out(file):
    [row, *_] = [row for row in read_held_out(file, "test") if not row.request.noisy]
    request = dataclasses.replace(row.request, golden_answers=("yes",))
    report = measure_labelled(Cheat(), [dataclasses.replace(row, request=request)], OPTIONS)
    assert report.rate("useful_hit").count == 0
    assert report.rate("parsed").count == 1


def test_split_without_rows_is_refused(file):
    with pytest.raises(ValueError, match=r"`split` must be one that .* has rows of, got 'valid"):
        read_held_out(file, "validation")


def test_line_that_is_no_labelled_search_is_named(file):
    with file.open("a") as out:
        out.write(json.dumps(labelled(7) | {"label": "maybe"}) + "\n")
    with pytest.raises(DataError, match=r"labelled.jsonl:42: `label` must be one of"):
        read_held_out(file, "test")


def test_asking_keeps_the_raw_reply_of_a_model_only():
    [reply] = ask(SimulatedSearchEngine(Parrot("Doc 1: a")), [SearchRequest("q")])
    assert (reply.raw, reply.texts, reply.is_well_formed) == ("Doc 1: a", ("a",), True)
    [reply] = ask(EmptySearchEngine(), [SearchRequest("q")])
    assert (reply.raw, reply.texts, reply.is_well_formed) == (None, (), None)
