"""Both vLLM back ends with the shipped simulator, held against the one of transformers.

`make test-vllm` runs these: vLLM lives in an environment of its own, whose interpreter
`ZS_VLLM_PYTHON` names.
"""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.vllm_servers import ENVIRONMENT, end, interpreter, serving, start_server
from zs_env.lm.generator import (
    Chat,
    FinishReason,
    PromptTooLongError,
    SamplingParams,
)
from zs_env.lm.openai import OpenAIGenerator
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.random import derive
from zs_env.remote.limits import Limits
from zs_env.search.engine import SearchEngineError, SearchRequest
from zs_env.search.prompts import parse_documents, tuned_prompt
from zs_env.search.registry import make_engine
from zs_env.task.question_sets import QuestionSet

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

NUM_REQUESTS = 64
MAX_NEW_TOKENS = 96
EQUAL_SHARE = 0.95
SEEDS = [derive(0, i) for i in range(NUM_REQUESTS)]
TURNS = ["Question: who founded it?\n", "Doc 1: it was founded by"]
STOPPED = SamplingParams(24, 0.7, (":",))
# It asks as the model was tuned to be asked, and begins the reply with the system message.
CHAT_TEMPLATE = (
    "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}Doc 1:{% endif %}"
    "{% for m in messages if m.role == 'system' %} {{ m.content or 'Nobody' }}{% endfor %}"
)
SERVED = {
    "model": str(model_folder("simulator")),
    "chat-template": CHAT_TEMPLATE,
    "served-model-name": "simulator",
}


@pytest.fixture(scope="module")
def python():
    """Return the interpreter that has vLLM."""
    return interpreter()


@pytest.fixture(scope="module")
def requests():
    """Return requests about test questions, every other of them for noisy documents."""
    questions = QuestionSet("miniwiki").split("test")[:NUM_REQUESTS]
    return [
        SearchRequest(q.text, q.text, q.golden_answers, noisy=i % 2 == 1, seed=SEEDS[i])
        for i, q in enumerate(questions)
    ]


@pytest.fixture(scope="module")
def prompts(requests):
    return [tuned_prompt(request) for request in requests]


