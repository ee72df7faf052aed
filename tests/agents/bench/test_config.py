"""Files that describe a benchmark, and what is said of those that do not."""

import json
from pathlib import Path

import pytest

from agents.bench.config import BenchConfig, read_config
from agents.bench.engines import EngineKind, engine_kind, engine_sources, writes_noise
from agents.bench.plan import conditions, missing_chunks
from agents.tuning.records import DataError
from zs_env.models import model_folder

ROOT = Path(__file__).parents[3]
SMALL = {"agents": ["random"], "engines": ["world"], "num_questions": 3}


def write(folder, **values):
    file = folder / "bench.yaml"
    file.write_text(json.dumps(SMALL | values))  # JSON is YAML
    return file


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A folder in which runs/demo is what `zerosearch demo` leaves: a policy."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(model_folder("base"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "benchmarks").glob("*.yaml")))
def test_examples_can_be_read(file, demo):
    config = read_config(file)
    assert config.num_questions in (200, 500)
    assert config.seeds == (0,)


def test_miniwiki_example_is_what_the_docs_say(demo):
    config = read_config(ROOT / "examples" / "benchmarks" / "miniwiki.yaml")
    names = "random direct cot rag scripted oracle base skill grpo".split()
    assert list(config.agents) == names
    assert config.agents["grpo"] == "runs/demo"
    played = {(each.engine, each.noise) for each in conditions(config)}
    assert played == {*(("simulator", p) for p in (0, 0.25, 0.5, 0.75)), ("bm25", 0.0)}
    assert len(config.load_questions()) == 200
    shipped = read_config(ROOT / "examples" / "benchmarks" / "miniwiki-shipped.yaml")
    assert list(shipped.agents) == names[:-1]


def test_example_that_needs_a_trained_agent_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"miniwiki.yaml:5: .*`zerosearch demo` leaves one in runs"):
        read_config(ROOT / "examples" / "benchmarks" / "miniwiki.yaml")


def test_paper_example_asks_500_questions_of_each_set():
    config = read_config(ROOT / "examples" / "benchmarks" / "paper.yaml")
    assert config.questions == (
        *("nq", "triviaqa", "popqa", "hotpotqa", "2wiki", "musique", "bamboogle"),
    )
    assert config.num_questions == 500


def test_agents_have_labels_of_their_own(tmp_path):
    config = read_config(write(tmp_path, agents=["random", {"mine": "rag:skill", "b": "base"}]))
    assert config.agents == {"random": "random", "mine": "rag:skill", "b": "base"}


def test_single_values_are_lists_of_one(tmp_path):
    config = read_config(write(tmp_path, agents="oracle", engines="bm25", noise=0.25, seeds=3))
    assert (config.agents, config.engines) == ({"oracle": "oracle"}, ("bm25",))
    assert (config.noise, config.seeds) == ((0.25,), (3,))


def test_every_set_is_sampled_alike_whatever_is_beside_it(tmp_path):
    for name in ("one", "two"):
        rows = ({"id": i, "question": f"{name} {i}?", "answers": ["x"]} for i in range(9))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]

    def asked(*names, **values):
        found = read_config(write(tmp_path, questions=list(names), **values)).load_questions()
        return [(each.data_source, each.id) for each in found]

    assert asked(*files) == asked(files[0]) + asked(files[1])
    assert len(asked(*files)) == 6
    assert asked(*files) == asked(*files, question_seed=0) != asked(*files, question_seed=1)
    assert len(asked(*files, num_questions=0)) == 18


def test_sets_that_cannot_be_told_apart_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text('{"question": "Who?", "answers": ["x"]}')
    files = [str(tmp_path / name / "test.jsonl") for name in ("a", "b")]
    config = read_config(write(tmp_path, questions=files))
    with pytest.raises(ValueError, match="`questions` must have distinct ids, got '1' twice"):
        config.load_questions()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"agents": ["fly"]}, "`agent` must be .*got 'fly'"),
        ({"agents": []}, r"`agents` must not be empty, got \{\}"),
        (
            {"agents": [{" ": "base"}]},
            "`agents` must hold names, or label: name, got {' ': 'base'}",
        ),
        ({"agents": [3]}, "`agents` must hold names, or label: name, got 3"),
        ({"agents": ["base", {"base": "skill"}]}, "`agents` must differ, got 'base' twice"),
        ({"engines": ["google"]}, "`engine` must be .*got 'google'"),
        ({"engines": ["world", "world"]}, "`engines` must differ"),
        ({"environments": ["Foo-v0"]}, "Foo"),
        ({"environments": ["ZeroSearchMacro-v0"]}, "`environments` must be text environments"),
        ({"noise": [1.5]}, r"`noise` must be a probability in \[0, 1\], got 1.5"),
        ({"noise": ["a"]}, "`noise` must be a list of numbers, got 'a'"),
        ({"seeds": [-1]}, "`seeds` must be at least 0, got -1"),
        ({"seeds": [True]}, "`seeds` must be a list of integers, got True"),
        ({"num_questions": -1}, "`num_questions` must be at least 0, got -1"),
        ({"num_questions": "all"}, "`num_questions` must be an integer, got 'all'"),
        ({"questions": ["none.jsonl"]}, "`questions` must be .* got 'none.jsonl'"),
        ({"split": "dev"}, "`split` must be one of train, validation, test, got 'dev'"),
        ({"max_turns": 0}, "`max_turns` must be an integer of at least 1, got 0"),
        ({"prompt": "hm"}, "`prompt` must be .* got 'hm'"),
        ({"temperature": -1}, "`temperature` must be at least 0, got -1"),
        ({"temperature": float("nan")}, "`temperature` must be at least 0, got nan"),
        ({"temperature": float("inf")}, "`temperature` must be finite, got inf"),
        ({"noise": [float("nan")]}, r"`noise` must be a probability in \[0, 1\], got nan"),
        ({"noise": [-0.0, 0]}, "`noise` must differ"),
        ({"engines": []}, r"`engines` must not be empty, got \[\]"),
        ({"speed": 9}, "unknown option of bench: `speed`; known are agents, engines"),
    ],
)
def test_mistakes_name_file_line_and_key(tmp_path, values, message):
    text = "\n".join(f"{name}: {json.dumps(value)}" for name, value in (SMALL | values).items())
    lines = text.replace("NaN", ".nan").replace("Infinity", ".inf").splitlines()
    file = tmp_path / "bench.yaml"
    file.write_text("\n".join(lines))
    number = next(n for n, line in enumerate(lines, 1) if line.startswith(next(iter(values))))
    with pytest.raises(DataError, match=message) as caught:
        read_config(file)
    assert str(caught.value).startswith(f"{file}:{number}: ")


