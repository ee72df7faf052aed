"""Chats: a model reads its chat template exactly once, whichever back end it is in."""

import json
from contextlib import closing
from types import SimpleNamespace

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from zs_env.lm.chat import prompt_text
from zs_env.lm.generator import Chat, SamplingParams
from zs_env.lm.openai import API_KEY_VARIABLE, OpenAIGenerator
from zs_env.lm.transformers import TransformersLM
from zs_env.lm.vllm import VLLMGenerator
from zs_env.remote.limits import Limits
from zs_env.search.engine import NoiseKind, SearchEngineError, SearchRequest
from zs_env.search.prompts import load_prompt, tuned_prompt
from zs_env.search.registry import make_engine
from zs_env.search.simulator import SimulatedSearchEngine

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
GREEDY = SamplingParams(12, 0.0)
REQUESTS = [
    SearchRequest("who\nis it", "Who?", ("Ada", "A. L."), seed=5),
    SearchRequest("where", "Where?", ("Paris",), True, 6, 2, NoiseKind.NEAR_MISS),
]


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_tokenizer):
    """Return a tokenizer whose template begins a text with a token that encode would add too."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def model(request, make_tiny_model):
    # About a token a byte, and the prompted prompt has a few thousand.
    return make_tiny_model(request.param, max_position_embeddings=8192)


@pytest.fixture(scope="module")
def plain_folder(model, tiny_tokenizer, tmp_path_factory):
    return save(model, tiny_tokenizer, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def chat_folder(model, chat_tokenizer, tmp_path_factory):
    return save(model, chat_tokenizer, tmp_path_factory.mktemp("chat"))


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def in_template(user, system=None):
    """Return what TEMPLATE makes of a chat."""
    before = "" if system is None else f"<|system|>{system}<|end|>"
    return f"<|endoftext|>{before}<|user|>{user}<|end|><|assistant|>"


def test_chat_is_read_as_its_template_writes_it(chat_folder):
    lm = TransformersLM.from_pretrained(chat_folder)
    chats = [Chat("who"), Chat("who", "find"), Chat("who", "")]
    texts = [in_template("who"), in_template("who", "find"), in_template("who", "")]
    assert lm.has_chat_template
    assert [prompt_text(chat, lm.tokenizer) for chat in chats] == texts
    replies = lm.complete(chats, [1, 2, 3], GREEDY)
    assert replies == lm.complete(texts, [1, 2, 3], GREEDY)
    assert replies[0] not in lm.complete(["who", in_template(in_template("who"))], [1, 1], GREEDY)


def test_text_is_read_as_it_is_whatever_the_template(chat_folder, plain_folder):
    with_template, without = map(TransformersLM.from_pretrained, (chat_folder, plain_folder))
    texts = ["who", in_template("who")]
    assert with_template.complete(texts, [1, 2], GREEDY) == without.complete(texts, [1, 2], GREEDY)


def test_model_without_template_continues_the_plain_text(plain_folder):
    lm = TransformersLM.from_pretrained(plain_folder)
    assert not lm.has_chat_template
    chats, texts = (
        [Chat("who"), Chat("who", "find"), Chat("who", "")],
        ["who", "find\n\nwho", "who"],
    )
    assert lm.complete(chats, [1, 2, 3], GREEDY) == lm.complete(texts, [1, 2, 3], GREEDY)


def test_chat_that_the_template_refuses_cannot_be_asked(model, chat_tokenizer):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=chat_tokenizer.backend_tokenizer)
    tokenizer.chat_template = NO_SYSTEM + TEMPLATE.replace("{{ bos_token }}", "")
    lm = TransformersLM(model, tokenizer)
    engine = SimulatedSearchEngine(lm, prompt=lambda request: Chat(request.query, "find"))
    with pytest.raises(
        SearchEngineError, match=r"cannot be asked: .*refuses the prompt: no system"
    ):
        engine.search(REQUESTS)


# As engines, by name


def replies(lm, texts, tokens, temperature):
    return [
        lm.complete([text], [request.seed], SamplingParams(tokens * request.top_k, temperature))[0]
        for text, request in zip(texts, REQUESTS, strict=True)
    ]


@pytest.fixture
def own(tmp_path):
    """Return a short prompt in a file."""
    file = tmp_path / "own.jinja"
    file.write_text("Find {{ top_k }} for {{ query }}\n")
    return file


@pytest.mark.parametrize(
    ("prompt", "chat", "is_chat"),
    [
        ("tuned", "", False),
        ("tuned", "&chat=true", True),
        ("own", "", True),
        ("own", "&chat=true", True),
        ("own", "&chat=false", False),
    ],
)
def test_engine_of_a_folder_asks_with_its_chat_template_once(
    chat_folder, own, prompt, chat, is_chat
):
    place = own if prompt == "own" else prompt
    engine = make_engine(f"simulator:{chat_folder}?prompt={place}&tokens=8&temperature=0.7{chat}")
    texts = [tuned_prompt(request) for request in REQUESTS]
    texts = ["Find 3 for who is it\n", "Find 2 for where\n"] if prompt == "own" else texts
    read = [in_template(text) if is_chat else text for text in texts]
    assert engine.replies(REQUESTS) == replies(engine.generator, read, 8, 0.7)


def test_engine_of_a_folder_without_template_asks_in_plain_text(plain_folder, own):
    engine = make_engine(f"simulator:{plain_folder}?prompt={own}&tokens=8&temperature=0.7")
    texts = ["Find 3 for who is it\n", "Find 2 for where\n"]
    assert engine.replies(REQUESTS) == replies(engine.generator, texts, 8, 0.7)


@pytest.mark.parametrize("has_template", [True, False])
def test_prompted_model_reads_the_prompt_in_its_chat_template_if_it_has_one(
    has_template, chat_folder, plain_folder, monkeypatch
):
    folder, read = chat_folder if has_template else plain_folder, []
    engine = make_engine(f"simulator:{folder}?prompt=prompted&tokens=1")
    run = engine.generator.run

    def spy(rows, *arguments, **options):
        read.extend(engine.generator.tokenizer.decode(row.prompt) for row in rows)
        return run(rows, *arguments, **options)

    monkeypatch.setattr(engine.generator, "run", spy)
    engine.replies(REQUESTS)
    users = [load_prompt("prompted")(request).user for request in REQUESTS]
    assert read == (list(map(in_template, users)) if has_template else users)


def test_chat_with_a_folder_without_template_is_refused(plain_folder):
    with pytest.raises(ValueError, match=r"`chat` must be false for a model without chat template"):
        make_engine(f"simulator:{plain_folder}?chat=true")


def test_own_template_brings_the_system_message_too(chat_folder, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text('{% set system = "" %}\nFind {{ top_k }} for {{ query }}{#- -#}\n')
    engine = make_engine(f"simulator:{chat_folder}?prompt={file}&tokens=8&temperature=0")
    texts = [in_template("Find 3 for who is it", ""), in_template("Find 2 for where", "")]
    assert engine.replies(REQUESTS) == replies(engine.generator, texts, 8, 0.0)


# On a server


@pytest.fixture
def ask(make_server, monkeypatch):
    """Return a function that searches on a server, by the engine's name; returns what arrived."""
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)

    def ask(options):
        server = make_server(text=lambda body: "**Doc 1:** one\n**Doc 2:** two\n**Doc 3:** three")
        engine = make_engine(f"simulator:{server.url}?{options}#model")
        with closing(engine.generator):
            found = engine.search(REQUESTS)
        assert [[d.text for d in documents] for documents in found] == [
            ["one", "two", "three"],
            ["one", "two"],
        ]
        return sorted(server.requests, key=lambda request: request.body["seed"])

    return ask


