"""Folders as benchmarks and trainings leave them, and a real browser to look at their pages."""

import json
import math
import os
import random
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from select import select

import pytest

from agents.bench.rows import Condition, EpisodeRow, TurnRow
from agents.evaluate import wilson_interval
from zs_env.random import derive
from zs_env.search.engine import SearchRequest
from zs_env.search.world import WorldSearchEngine
from zs_env.task.miniwiki import default_world

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0
ENVIRONMENT = "ZeroSearch-v0"
SIMULATOR, REAL = "simulator", "bm25"
PLACES = ((SIMULATOR, 0.0), (SIMULATOR, 0.5), (REAL, 0.0))
SKILLS = {"random": 0.0, "direct": 0.06, "rag": 0.5, "base": 0.25, "grpo": 0.8, "oracle": 1.0}

HOSTILE = (
    "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'> </script>"
    "<!--<script> &lt;b&gt; \u202eevil\u202c \x1b[31mred\x1b[0m \u2066x\u2069 zero\u200bwidth "
    "\ufeff <svg onload=window.broken=1> javascript:alert(1) ]]> {{7*7}} \x00 ' \" ` \u2028 "
    "\U000e0041"
)
SHOWN = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'> </script>"


def make_rows(agents, places=PLACES, num=12, *, seed=0, split="test"):
    """Return episodes: the world's questions and documents, answered as well as skills say."""
    engine, rows = WorldSearchEngine(default_world()), []
    questions = default_world().questions(split)[:num]
    for agent, skill in agents.items():
        for place, noise in places:
            for question in questions:
                draw = random.Random(f"{agent} {place} {noise} {question.id} {seed}")
                condition = Condition(agent, ENVIRONMENT, place, noise, seed)
                rows.append(make_row(engine, condition, question, skill, draw))
    return rows


def make_row(engine, condition, question, skill, draw):
    hurt = 0.7 if condition.noise else 1.0 - 0.1 * (condition.engine == REAL)
    right = draw.random() < skill * (1.0 if skill == 1 else hurt)
    turns = [] if condition.agent == "direct" else [search_turn(engine, condition, question, draw)]
    answer = question.golden_answers[0] if right else draw.choice(["", "Port Vardale", "1909"])
    if condition.agent == "random":
        turns.append(TurnRow("Doc Doc who", "malformed", "", False, "Invalid action.\n"))
    turns.append(TurnRow(f"<think> So.</think><answer> {answer}</answer>", "answer", "", False, ""))
    return EpisodeRow(
        condition=condition,
        question_id=question.id,
        data_source=question.data_source,
        num_hops=question.num_hops,
        question=question.text,
        golden_answers=question.golden_answers,
        answer=answer,
        exact_match=float(right),
        f1=1.0 if right else 0.25 * bool(answer),
        sub_exact_match=float(right),
        reward=float(right),
        searches=len([turn for turn in turns if turn.kind == "search"]),
        turns=tuple(turns),
        invalid=len([turn for turn in turns if turn.kind == "malformed"]),
        tokens=None if condition.agent == "random" else draw.randint(20, 90),
        seconds=draw.uniform(0.01, 0.4),
        stop_reason="answered",
    )


def search_turn(engine, condition, question, draw):
    noisy = draw.random() < condition.noise
    query = question.text.rstrip("?")
    request = SearchRequest(
        query,
        question.text,
        question.golden_answers,
        noisy=noisy,
        seed=derive(draw.getrandbits(30)),
    )
    [documents] = engine.search([request])
    action = f"<think> I have to search.</think><search> {query}</search>"
    listed = "\n".join(f"Doc {n}: {each.text}" for n, each in enumerate(documents, 1))
    return TurnRow(action, "search", query, noisy, f"<information>{listed}</information>\n")


def interval(values):
    mean = sum(values) / len(values)
    spread = 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) / len(values))
    return {"mean": mean, "low": mean - spread, "high": mean + spread}


def rate(values):
    low, high = wilson_interval(sum(values), len(values))
    return {"mean": sum(values) / len(values), "low": low, "high": high}


