"""The report of a benchmark, and several of them as one."""

import json
import re
from dataclasses import replace

import pytest

from agents.bench.merging import merge, task_of
from agents.bench.reading import read_run
from agents.bench.report import write_report
from agents.bench.report_data import COLUMNS, report_blocks
from agents.cli.main import main

TWO = {"base": 0.4, "oracle": 1.0}


@pytest.fixture(scope="module")
def rows(bench):
    return bench["rows"](TWO)


@pytest.fixture
def folder(bench, rows, tmp_path):
    return bench["write"](tmp_path / "bench", rows)


def blocks_of(page):
    found = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', page)
    return {name: json.loads(text) for name, text in found}


def test_page_holds_every_episode_with_its_turns(folder, rows):
    write_report(folder)
    blocks = blocks_of((folder / "report.html").read_text())
    main_block = blocks["report"]
    assert len(main_block["episodes"]["rows"]) == len(rows)
    assert len(main_block["questions"]) == 12
    by_place = {}
    for values in main_block["episodes"]["rows"]:
        row = dict(zip(COLUMNS, values, strict=True))
        condition = main_block["conditions"][row["condition"]]
        question = main_block["questions"][row["question"]]
        turns = blocks[condition["block"]][row["place"]]
        key = (condition["agent"], condition["engine"], condition["noise"], question["id"])
        by_place[key] = (row["answer"], row["exact_match"], [turn[4] for turn in turns])
    for row in rows:
        c = row.condition
        found = by_place[c.agent, c.engine, c.noise, row.question_id]
        assert found == (row.answer, row.exact_match, [turn.observation for turn in row.turns])


def test_same_results_give_the_same_bytes(folder):
    write_report(folder)
    first = [(folder / name).read_bytes() for name in ("report.html", "report.md")]
    write_report(folder)
    assert [(folder / name).read_bytes() for name in ("report.html", "report.md")] == first


def test_markdown_has_a_line_for_each_condition_and_pair(folder):
    write_report(folder)
    page = (folder / "report.md").read_text()
    assert page.startswith("# Benchmark: miniwiki\n")
    assert "| oracle | ZeroSearch-v0 | simulator | 0.5 | 1.000 [" in page
    assert page.count("| base | oracle |") == 3
    assert "zerosearch bench miniwiki.yaml" in page


def test_markdown_tells_why_episodes_failed(bench, rows, tmp_path):
    errors = ["RuntimeError: <b>\u202e"] * 2 + ["not played after 3 failures in a row: OSError"]
    failed = [
        replace(row, exact_match=0.0, stop_reason="failed", error=error)
        for row, error in zip(rows, errors, strict=False)
    ]
    folder = bench["write"](tmp_path / "bench", [*failed, *rows[len(failed) :]])
    write_report(folder)
    page = (folder / "report.md").read_text()
    assert (
        "## Failed episodes\n\nThey count as wrong answers, for these reasons.\n\n"
        "- 2 × RuntimeError: \\<b\\>\\<U+202E\\>\n- 1 × OSError (1 of them not tried)\n"
    ) in page


def test_markdown_has_no_section_on_failures_where_nothing_failed(folder):
    write_report(folder)
    assert "Failed episodes" not in (folder / "report.md").read_text()


def test_hostile_text_stays_text_in_markdown(bench, tmp_path):
    name = "<b>|`x`*\u202e"
    folder = bench["write"](tmp_path / "bench", bench["rows"]({name: 0.5}))
    write_report(folder)
    page = (folder / "report.md").read_text()
    assert "| \\<b\\>\\|\\`x\\`\\*\\<U+202E\\> |" in page
    assert "\u202e" not in page


def test_episodes_that_the_results_do_not_count_are_not_shown(bench, rows, tmp_path):
    more = [*rows, *bench["rows"]({"gone": 0.1})]
    folder = bench["write"](tmp_path / "bench", more, bench["results"](rows))
    run = read_run(folder)
    assert len(run.episodes) == len(rows)
    [note] = report_blocks(run)["report"]["notes"]
    assert note.startswith("The results count 72 episodes, and the folder holds 108")


def test_missing_files_and_damaged_ones_are_named(folder):
    results = folder / "results.json"
    text = results.read_text()
    results.write_text('{"benchmark": "x"}')
    with pytest.raises(ValueError, match=r"results\.json must hold 'config', got benchmark"):
        read_run(folder)
    results.write_text("{")
    with pytest.raises(ValueError, match=r"results\.json must hold JSON"):
        read_run(folder)
    results.write_text(text)
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"agent": "x"}\n')
    with pytest.raises(ValueError, match=r"episodes\.jsonl.*73"):
        read_run(folder)
    results.unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no results\.json"):
        read_run(folder)


# --- leaderboards -------------------------------------------------------------------------------


def run_of(bench, tmp_path, name, agents, places=(("simulator", 0.0), ("bm25", 0.0)), **kwargs):
    made = bench["rows"](agents, places, **kwargs)
    return read_run(bench["write"](tmp_path / name, made))


def test_agents_of_all_runs_are_compared_on_the_same_questions(bench, tmp_path):
    one = run_of(bench, tmp_path, "one", TWO)
    other = run_of(bench, tmp_path, "other", {"grpo": 0.8})
    merged = merge([one, other])
    results = merged.results
    assert {each["agent"] for each in results["conditions"]} == {"base", "oracle", "grpo"}
    pairs = {(each["agent_a"], each["agent_b"]) for each in results["comparisons"]}
    assert pairs == {("base", "oracle"), ("base", "grpo"), ("oracle", "grpo")}
    assert all(each["num_pairs"] == 12 for each in results["comparisons"])
    assert [each["name"] for each in results["runs"]] == ["one", "other"]
    assert merged.notes == ()