def test_server_is_sent_a_chat_and_applies_the_template_itself(ask):
    arrived = ask("prompt=prompted&tokens=40&temperature=0.7")
    assert {request.path for request in arrived} == {"/v1/chat/completions"}
    for request, asked in zip(arrived, REQUESTS, strict=True):
        user = load_prompt("prompted")(asked).user
        assert request.body["messages"] == [{"role": "user", "content": user}]
        assert "prompt" not in request.body
        assert request.body["max_tokens"] == asked.top_k * 40
        assert request.body["temperature"] == 0.7
        assert request.body["seed"] == asked.seed
    assert "Ada | A. L." in json.dumps(arrived[0].body)


@pytest.mark.parametrize(
    ("options", "prompt"),
    [("prompt=tuned", tuned_prompt), ("prompt=prompted&chat=false", load_prompt("prompted"))],
)
def test_server_is_sent_plain_text_where_no_chat_is_wanted(ask, options, prompt):
    arrived = ask(options)
    assert {request.path for request in arrived} == {"/v1/completions"}
    expected = [prompt(request) for request in REQUESTS]
    assert [request.body["prompt"] for request in arrived] == [
        text.user if isinstance(text, Chat) else text for text in expected
    ]
    assert not any("messages" in request.body for request in arrived)


def test_server_is_sent_a_tuned_prompt_as_a_chat_where_that_was_tuned(ask):
    arrived = ask("chat=true")
    assert {request.path for request in arrived} == {"/v1/chat/completions"}
    assert [request.body["messages"] for request in arrived] == [
        [{"role": "user", "content": tuned_prompt(request)}] for request in REQUESTS
    ]