def condition_json(key, rows):
    names = ("f1", "sub_exact_match", "searches", "invalid", "seconds")
    metrics = {name: interval([getattr(row, name) for row in rows]) for name in names}
    metrics["exact_match"] = rate([row.exact_match for row in rows])
    metrics["turns"] = interval([len(row.turns) for row in rows])
    known = [row.tokens for row in rows if row.tokens is not None]
    metrics["tokens"] = interval(known) if known else None
    hops = {str(row.num_hops): [] for row in rows}
    for row in rows:
        hops[str(row.num_hops)].append(row.exact_match)
    part = {"exact_match": metrics["exact_match"], "num_episodes": len(rows)}
    return {
        **dict(zip(("agent", "environment", "engine", "noise"), key, strict=True)),
        "num_episodes": len(rows),
        "num_failed": sum(bool(row.error) for row in rows),
        "metrics": metrics,
        "by_source": {rows[0].data_source: part},
        "by_hops": {
            name: {"exact_match": rate(scores), "num_episodes": len(scores)}
            for name, scores in hops.items()
        },
    }


def comparison_json(a, b, engine, noise, groups):
    first, second = (groups[agent, ENVIRONMENT, engine, noise] for agent in (a, b))
    differences = [x.exact_match - y.exact_match for x, y in zip(first, second, strict=True)]
    found = interval(differences)
    p = min(1.0, 2.0 ** -sum(map(abs, differences)) * 2)
    return {
        "environment": ENVIRONMENT,
        "engine": engine,
        "noise": noise,
        "agent_a": a,
        "agent_b": b,
        "metric": "exact_match",
        "num_pairs": len(differences),
        "difference": found["mean"],
        "low": found["low"],
        "high": found["high"],
        "p_value": p,
        "p_holm": min(1.0, p * 15),
        "test": "mcnemar-exact",
    }


