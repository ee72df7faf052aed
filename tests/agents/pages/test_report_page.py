"""The report in a real browser."""

from dataclasses import replace

import pytest

from agents.bench.merging import write_leaderboard
from agents.bench.reading import read_run
from agents.bench.report import write_report

ANSWERS = ".turn .said"


@pytest.fixture(scope="module")
def page(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages") / "bench"
    bench["write"](folder, bench["rows"](bench["skills"], num=15))
    write_report(folder)
    return folder / "report.html"


def column(browser, table, name):
    """Return the cells of a column as they stand."""
    heads = browser.texts(f"{table} thead th")
    return browser.texts(f"{table} tbody td:nth-child({heads.index(name) + 1})")


def click_head(browser, table, name):
    heads = browser.texts(f"{table} thead th")
    number = heads.index(name) + 1
    browser.click(f"{table} thead th:nth-child({number}) button")
    return browser.run(
        f"document.querySelector('{table} thead th:nth-child({number})').getAttribute('aria-sort')"
    )


def values(cells):
    return [float(cell.split(" ")[0].replace("−", "-")) for cell in cells]


def test_page_opens_without_a_complaint_and_asks_nobody(browser, page):
    browser.open(page)
    assert browser.mistakes() == []
    asked = browser.run("performance.getEntriesByType('resource').map(each => each.name)")
    assert asked == []
    assert browser.texts("#title") == ["Benchmark: miniwiki"]
    assert "6 agents · 18 conditions · 15 questions · 270 episodes" in browser.texts("#summary")[0]


def test_headline_figures_come_first_and_are_drawn(browser, page):
    browser.open(page)
    titles = browser.texts("#headline-figures h3")
    assert titles == ["Noise robustness: exact match against p", "Simulator-to-real gap"]
    labels = browser.run(
        "[...document.querySelectorAll('#headline-figures svg[role=img]')]"
        ".map(each => each.ariaLabel)"
    )
    assert labels == [
        "Exact match against the probability of noisy documents, simulator",
        "Simulator-to-real gap by agent",
    ]
    lines = browser.run(
        "document.querySelectorAll('#headline-figures figure:first-child .plot path.line').length"
    )
    assert lines == 6
    areas = values(column(browser, "#headline-figures figure:first-child table", "Area"))
    assert areas == sorted(areas, reverse=True)
    tops = browser.run(
        "['headline-figures', 'conditions', 'episodes']"
        ".map(each => document.getElementById(each).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)


def test_series_differ_however_many_there_are(browser, page):
    browser.open(page)
    lines = "[...Array(32).keys()].map(n => `${n % 8} ${dashes(n)}`)"
    assert browser.run(f"new Set({lines}).size") == 32
    marks = "[...Array(9).keys()].map(n => `${n % 8} ${mark(n, 0, 0).outerHTML}`)"
    assert browser.run(f"new Set({marks}).size") == 9


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(-0.08, 0.03, [-0.08, -0.06, -0.04, -0.02, 0, 0.02]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_axis_has_round_numbers_and_zero_itself(browser, page, low, high, expected):
    browser.open(page)
    assert browser.run(f"ticks({low}, {high}, 6)") == expected


def test_clicking_a_column_sorts_it_up_and_down(browser, page):
    browser.open(page)
    assert click_head(browser, "#conditions", "EM") == "descending"
    down = values(column(browser, "#conditions", "EM"))
    assert down == sorted(down, reverse=True)
    assert len(set(down)) > 3
    assert click_head(browser, "#conditions", "EM") == "ascending"
    assert values(column(browser, "#conditions", "EM")) == sorted(down)
    assert click_head(browser, "#conditions", "Tokens") == "descending"
    # What is not known stands last in either direction.
    assert column(browser, "#conditions", "Tokens")[-3:] == ["–"] * 3


def test_column_sorts_from_the_keyboard(browser, page):
    browser.open(page)
    browser.run("document.querySelector('#episodes thead th:nth-child(2) button').focus()")
    browser.press("Enter")
    found = browser.texts("#episodes button.open")
    assert found == sorted(found)
    browser.press(" ", "Space")
    back = browser.texts("#episodes button.open")
    assert back[0] > found[0]


def test_filters_leave_what_they_say(browser, page):
    browser.open(page)
    browser.choose("#filter-agent", "grpo")
    browser.choose("#filter-engine", "simulator")
    browser.choose("#filter-noise", "0.5")
    assert column(browser, "#conditions", "Agent") == [
        "grposimulator · p = 0.5".replace(" = ", "\xa0=\xa0")
    ]
    assert set(column(browser, "#episodes", "Agent")) == {"grpo"}
    assert browser.texts("#count")[0].startswith("15 of 270 episodes")
    pairs = list(
        zip(column(browser, "#comparisons", "A"), column(browser, "#comparisons", "B"), strict=True)
    )
    assert len(pairs) == 5
    assert all("grpo" in first + second for first, second in pairs)
    browser.choose("#filter-outcome", "wrong")
    wrong = column(browser, "#episodes", "Outcome")
    assert set(wrong) == {"✗ wrong"}
    browser.choose("#filter-outcome", "right")
    assert len(column(browser, "#episodes", "Outcome")) == 15 - len(wrong)


def test_text_is_found_in_questions_and_in_documents(browser, page):
    browser.open(page)
    question = browser.texts("#episodes button.open")[0]
    for text, at_least in ((question.upper(), 18), ("no such text anywhere", 0)):
        browser.run(
            "{ const box = document.querySelector('#filter-text'); box.focus(); box.select() }"
        )
        browser.type(text)
        browser.run("new Promise(done => setTimeout(done, 400))")
        assert int(browser.texts("#count")[0].split(" ")[0]) == at_least
    assert browser.texts("#page") == ["page 1 of 1"]


def test_pages_of_episodes_are_turned(browser, page):
    browser.open(page)
    first = browser.texts("#episodes tbody tr")
    assert len(first) == 50
    browser.click("#page-on")
    assert browser.texts("#page") == ["page 2 of 6"]
    assert browser.texts("#episodes tbody tr") != first
    browser.click("#page-back")
    assert browser.texts("#episodes tbody tr") == first


def test_transcript_is_one_click_away_with_documents_and_golden_answers(browser, page):
    browser.open(page)
    browser.choose("#filter-agent", "rag")
    browser.choose("#filter-noise", "0.5")
    question = browser.texts("#episodes button.open")[0]
    browser.click("#episodes button.open")
    assert browser.run("document.querySelector('dialog').open")
    assert browser.texts("#transcript-question") == [question]
    facts = dict(zip(browser.texts("dl.facts dt"), browser.texts("dl.facts dd"), strict=True))
    assert facts["Golden answers" if "Golden answers" in facts else "Golden answer"]
    assert browser.texts(".turn .head strong") == ["Turn 1", "Turn 2"]
    assert browser.texts(".turn .came .document")[0] == "Doc 1"
    browser.press("Escape")
    assert not browser.run("document.querySelector('dialog').open")


def test_noisy_documents_have_a_badge(browser, page):
    browser.open(page)
    browser.choose("#filter-agent", "rag")
    browser.choose("#filter-noise", "0.5")
    badges = []
    for number in range(1, 16):
        browser.run(
            f"document.querySelector('#episodes tbody tr:nth-child({number}) button').click()"
        )
        badges += ["⚠ noisy documents" in browser.texts(".turn .badge")]
        browser.run("document.querySelector('dialog').close()")
    assert 2 < sum(badges) < 13


def test_same_question_is_one_click_away_in_other_conditions(browser, page):
    browser.open(page)
    question = browser.texts("#episodes button.open")[0]
    browser.click("#episodes button.open")
    browser.click("dialog details summary")
    assert len(browser.texts(".others button")) == 17
    before = browser.texts(".inside > p")
    browser.click(".others button:nth-child(9)")
    assert browser.texts("#transcript-question") == [question]
    assert browser.texts(".inside > p") != before


@pytest.fixture(scope="module")
def hostile(bench, tmp_path_factory):
    """Return the page of a benchmark in which every text is hostile."""
    bad = bench["hostile"]
    rows = [
        replace(
            row,
            condition=replace(row.condition, agent=f"agent {bad}"),
            question=f"{number} {bad}",
            question_id=f"{bad} {number}",
            data_source=bad,
            answer=bad,
            golden_answers=(bad, "x"),
            stop_reason=bad,
            error=bad,
            turns=tuple(
                replace(turn, action=bad, observation=bad, query=bad) for turn in row.turns
            ),
        )
        for number, row in enumerate(bench["rows"]({"a": 0.5}, (("simulator", 0.0),), num=6))
    ]
    results = bench["results"](rows) | {"benchmark": bad, "notes": [bad]}
    folder = bench["write"](tmp_path_factory.mktemp("hostile") / "bench", rows, results)
    write_report(folder)
    return folder / "report.html"


def test_hostile_text_stays_text(browser, bench, hostile):
    browser.open(hostile)
    browser.click("#episodes button.open")
    browser.click("#transcript .others button") if browser.texts("#transcript .others") else None
    browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    assert browser.mistakes() == []
    assert browser.run("window.broken") is None
    inside = "main img, main script, dialog img, dialog script, svg[onload], [onerror], dialog b"
    assert browser.run(f"document.querySelectorAll('{inside}').length") == 0
    for place in (
        "#title",
        "#notes li",
        "#transcript-question",
        ".turn .said",
        ".turn .came",
        "dl.facts dd",
    ):
        assert bench["shown"] in browser.texts(place)[0], place


def test_hidden_characters_are_shown_by_their_numbers(browser, hostile):
    browser.open(hostile)
    browser.click("#episodes button.open")
    text = browser.texts(".turn .said")[0]
    for name in (
        "<U+202E>evil<U+202C>",
        "<U+001B>[31mred",
        "<U+2066>x<U+2069>",
        "zero<U+200B>width",
        "<U+FEFF>",
        "<U+0000>",
        "<U+2028>",
        "<U+E0041>",
    ):
        assert name in text
    everything = browser.run("document.body.innerText")
    assert not set(everything) & set("\u202e\u202c\u2066\u2069\u200b\ufeff\x1b\u2028")
    isolated = browser.run(
        "[...document.querySelectorAll('bdi')]"
        ".every(each => getComputedStyle(each).unicodeBidi === 'isolate')"
    )
    assert isolated


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["page", "hostile"])
def test_page_is_not_wider_than_its_window(browser, request, name, width):
    browser.open(request.getfixturevalue(name), width)
    assert browser.sideways() <= 0
    browser.click("#episodes button.open")
    assert browser.sideways() <= 0
    inside = browser.run(
        "(each => each.scrollWidth - each.clientWidth)(document.querySelector('dialog'))"
    )
    assert inside <= 0


@pytest.mark.parametrize("dark", [False, True])
def test_letters_stand_out_from_their_ground(browser, page, contrast, dark):
    browser.open(page, dark=dark)
    browser.click("#episodes button.open")
    assert browser.run(contrast) == []


REFUSED = """(() => {
  const tries = [
    () => { document.body.innerHTML = '<b>x</b>'; },
    () => document.body.setAttribute('onclick', 'window.broken = 1'),
    () => { document.createElement('script').text = 'window.broken = 1'; },
  ];
  return tries.map((each) => { try { each(); return ''; } catch (error) { return error.name; } });
})()"""


def test_policy_refuses_markup_and_scripts_made_of_strings(browser, page):
    browser.open(page)
    assert browser.run(REFUSED) == ["TypeError", "TypeError", "TypeError"]
    assert browser.run("window.broken") is None


def test_leaderboard_tells_what_was_left_out(browser, bench, tmp_path):
    one = bench["write"](tmp_path / "one", bench["rows"]({"base": 0.4}))
    other = bench["write"](tmp_path / "other", bench["rows"]({"base": 0.8}, (("simulator", 0.0),)))
    write_leaderboard([read_run(one), read_run(other)], tmp_path / "board")
    browser.open(tmp_path / "board" / "report.html")
    assert browser.mistakes() == []
    assert browser.texts("#title") == ["Leaderboard: miniwiki"]
    assert len(browser.texts("#notes li")) == 2
    assert [text.split("simulator")[0] for text in column(browser, "#conditions", "Agent")] == [
        "base (one)",
        "base (other)",
    ]
    assert browser.texts("#provenance summary") == ["one", "other"]
