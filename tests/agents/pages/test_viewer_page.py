"""The page of a training run in a real browser."""

import json
from dataclasses import dataclass

import pytest

from agents.cli.main import main
from agents.trajectory import Trajectory, Turn
from agents.transcripts import TRAIN, VALIDATION, episode_record
from agents.viewing import write_view

# Hot enough that episodes of a group differ, so that there are advantages.
TINY = (
    "--engine world --policy skill --steps 3 --num-questions 4 --group-size 4 --eval-questions 4 "
    "--eval-every 1 --max-turns 3 --temperature 1.5 --threads 1 --log-formats csv"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a real training run, of three updates."""
    out = tmp_path_factory.mktemp("training") / "run"
    assert main(["train", *TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def page(run):
    assert main(["view", str(run)]) == 0
    return run / "view.html"


def records(run):
    return [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]


def slide(browser, key):
    browser.run("document.querySelector('#slider').focus()")
    browser.press(key)


def test_page_of_a_real_run_opens_without_a_complaint(browser, page, run):
    browser.open(page)
    assert browser.mistakes() == []
    assert browser.texts("#title") == ["Training run run"]
    assert "policy skill" in browser.texts("#summary")[0]
    assert browser.texts("#update-name") == ["3"]
    assert "start_weights_sha256" in browser.texts("#config")[0]


def test_slider_moves_through_the_updates_and_the_curve(browser, page, run):
    browser.open(page)
    seen, places = [], []
    for _ in range(3):
        seen.append((browser.texts("#update-name")[0], browser.texts("#episodes h3")))
        places.append(browser.run("document.querySelector('#cursor').getBoundingClientRect().left"))
        slide(browser, "ArrowLeft")
    assert [update for update, _ in seen] == ["3", "2", "1"]
    assert places == sorted(places, reverse=True)
    assert len(set(places)) == 3
    found = records(run)
    for update, questions in seen:
        assert questions == [r["question"] for r in found if r["update"] == int(update)]
    assert browser.run("document.querySelector('#back').disabled")
    assert browser.texts("#step")[0].startswith("update 1 of 3 · reward ")
    browser.click("#on")
    assert browser.texts("#update-name") == ["2"]


def test_clicking_the_curve_goes_there(browser, page):
    browser.open(page)
    browser.click("#curve svg")
    assert browser.texts("#update-name") == ["2"]


def test_other_numbers_of_the_run_are_drawn_on_demand(browser, page):
    browser.open(page)
    assert browser.texts("#curve-legend li") == [
        "reward (training)",
        "noise of the curriculum",
        "exact match, world (held out)",
    ]
    browser.choose("#metric", "train/entropy")
    assert browser.texts("#curve-legend li") == ["train/entropy"]
    assert browser.run("document.querySelectorAll('#curve path.line').length") == 1


def test_tokens_are_coloured_by_who_wrote_them(browser, page, run):
    browser.open(page)
    [first, *_] = [r for r in records(run) if r["update"] == 3]
    box = "#episodes article:first-child .tokens"
    classes = browser.run(
        f"[...document.querySelectorAll('{box} .token')].map(each => each.className)"
    )
    wanted = ["token own" if bit == "1" else "token context" for bit in first["tokens"]["mask"]]
    assert classes == wanted
    assert "".join(browser.texts(f"{box} .token")) == "".join(first["tokens"]["pieces"])


@pytest.mark.parametrize("mode", ["logprob", "advantage"])
def test_colours_tell_numbers_as_their_key_says(browser, page, run, mode):
    browser.open(page)
    while not browser.run("document.querySelector('#back').disabled"):
        browser.click(f"input[value={mode}]")
        seen = browser.run(
            "[...document.querySelectorAll('#episodes .tokens')].map(box => "
            "[...box.querySelectorAll('.token')].map(each => each.className.split(' ')[1]))"
        )
        update = int(browser.texts("#update-name")[0])
        episodes = [r["tokens"] for r in records(run) if r["update"] == update]
        for tokens, classes in zip(episodes, seen, strict=True):
            own = [c for c, bit in zip(classes, tokens["mask"], strict=True) if bit == "1"]
            assert all(
                c == "context" for c, bit in zip(classes, tokens["mask"], strict=True) if bit == "0"
            )
            assert own == [colour(mode, tokens, number) for number in range(len(own))]
        slide(browser, "ArrowLeft")
    names = browser.run("[...document.querySelectorAll('#key li')].map(each => each.className)")
    assert names == KEYS[mode]


KEYS = {
    "logprob": ["lp-0", "lp-1", "lp-2", "lp-3", "lp-4", "lp-5"],
    "advantage": ["minus-3", "minus-2", "minus-1", "even", "plus-1", "plus-2", "plus-3"],
}


def colour(mode, tokens, number):
    if mode == "logprob":
        bounds = [-0.0100503, -0.1053605, -0.6931472, -2.3025851, -4.6051702]
        return f"lp-{sum(tokens['logprobs'][number] < bound for bound in bounds)}"
    advantage = tokens["advantages"][number] if tokens["advantages"] else 0
    if not advantage:
        return "even"
    size = 1 + (abs(advantage) > 0.5) + (abs(advantage) > 1.5)
    return f"{'plus' if advantage > 0 else 'minus'}-{size}"


def test_numbers_of_a_token_are_told_by_pointing_and_from_the_keyboard(browser, page, run):
    browser.open(page)
    [first, *_] = [r for r in records(run) if r["update"] == 3]
    place = first["tokens"]["mask"].index("1")
    box = "#episodes article:first-child"
    browser.run(f"document.querySelector('{box} .token').focus()")
    assert "read, not sampled" in browser.texts(f"{box} .readout")[0]
    for _ in range(place):
        browser.press("ArrowRight")
    told = browser.texts(f"{box} .readout")[0]
    logprob = f"{first['tokens']['logprobs'][0]:.4f}".replace("-", "−")
    assert told.startswith(f"token {place}: ")
    assert f"log-probability {logprob} (p = " in told
    assert "advantage" in told
    browser.run(
        f"document.querySelector('{box} .token')"
        ".dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))"
    )
    assert browser.texts(f"{box} .readout")[0].startswith("token 0: ")


def test_two_updates_stand_side_by_side_on_one_question(browser, page, run):
    browser.open(page)
    asked = browser.run("[...document.querySelector('#question').options].map(each => each.label)")
    held_out = {r["question"] for r in records(run) if r["split"] == "validation"}
    assert {
        label.removesuffix(" (validation)") for label in asked if "(validation)" in label
    } == held_out
    browser.choose("#question", asked[1])
    assert browser.texts("#left h3") + browser.texts("#right h3") == ["Update 1", "Update 3"]
    browser.choose("#left-update", "2")
    assert browser.texts("#left h3") == ["Update 2"]
    question = asked[1].removesuffix(" (validation)")
    for side, update in (("left", 2), ("right", 3)):
        [record] = [
            r
            for r in records(run)
            if (r["update"], r["question"], r["split"]) == (update, question, "validation")
        ]
        assert "".join(browser.texts(f"#{side} .token")) == "".join(record["tokens"]["pieces"])
    edges = browser.run(
        "['left', 'right'].map(side => document.getElementById(side).getBoundingClientRect().left)"
    )
    assert edges[0] < edges[1]


@dataclass(frozen=True)
class Made:
    """A run made by hand."""

    folder: object

    def write(self, records, rows):
        self.folder.mkdir(exist_ok=True)
        for name, values in (("transcripts", records), ("metrics", rows)):
            text = "".join(json.dumps(value) + "\n" for value in values)
            (self.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        return self.folder


def made_record(update, text, split=TRAIN):
    trajectory = Trajectory(group=0, question_id=text, prompt=f"Q: {text}\n")
    trajectory.observe([ord(letter) for letter in f"Q: {text}\n"])
    start = len(trajectory.token_ids)
    trajectory.act([ord(letter) for letter in text], [-0.5] * len(text))
    trajectory.advantages = [1.0 if on else 0.0 for on in trajectory.action_mask]
    end = len(trajectory.token_ids)
    trajectory.turns.append(Turn(text, "answer", True, 1.0, start, end, text))
    trajectory.outcome = {
        "answer": text,
        "golden_answers": (text,),
        "exact_match": 1.0,
        "stop_reason": text,
    }
    decode = lambda ids: "".join(map(chr, ids))  # noqa: E731
    return episode_record(trajectory, update, split, "Q: {question}\n", decode)


@pytest.fixture(scope="module")
def hostile(bench, tmp_path_factory):
    bad = bench["hostile"]
    folder = Made(tmp_path_factory.mktemp("hostile") / "<b>&").write(
        [made_record(update, bad, split) for update in (1, 2) for split in (TRAIN, VALIDATION)],
        [
            {"step": update, "rollout/reward": 0.5, f"eval/{bad}/exact_match": 0.5}
            for update in (1, 2)
        ],
    )
    (folder / "config.json").write_text(json.dumps({"config": {"policy": bad}}))
    write_view(folder, folder / "view.html")
    return folder / "view.html"


def test_hostile_text_stays_text(browser, bench, hostile):
    browser.open(hostile)
    browser.run("for (const each of document.querySelectorAll('details')) each.open = true")
    for mode in ("logprob", "advantage", "none"):
        browser.click(f"input[value={mode}]")
    browser.run("document.querySelector('.token').focus()")
    assert browser.mistakes() == []
    assert browser.run("window.broken") is None
    inside = "main img, main script, header img, svg[onload], [onerror], main b, header b"
    assert browser.run(f"document.querySelectorAll('{inside}').length") == 0
    for place in (
        "#episodes h3",
        "#episodes .tokens",
        "#left .tokens",
        ".turn .said",
        "#curve-legend li:last-child",
    ):
        assert bench["shown"] in browser.texts(place)[0], place
    text = browser.texts("#episodes .tokens")[0]
    assert "<U+202E>evil<U+202C>" in text
    assert not set(browser.run("document.body.innerText")) & set("\u202e\u202c\u2066\u200b\x1b")


def test_run_of_an_earlier_version_opens_without_colours(browser, tmp_path):
    old = [made_record(update, "who") for update in (1, 2)]
    for record in old:
        del record["split"], record["tokens"]
    folder = Made(tmp_path / "old").write(old, [{"step": n, "rollout/reward": 0.5} for n in (1, 2)])
    write_view(folder, folder / "view.html")
    browser.open(folder / "view.html")
    assert browser.mistakes() == []
    assert "This run kept no tokens." in browser.texts("#episodes article")[0]
    assert browser.texts("#episodes .turn .said") == ["who"]
    assert browser.texts("#left .turn .said") == ["who"]


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["page", "hostile"])
def test_page_is_not_wider_than_its_window(browser, request, name, width):
    browser.open(request.getfixturevalue(name), width)
    assert browser.sideways() <= 0
    # What does not fit in a narrow window comes one below the other.
    edges = browser.run(
        "['left', 'right'].map(side => document.getElementById(side).getBoundingClientRect().left)"
    )
    assert (edges[0] == edges[1]) == (width == 400)


@pytest.mark.parametrize("dark", [False, True])
def test_letters_stand_out_from_their_ground(browser, page, contrast, dark):
    browser.open(page, dark=dark)
    for mode in ("mask", "logprob", "advantage"):
        browser.click(f"input[value={mode}]")
        assert browser.run(contrast) == [], mode
