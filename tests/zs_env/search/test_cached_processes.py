"""One cache and several processes: together, forked, and killed in the middle of writing."""

import itertools
import json
import multiprocessing
import random
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from zs_env.search.cached import CachedSearchEngine
from zs_env.search.engine import SearchRequest
from zs_env.search.store import ReplyStore

ROOT = Path(__file__).parents[3]
BATCH = 20

PROGRAM = """
import json, os, random, sys
from zs_env.search.cached import CachedSearchEngine
from zs_env.search.engine import Document, SearchRequest

class Own:
    def describe(self):
        return {"engine": "own"}

    def search(self, requests):
        own = f"by {os.getpid()} " + "x" * 2000
        return [[Document(f"{request.seed} {own}")] for request in requests]

path, batch = sys.argv[1], int(sys.argv[2])
cache = CachedSearchEngine(Own(), path, name="own")

def search(seeds):
    requests = [SearchRequest("who", seed=seed) for seed in seeds]
    return [documents[0].text for documents in cache.search(requests)]

print("ready", flush=True)
first = sys.stdin.readline()
"""

SHARING = """
found = {}
seeds = list(range(300))
random.Random(os.getpid()).shuffle(seeds)
for start in range(0, len(seeds), batch):
    some = seeds[start:start + batch]
    found |= dict(zip(some, search(some)))
print(json.dumps(sorted(found.items())))
"""

ENDLESS = """
start = int(first)
while True:
    search(range(start, start + batch))
    start += batch
    print(start, flush=True)
"""


@pytest.fixture
def start():
    """Return a function that starts a program, which waits for a line; all are killed at last."""
    started = []

    def start(path, program):
        command = [sys.executable, "-c", PROGRAM + program, str(path), str(BATCH)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.sqlite"


def stored(path):
    return {reply.request.seed: reply.documents[0].text for _, reply in ReplyStore(path).replies()}


def test_processes_that_write_the_same_keys_agree_and_lose_none(start, path):
    processes = [start(path, SHARING) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert found[0] == found[1] == found[2] == found[3]
    assert dict(found[0]) == stored(path)
    assert sorted(stored(path)) == list(range(300))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_killed_process_loses_no_reply_that_it_returned(start, path):
    begin, rng = 0, random.Random(0)
    for _ in range(4):
        process = start(path, ENDLESS)
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
        returned = [process.stdout.readline() for _ in range(6)]
        time.sleep(rng.random() / 50)  # somewhere in a later batch
        process.kill()
        assert process.wait() == -9
        rest = process.stdout.read().split()
        end = int((rest or returned)[-1])
        there = stored(path)
        assert set(range(end)) <= there.keys()
        assert len(there) % BATCH == 0
        begin = len(there)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_engine_goes_into_other_processes(method, path):
    cache = CachedSearchEngine("world", path)
    batches = [[SearchRequest("who", seed=seed)] for seed in range(12)]
    first = [cache.search(batch) for batch in batches[:4]]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        found = list(pool.map(cache.search, batches))
    assert found[:4] == first
    assert found == [cache.search(batch) for batch in batches]
    assert len(stored(path)) == 12


def fork(cache, batches):
    """Return a forked process that records one batch for every line that it is sent."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def record():
        for batch in batches:
            theirs.recv()
            theirs.send(cache.search(batch))
        cache.close()

    child = context.Process(target=record)
    child.start()
    return child, ours


def test_fork_loses_nothing_when_its_parent_closes_the_file(path):
    cache = CachedSearchEngine("world", path)
    batches = [[SearchRequest("who", seed=seed)] for seed in range(3)]
    cache.search(batches[0])
    child, line = fork(cache, batches[1:])
    line.send("go")
    line.recv()
    cache.close()
    line.send("go")
    last = line.recv()
    child.join(30)
    assert child.exitcode == 0
    assert sorted(stored(path)) == [0, 1, 2]
    assert cache.search(batches[2]) == last


def test_fork_while_threads_record_neither_waits_for_ever_nor_loses_anything(path):
    cache, forked = CachedSearchEngine("world", path), threading.Event()

    def record(first):
        for seed in itertools.count(first, 4):
            cache.search([SearchRequest("who", seed=seed)])
            if forked.is_set():
                break

    threads = [threading.Thread(target=record, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    children = [fork(cache, [[SearchRequest("who", seed=10**6 + number)]]) for number in range(8)]
    for _, line in children:
        line.send("go")
    assert all(line.poll(30) and line.recv() for _, line in children)
    forked.set()
    for thread in threads:
        thread.join()
    for child, _ in children:
        child.join(30)
    assert [child.exitcode for child, _ in children] == [0] * 8
    assert {10**6 + number for number in range(8)} <= stored(path).keys()
    cache.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_program_may_fork_while_it_reads_everything(path):
    cache = CachedSearchEngine("world", path)
    cache.search([SearchRequest("who", seed=seed) for seed in range(2500)])
    seen = []
    for _, reply in ReplyStore(path).replies():
        seen.append(reply.request.seed)
        if len(seen) == 1200:
            child, line = fork(cache, [[SearchRequest("who", seed=2500)]])
            line.send("go")
            assert line.recv()
            child.join(30)
    assert seen == list(range(2501))