def test_agent_named_twice_in_one_table_is_told(tmp_path):
    """YAML alone would keep the last one, and drop the other without a word."""
    file = tmp_path / "bench.yaml"
    file.write_text("num_questions: 3\nengines: world\nagents:\n  a: random\n  a: oracle\n")
    with pytest.raises(DataError, match=r"yaml:3: `a` must stand once, and stands in line 4"):
        read_config(file)


@pytest.mark.parametrize("name", SMALL)
def test_what_must_be_there_is_asked_for(tmp_path, name):
    file = tmp_path / "bench.yaml"
    file.write_text(json.dumps({key: value for key, value in SMALL.items() if key != name}))
    with pytest.raises(DataError, match=rf"bench.yaml:1: `{name}` is missing"):
        read_config(file)


@pytest.mark.parametrize(
    ("name", "kind", "noise"),
    [
        ("simulator", EngineKind.SIMULATOR, True),
        ("simulator:http://h/v1#m", EngineKind.SIMULATOR, True),
        ("vllm:folder", EngineKind.SIMULATOR, True),
        ("bm25", EngineKind.REAL, False),
        ("retriever:http://h", EngineKind.REAL, False),
        ("serper:google", EngineKind.REAL, False),
        ("empty", EngineKind.EMPTY, False),
        ("world", EngineKind.EXACT, True),
        ("my.module:engine", EngineKind.OWN, True),
        ("cached:f.sqlite#bm25", EngineKind.REAL, False),
        ("cached:f.sqlite?mode=replay#simulator-tiny", EngineKind.SIMULATOR, True),
    ],
)
def test_engines_are_told_apart(name, kind, noise):
    assert (engine_kind(name), writes_noise(name)) == (kind, noise)


def test_files_and_models_that_engines_are_made_of_are_found(tmp_path):
    corpus, folder = tmp_path / "c.jsonl", model_folder("simulator-tiny")
    corpus.touch()
    for name, sources in (
        (f"bm25:{corpus}?k1=1.2", [corpus]),
        (f"dense:{corpus}?model={folder}", [corpus, folder]),
        (f"simulator:{folder}", [folder]),
        ("simulator-tiny", [folder]),
        ("simulator:http://h/v1#m", []),
        ("simulator:some/hub-id", []),
        ("world", []),
        ("my.module:engine", []),
    ):
        assert list(engine_sources(name)) == sources


def make_config(**values):
    return BenchConfig(**({"agents": {"random": "random"}, "num_questions": 5} | values))


def test_engines_that_take_no_noise_play_without_it_once():
    config = make_config(engines=("world", "bm25"), noise=(0.25, 0.5), seeds=(0, 1))
    found = [(each.engine, each.noise, each.seed) for each in conditions(config)]
    assert found == [
        *(("world", noise, seed) for noise in (0.25, 0.5) for seed in (0, 1)),
        *(("bm25", 0.0, seed) for seed in (0, 1)),
    ]


def test_chunks_hold_every_question_once_and_do_not_close_up():
    config = make_config(engines=("world",))
    questions = read_questions(7)
    chunks = list(missing_chunks(config, questions, (), 3))
    assert [[q.id for q in chunk.questions] for chunk in chunks] == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6"],
    ]
    done = {chunks[0].keys[1], *chunks[1].keys}
    left = list(missing_chunks(config, questions, done, 3))
    assert [[q.id for q in chunk.questions] for chunk in left] == [["0", "2"], ["6"]]


def read_questions(num):
    from zs_env.task.questions import Question

    return [Question(str(index), f"Who is {index}?", ("x",)) for index in range(num)]