def test_agents_of_one_name_are_told_apart(bench, tmp_path):
    runs = [run_of(bench, tmp_path, name, {"base": 0.4}) for name in ("one", "other")]
    found = {each["agent"] for each in merge(runs).results["conditions"]}
    assert found == {"base (one)", "base (other)"}
    found = {each["agent"] for each in merge([runs[0], runs[0]]).results["conditions"]}
    assert found == {"base (one)", "base (one #2)"}
    named = run_of(bench, tmp_path, "named", {"base (one)": 0.4, "base (other)": 0.6})
    found = {each["agent"] for each in merge([named, *runs]).results["conditions"]}
    assert found == {"base (one)", "base (other)", "base (one) #2", "base (other) #2"}
    numbered = run_of(bench, tmp_path, "one #2", {"base": 0.4})
    merged = merge([runs[0], runs[0], numbered]).results
    assert [each["name"] for each in merged["runs"]] == ["one", "one #2", "one #2 #2"]
    assert len({each["agent"] for each in merged["conditions"]}) == 3


def test_engine_that_is_another_by_the_same_name_is_left_out(bench, tmp_path):
    one, other, old = (run_of(bench, tmp_path, name, {name: 0.5}) for name in ("a", "b", "old"))
    for run, checksum in ((one, "1"), (other, "2")):
        run.results["provenance"]["engines_sha256"] = {"simulator": [checksum]}
    merged = merge([one, other])
    assert {each["engine"] for each in merged.results["conditions"]} == {"bm25"}
    assert merged.notes == (
        "Left out: simulator at noise 0 in ZeroSearch-v0, for the engine's files differ between "
        "a and b.",
    )
    assert len(merge([one, old]).results["conditions"]) == 4  # nothing is known of the old one's
    board = replace(merge([one, old]), name="board")
    episodes = tuple(row for row in other.episodes if task_of(row).engine == "simulator")
    with pytest.raises(ValueError, match="the engine's files differ between board and b"):
        merge([board, replace(other, episodes=episodes)])


def test_condition_that_not_all_runs_have_is_left_out_and_told(bench, tmp_path):
    one = run_of(bench, tmp_path, "one", TWO)
    other = run_of(
        bench, tmp_path, "other", {"grpo": 0.8}, (("simulator", 0.0), ("simulator", 0.5))
    )
    merged = merge([one, other])
    assert {(e["engine"], e["noise"]) for e in merged.results["conditions"]} == {("simulator", 0.0)}
    assert set(merged.notes) == {
        "Left out: bm25 at noise 0 in ZeroSearch-v0, which only one has.",
        "Left out: simulator at noise 0.5 in ZeroSearch-v0, which only other has.",
    }


def test_runs_that_asked_other_questions_are_not_paired(bench, tmp_path):
    one = run_of(bench, tmp_path, "one", TWO)
    fewer = run_of(bench, tmp_path, "fewer", {"grpo": 0.8}, num=9)
    with pytest.raises(ValueError, match="12 in one, 9 in fewer, of which 9 are the same"):
        merge([one, fewer])
    seeded = run_of(bench, tmp_path, "seeded", {"grpo": 0.8}, seed=1)
    with pytest.raises(ValueError, match="for the seeds differ between one and seeded"):
        merge([one, seeded])
    changed = replace(one, episodes=tuple(replace(r, golden_answers=("x",)) for r in one.episodes))
    with pytest.raises(ValueError, match="of which 0 are the same"):
        merge([one, changed])


def test_settings_that_differ_are_told(bench, tmp_path):
    one, other = (run_of(bench, tmp_path, name, {name: 0.5}) for name in ("one", "other"))
    other.results["config"]["max_turns"] = 9
    other.results["provenance"]["versions"]["torch"] = "3"
    assert merge([one, other]).notes == (
        "Differs: max_turns is 4 in one, 9 in other.",
        'Differs: versions.torch is null in one, "3" in other.',
    )


def test_command_writes_a_leaderboard_that_is_a_benchmark_itself(bench, tmp_path, capsys):
    for name, agents in (("one", TWO), ("other", {"grpo": 0.8})):
        run_of(bench, tmp_path, name, agents)
    folders = [str(tmp_path / name) for name in ("one", "other")]
    out = tmp_path / "board"
    assert main(["report", *folders, "--compare", "--out", str(out)]) == 0
    assert "leaderboard: " in capsys.readouterr().out
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert blocks_of(page)["report"]["title"] == "Leaderboard: miniwiki"
    assert main(["report", *folders, "--compare", "--out", str(out)]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--compare alone"),
        (["--out", "{one}"], "which holds a benchmark"),
    ],
)
def test_leaderboard_overwrites_no_benchmark(bench, tmp_path, capsys, options, message):
    for name in ("one", "other"):
        run_of(bench, tmp_path, name, {name: 0.5})
    one, other = (str(tmp_path / name) for name in ("one", "other"))
    given = [each.format(one=one) for each in options]
    assert main(["report", one, other, "--compare", *given]) == 2
    assert message in capsys.readouterr().err


def test_one_benchmark_is_no_comparison(bench, tmp_path, capsys):
    run_of(bench, tmp_path, "one", {"base": 0.5})
    one = str(tmp_path / "one")
    assert main(["report", one, one, "--compare", "--out", str(tmp_path / "x")]) == 2
    assert "`folders` must name two benchmarks" in capsys.readouterr().err