def test_server_is_sent_the_system_message_of_a_template(ask, tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text('{% set system = "" %}\n{{ query }}')
    arrived = ask(f"prompt={file}")
    assert arrived[0].body["messages"] == [
        {"role": "system", "content": ""},
        {"role": "user", "content": "who is it"},
    ]


def test_generator_for_chats_puts_no_chat_into_another(make_server):
    server = make_server()
    with closing(OpenAIGenerator(server.url, chat=True, api_key_variable=None)) as generator:
        generator.complete([Chat("q", "s"), "q"], [0, 1], GREEDY)
    arrived = sorted(server.requests, key=lambda request: request.body["seed"])
    assert [[m["content"] for m in request.body["messages"]] for request in arrived] == [
        ["s", "q"],
        ["q"],
    ]


def test_server_without_template_is_an_error_that_says_so(make_server):
    server = make_server(plan=lambda request: ("status", 400, "the model has no chat template"))
    with closing(OpenAIGenerator(server.url, limits=Limits(max_tries=1))) as generator:
        engine = SimulatedSearchEngine(generator, prompt="prompted")
        with pytest.raises(SearchEngineError, match=r"simulator failed: .*has no chat template"):
            engine.search(REQUESTS)


# In vLLM: what it is given; `test_vllm.py` asks the real one


class RecordingVLLM:
    """Takes the place of `vllm.LLM`, and keeps the ids that it is given."""

    def __init__(self, tokenizer):
        self.model_config = SimpleNamespace(max_model_len=8192)
        self.prompts, self._tokenizer = [], tokenizer

    def get_tokenizer(self):
        return self._tokenizer

    def generate(self, inputs, sampling, use_tqdm):
        self.prompts += [each["prompt_token_ids"] for each in inputs]
        output = SimpleNamespace(token_ids=[40], finish_reason="length", stop_reason=None)
        return [SimpleNamespace(outputs=[output]) for _ in inputs]


@pytest.mark.parametrize("has_template", [True, False])
def test_vllm_is_given_the_ids_of_the_template_once(
    has_template, chat_tokenizer, tiny_tokenizer, monkeypatch
):
    module = SimpleNamespace(SamplingParams=lambda **arguments: arguments)
    monkeypatch.setattr("zs_env.lm.vllm._import_vllm", lambda: module)
    llm = RecordingVLLM(chat_tokenizer if has_template else tiny_tokenizer)
    lm = VLLMGenerator(llm)
    lm.complete([Chat("who", "find"), "who"], [0, 1], GREEDY)
    chat = in_template("who", "find") if has_template else "find\n\nwho"
    assert lm.has_chat_template == has_template
    assert [tiny_tokenizer.decode(ids) for ids in llm.prompts] == [chat, "who"]
    assert torch.tensor(llm.prompts[0]).eq(tiny_tokenizer.eos_token_id).sum() == has_template