def make_results(rows):
    groups = {}
    for row in rows:
        c = row.condition
        groups.setdefault((c.agent, c.environment, c.engine, c.noise), []).append(row)
    agents = list(dict.fromkeys(agent for agent, *_ in groups))
    places = list(dict.fromkeys((engine, noise) for _, _, engine, noise in groups))
    em = {key: rate([row.exact_match for row in found]) for key, found in groups.items()}
    thresholds = [step / 50 for step in range(51)]
    return {
        "benchmark": "miniwiki",
        "config": {"agents": agents, "num_questions": len(rows) // len(groups), "max_turns": 4},
        "conditions": [condition_json(key, found) for key, found in groups.items()],
        "comparisons": [
            comparison_json(a, b, engine, noise, groups)
            for engine, noise in places
            for a, b in combinations(agents, 2)
        ],
        "aggregates": [
            aggregate_json(agent, [em[key] for key in em if key[0] == agent], thresholds)
            for agent in agents
        ],
        "robustness": [
            robustness_json(
                agent, [(key[3], em[key]) for key in em if key[::2] == (agent, SIMULATOR)]
            )
            for agent in agents
        ],
        "sim_to_real": [
            {
                "agent": agent,
                "environment": ENVIRONMENT,
                "simulator": SIMULATOR,
                "real": REAL,
                "gap": gap_json(
                    em[agent, ENVIRONMENT, SIMULATOR, 0.0], em[agent, ENVIRONMENT, REAL, 0.0]
                ),
            }
            for agent in agents
            if (REAL, 0.0) in places
        ],
        "provenance": {
            "versions": {"python": "3.11.7"},
            "command": "zerosearch bench miniwiki.yaml",
        },
    }


def aggregate_json(agent, scores, thresholds):
    mean = sum(each["mean"] for each in scores) / len(scores)
    share = [sum(each["mean"] > t for each in scores) / len(scores) for t in thresholds]
    bounds = {"mean": mean, "low": max(0, mean - 0.06), "high": min(1, mean + 0.06)}
    profile = {"thresholds": thresholds, "share": share, "low": share, "high": share}
    return {
        "agent": agent,
        "environment": ENVIRONMENT,
        "iqm": bounds,
        "mean": bounds,
        "profile": profile,
    }


def robustness_json(agent, points):
    area = {
        name: sum(each[name] for _, each in points) / len(points)
        for name in ("mean", "low", "high")
    }
    return {
        "agent": agent,
        "environment": ENVIRONMENT,
        "engine": SIMULATOR,
        "points": [{"noise": noise, **each} for noise, each in points],
        "area": area,
    }


def gap_json(simulated, real):
    gap = simulated["mean"] - real["mean"]
    return {"mean": gap, "low": gap - 0.08, "high": gap + 0.08}


def write_bench(folder, rows, results=None):
    """Write a folder as `zerosearch bench` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row.to_json()) + "\n" for row in rows)
    (folder / "episodes.jsonl").write_text("".join(lines), encoding="utf-8")
    text = json.dumps(results or make_results(rows))
    (folder / "results.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bench():
    """Return the functions that make benchmarks, by name."""
    return {
        "rows": make_rows,
        "write": write_bench,
        "results": make_results,
        "skills": SKILLS,
        "hostile": HOSTILE,
        "shown": SHOWN,
    }


class Browser:
    """Chromium without a screen, told what to do over two pipes (Chrome DevTools Protocol)."""

    def __init__(self, program, folder):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
            "--disable-background-networking --disable-component-update --disable-sync "
            "--disable-dev-shm-usage --remote-debugging-pipe about:blank"
        ).split()
        # It reads from 3 and writes to 4, whatever numbers the pipes have here.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", script, "bash", program, f"--user-data-dir={folder}", *flags]
        self._process = subprocess.Popen(
            command,
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Settings and caches of whoever runs the tests are not its own.
            env=os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._rest, self._number, self.events = b"", 0, []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def _ask(self, method, session=None, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def ask(self, method, **params):
        return self._ask(method, self._session, **params)

    def open(self, file, width=1280, height=900, *, dark=False):
        """Show a file in a window of a given size."""
        self.events.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Page.navigate", url=Path(file).resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        self.settle()

    def settle(self):
        """Wait until two frames were drawn."""
        self.run(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))"
        )

    def run(self, script):
        """Return what a script's value is, waiting for a promise."""
        result = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def press(self, key, code=None):
        """Press a key, as a keyboard does."""
        codes = {"Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "Tab": 9, " ": 32}
        number = codes[key]
        text = {"Enter": "\r", " ": " "}.get(key)
        more = {"text": text} if text else {}
        common = {"key": key, "code": code or key, "windowsVirtualKeyCode": number}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **common, **more)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)
        self.settle()

    def type(self, text):
        """Write into what has the focus."""
        self.ask("Input.insertText", text=text)

    def click(self, selector):
        """Click with a mouse in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            "node.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = node.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def choose(self, selector, label):
        """Choose an option of a select by its label."""
        found = self.run(
            f"(() => {{ const node = document.querySelector({json.dumps(selector)});"
            f"const option = [...node.options].find(each => each.label === {json.dumps(label)});"
            "if (!option) return [...node.options].map(each => each.label);"
            "node.value = option.value; node.dispatchEvent(new Event('change', {bubbles: true}));"
            "return null; })()"
        )
        assert found is None, found
        self.settle()

    def texts(self, selector):
        """Return the texts of all elements."""
        return self.run(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(each => each.textContent)"
        )

    def mistakes(self):
        """Return what the page complained about: exceptions, violations of its policy, requests."""
        self.run("1")
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def sideways(self):
        """Return by how many pixels the page is wider than its window."""
        return self.run("document.documentElement.scrollWidth - window.innerWidth")

    def screenshot(self, file, *, whole=False):
        """Write a PNG of the window, or of the whole page."""
        import base64

        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(file).write_bytes(base64.b64decode(picture))

    def close(self):
        try:
            os.write(self._out, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture(scope="session")
def browser():
    """Return a browser, or skip."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        found = Browser(program, folder)
        stack.callback(found.close)
        yield found


# WCAG 2.1's contrast ratio, of every element that has a text of its own; 4.5 is level AA.
CONTRAST = """(() => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')].filter((node) => node.checkVisibility()
      && !node.closest('svg') && !node.disabled
      && [...node.childNodes].some((each) => each.nodeType === 3 && each.data.trim()))
    .map((node) => {
      const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.tagName, node.className];
    }).filter(([ratio]) => ratio < 4.5).slice(0, 5);
})()"""


@pytest.fixture(scope="session")
def contrast():
    """Return a script that finds texts that are hard to read."""
    return CONTRAST