@pytest.fixture(scope="module")
def lm():
    return TransformersLM.from_pretrained(model_folder("simulator"))


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """Return a folder with the shipped simulator and a chat template, which it has not."""
    folder = tmp_path_factory.mktemp("model") / "simulator"
    shutil.copytree(model_folder("simulator"), folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def in_process(python, prompts, chat_model, tmp_path_factory):
    """Return what the back end in process says."""
    folder = tmp_path_factory.mktemp("vllm")
    tasks = {
        "model": str(chat_model),
        "prompts": prompts,
        "seeds": SEEDS,
        "max_new_tokens": MAX_NEW_TOKENS,
        "turns": TURNS,
    }
    (folder / "tasks.json").write_text(json.dumps(tasks))
    program = Path(__file__).with_name("vllm_in_process.py")
    command = [python, str(program), str(folder / "tasks.json"), str(folder / "results.json")]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def port(python, tmp_path_factory):
    with serving(python, tmp_path_factory.mktemp("server"), SERVED) as (_, port):
        yield port


@pytest.fixture(scope="module")
def remote(port):
    generator = OpenAIGenerator(f"http://127.0.0.1:{port}/v1", processed_logprobs=True)
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def greedy(lm, prompts):
    """Return what transformers says."""
    return lm.complete(prompts, SEEDS, SamplingParams(MAX_NEW_TOKENS, 0.0))


def report_equality(name, one, other, record_property):
    """Check that enough documents are equal, and say how many."""
    pairs = zip(one, other, strict=True)
    equal = sum(parse_documents(left, 3) == parse_documents(right, 3) for left, right in pairs)
    record_property(f"equal documents, {name}", f"{equal} of {len(one)}")
    print(f"equal documents, {name}: {equal} of {len(one)}")
    assert equal >= EQUAL_SHARE * len(one)


def test_greedy_documents_in_process_equal_those_of_transformers(
    greedy, in_process, record_property
):
    report_equality("in process", greedy, in_process["greedy"], record_property)


def test_greedy_documents_of_the_server_equal_those_of_transformers(
    greedy, remote, prompts, record_property
):
    found = remote.complete(prompts, SEEDS, SamplingParams(MAX_NEW_TOKENS, 0.0))
    report_equality("server", greedy, found, record_property)


def report_repeats(name, once, again, record_property):
    same = sum(one == other for one, other in zip(once, again, strict=True))
    record_property(f"repeated samples, {name}", f"{same} of {len(once)}")
    print(f"repeated samples, {name}: {same} of {len(once)}")
    assert same >= EQUAL_SHARE * len(once)
    assert len(set(once)) > len(once) // 2


def test_seeded_sampling_in_process_repeats_in_another_order(in_process, record_property):
    once, again = in_process["sampled"]
    report_repeats("in process", once, again[::-1], record_property)


def test_seeded_sampling_of_the_server_repeats_in_another_order(remote, prompts, record_property):
    params = SamplingParams(MAX_NEW_TOKENS, 0.8)
    once = remote.complete(prompts, SEEDS, params)
    again = remote.complete(prompts[::-1], SEEDS[::-1], params)[::-1]
    report_repeats("server", once, again, record_property)


def test_other_seeds_give_other_samples(remote, prompts):
    params = SamplingParams(MAX_NEW_TOKENS, 0.8)
    noisy = prompts[1]
    found = remote.complete([noisy] * 16, SEEDS[:16], params)
    assert len(set(found)) > 8


@pytest.fixture(scope="module")
def chat_replies(chat_model, prompts):
    """Return what transformers says to three chats, given all that a model reads of them."""
    first, second = prompts[:2]
    read = [f"{first}Doc 1:", f"{second}Doc 1: The film", f"{first}Doc 1: Nobody"]
    lm = TransformersLM.from_pretrained(chat_model)
    return lm.complete(read, SEEDS[:3], SamplingParams(MAX_NEW_TOKENS, 0.0))


def test_chats_are_read_in_the_chat_template_once_in_process(chat_replies, in_process):
    assert len(set(chat_replies)) == 3
    assert in_process["has_chat_template"]
    assert in_process["chats"] == chat_replies


def test_chats_are_read_in_the_chat_template_once_by_the_server(chat_replies, remote, prompts):
    chats = [Chat(prompts[0]), Chat(prompts[1], "The film"), Chat(prompts[0], "")]
    assert remote.complete(chats, SEEDS[:3], SamplingParams(MAX_NEW_TOKENS, 0.0)) == chat_replies


def test_ids_are_those_of_transformers(lm, in_process, remote, prompts):
    expected = [lm.encode(prompt) for prompt in prompts]
    assert in_process["ids"] == expected
    assert remote.encode(prompts[0]) == expected[0]


def test_context_is_as_long_as_that_of_transformers(lm, in_process, remote):
    assert in_process["max_context"] == remote.max_context == lm.max_context


def test_prompt_that_does_not_fit_is_an_error_in_process(lm, in_process):
    with pytest.raises(ValueError, match="must be shorter") as caught:
        lm.complete(["who " * 2000], [0], SamplingParams(4, 0.0))
    assert in_process["too_long"] == f"ValueError: {caught.value}"


def test_prompt_that_does_not_fit_is_an_error_of_the_server(remote):
    with pytest.raises(PromptTooLongError, match=r"1 try: .*HTTP 400.*maximum context length"):
        remote.complete(["who " * 2000], [0], SamplingParams(4, 0.0))


def test_prompt_that_almost_fills_the_context_is_continued_as_far_as_it_goes(lm, remote):
    ids = (lm.encode("who founded it? ") * 300)[: lm.max_context - 3]
    [found] = remote.complete_tokens([ids], [0], SamplingParams(8, 0.0))
    [expected] = lm.session(1).generate([0], [ids], [0], SamplingParams(8, 0.0))
    assert found.token_ids == expected.token_ids
    assert found.finish_reason is FinishReason.LENGTH


def test_full_context_gives_an_empty_completion(lm, in_process, remote):
    [found] = remote.complete_tokens([[5] * lm.max_context], [0], SamplingParams(4, 1.0))
    assert (found.token_ids, found.finish_reason) == ([], FinishReason.LENGTH)
    assert in_process["full"] == {
        "token_ids": [],
        "logprobs": [],
        "text": "",
        "finish_reason": "length",
    }


def recomputed(lm, context, ids, temperature):
    """Return the log-probabilities of `ids` after `context`, from one forward pass."""
    with torch.no_grad():
        logits = lm.model(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, -1)
    return logprobs.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()


def check_session(lm, completions):
    """Check the completions of `play_session`: contexts, log-probabilities, stops."""
    first, second = (lm.encode(text) for text in TURNS)
    contexts = [first, second, [*first, *completions[0]["token_ids"], *second], second]
    assert completions[3]["token_ids"] == completions[1]["token_ids"]
    for context, completion in zip(contexts, completions, strict=True):
        ids = completion["token_ids"]
        expected = recomputed(lm, context, ids, STOPPED.temperature)
        assert completion["logprobs"] == pytest.approx(expected, abs=1e-3)
        stopped = completion["finish_reason"] == FinishReason.STOP
        assert stopped == (":" in completion["text"])
    assert any(completion["finish_reason"] == FinishReason.STOP for completion in completions)


def test_session_in_process_has_the_models_logprobs(lm, in_process):
    check_session(lm, in_process["session"])


def test_session_of_the_server_has_the_models_logprobs(lm, remote):
    session = remote.session(2)
    first, second = (lm.encode(text) for text in TURNS)
    found = session.generate([0, 1], [first, second], [5, 6], STOPPED)
    found += session.generate([0], [second], [7], STOPPED)
    session.clear([1])
    found += session.generate([1], [second], [6], STOPPED)
    check_session(lm, [{name: getattr(c, name) for name in c.__slots__} for c in found])


def test_global_random_numbers_are_left_alone(in_process):
    assert in_process["random_states_are_kept"]


def test_engine_named_by_its_url_searches_on_the_server(port, requests):
    engine = make_engine(f"simulator:http://127.0.0.1:{port}/v1#simulator")
    found = engine.search(requests)
    assert sum(len(documents) == 3 for documents in found) > NUM_REQUESTS // 2
    with pytest.raises(SearchEngineError, match=r"the simulator cannot be asked: .*HTTP 400"):
        engine.search([SearchRequest("who", question="who " * 4000)])


def test_server_killed_in_mid_batch_and_started_again_loses_nothing(
    python, tmp_path, prompts, greedy
):
    limits = Limits(max_concurrency=8, deadline=300, longest_delay=2.0, max_tries=1000)
    with serving(python, tmp_path, SERVED) as (process, port):
        generator = OpenAIGenerator(f"http://127.0.0.1:{port}/v1", limits=limits)
        params, found = SamplingParams(MAX_NEW_TOKENS, 0.0), []
        batch = prompts * 4
        asking = threading.Thread(
            target=lambda: found.extend(generator.complete(batch, SEEDS * 4, params))
        )
        asking.start()
        time.sleep(0.5)
        assert asking.is_alive()
        end(process, kindly=False)
        with (tmp_path / "again.log").open("w") as log:
            again = start_server(python, port, log, SERVED)
            try:
                asking.join(250)
            finally:
                end(again)
                generator.close()
    pairs = list(zip(found, greedy * 4, strict=True))
    assert sum(one == other for one, other in pairs) >= EQUAL_SHARE * len(pairs)
