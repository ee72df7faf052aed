"""The batched decoder, held against Hugging Face's own and against re-reading everything."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from zs_env.lm.decoding import Decoding
from zs_env.lm.generator import FinishReason, LanguageModelError, SamplingParams
from zs_env.lm.transformers import TransformersLM

PROMPTS = [
    "Question: who",
    "Hi",
    "<think> I have to search.</think><search>",
    "Port Vardale? é",
    "x y z",
]
SEEDS = [11, 12, 13, 14, 15]
TURNS = [" Doc 1: it was Heldra", "\n", " who founded Altek Labs and where", "!", " born in"]


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def model(request, make_tiny_model):
    """Return a float64 model, in which no two logits tie."""
    return make_tiny_model(request.param, torch.float64)


@pytest.fixture(scope="module")
def plain(model):
    """Return the same model as Hugging Face runs it."""
    return copy.deepcopy(model)


@pytest.fixture(scope="module")
def lm(model, plain, tiny_tokenizer):
    return TransformersLM(model, tiny_tokenizer)


def encode_all(lm, texts):
    return [lm.encode(text) for text in texts]


def generate(lm, prompts, seeds=SEEDS, **params):
    """Continue prompts in a fresh session."""
    session = lm.session(len(prompts))
    rows = range(len(prompts))
    return session.generate(rows, prompts, seeds[: len(prompts)], SamplingParams(**params))


def recomputed(plain, context, ids, temperature=1.0):
    """Return the log-probabilities of `ids` after `context`, from one full forward pass."""
    with torch.no_grad():
        logits = plain(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    logprobs = torch.log_softmax(logits / temperature, -1)
    return logprobs.gather(-1, torch.tensor(ids)[:, None])[:, 0]


def assert_same(left, right):
    """Compare completions: ids exactly, log-probabilities up to rounding."""
    for one, other in zip(left, right, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def play(lm, rows, seeds=None, num_turns=3, max_new_tokens=7, order=None, per_call=None):
    """Play several turns in a session; return completions by (turn, row) and the transcripts.

    Args:
        rows: The rows that take part; row i reads PROMPTS[i] first.
        seeds: Seed of each row.
        order: The order in which rows are handed over.
        per_call: Rows a call; None means all of them.
    """
    session = lm.session(len(PROMPTS))
    seeds = seeds or SEEDS
    params = SamplingParams(max_new_tokens, 1.0)
    found, transcripts = {}, {row: [] for row in rows}
    for turn in range(num_turns):
        listed = [row for row in (order or rows) if row in rows]
        size = per_call or len(listed)
        for start in range(0, len(listed), size):
            part = listed[start : start + size]
            texts = [PROMPTS[r] if turn == 0 else TURNS[(r + turn) % len(TURNS)] for r in part]
            new = encode_all(lm, texts)
            keys = [seeds[r] + 1000 * turn for r in part]
            for row, tokens, completion in zip(
                part, new, session.generate(part, new, keys, params), strict=True
            ):
                found[turn, row] = (
                    list(transcripts[row]) + tokens,
                    keys[part.index(row)],
                    completion,
                )
                transcripts[row] += [*tokens, *completion.token_ids]
    return found


def completions(found):
    return {key: completion for key, (_, _, completion) in found.items()}


def test_greedy_equals_hugging_faces_generate(lm, plain):
    prompts = encode_all(lm, PROMPTS)
    for prompt, found in zip(
        prompts, generate(lm, prompts, max_new_tokens=20, temperature=0.0), strict=True
    ):
        expected = plain.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
        )[0, len(prompt) :]
        assert found.token_ids == expected.tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_stored_logprobs_equal_recomputed_ones(lm, plain, temperature):
    prompts = encode_all(lm, PROMPTS)
    found = generate(lm, prompts, max_new_tokens=15, temperature=temperature)
    for prompt, completion in zip(prompts, found, strict=True):
        expected = recomputed(plain, prompt, completion.token_ids, temperature or 1.0)
        torch.testing.assert_close(
            torch.tensor(completion.logprobs, dtype=torch.float64), expected, atol=1e-4, rtol=0
        )


def test_session_of_several_turns_equals_reading_the_whole_transcript_again(lm, plain):
    for (_, row), (context, seed, completion) in play(lm, range(len(PROMPTS))).items():
        again = lm.session(1).generate([0], [context], [seed], SamplingParams(7, 1.0))
        assert_same([completion], again)
        expected = recomputed(plain, context, completion.token_ids)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4), row


@pytest.mark.parametrize("order", [[4, 2, 0, 1, 3], [1, 0, 3, 4, 2]])
def test_order_of_rows_does_not_matter(lm, order):
    expected = completions(play(lm, range(5)))
    found = completions(play(lm, range(5), order=order))
    assert_same([found[key] for key in expected], expected.values())


def test_sampling_does_not_depend_on_what_else_is_in_the_batch(lm):
    together = completions(play(lm, range(5)))
    for row in range(5):
        alone = completions(play(lm, [row]))
        assert_same(alone.values(), [together[turn, row] for turn in range(3)])


@pytest.mark.parametrize("per_call", [1, 2])
def test_rows_may_be_continued_in_several_calls(lm, per_call):
    expected = completions(play(lm, range(5)))
    found = completions(play(lm, range(5), per_call=per_call))
    assert_same([found[key] for key in expected], expected.values())


@pytest.mark.parametrize("max_batch_size", [1, 2, 3])
def test_splitting_a_batch_changes_nothing(model, lm, tiny_tokenizer, max_batch_size):
    split = TransformersLM(model, tiny_tokenizer, max_batch_size)
    expected, found = completions(play(lm, range(5))), completions(play(split, range(5)))
    assert_same([found[key] for key in expected], expected.values())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=2, max_size=5))
def test_rows_may_skip_turns(lm, turns):
    session = lm.session(5)
    transcripts = {row: [] for row in range(5)}
    for turn, rows in enumerate(turns):
        part = sorted(rows, key=lambda row: (row * 3) % 5)
        new = encode_all(lm, [PROMPTS[(row + turn) % 5] for row in part])
        found = session.generate(part, new, [turn * 5 + r for r in part], SamplingParams(4, 1.0))
        for row, tokens, completion in zip(part, new, found, strict=True):
            transcripts[row] += tokens
            alone = lm.session(1).generate(
                [0], [transcripts[row]], [turn * 5 + row], SamplingParams(4, 1.0)
            )
            assert_same([completion], alone)
            transcripts[row] += completion.token_ids


def test_cleared_row_forgets_and_others_do_not(lm):
    prompts = encode_all(lm, PROMPTS)
    params = SamplingParams(5, 1.0)
    session = lm.session(5)
    first = session.generate(range(5), prompts, SEEDS, params)
    session.clear([1, 3])
    again = session.generate(range(5), prompts, SEEDS, params)
    for row in range(5):
        if row in (1, 3):
            assert_same([again[row]], [first[row]])
        else:
            context = [*prompts[row], *first[row].token_ids, *prompts[row]]
            assert_same([again[row]], lm.session(1).generate([0], [context], [SEEDS[row]], params))


def test_rows_that_finish_early_leave_the_others_as_they_were(lm):
    """With a stop string that some rows meet early, the batch is compacted on the way."""
    prompts = encode_all(lm, PROMPTS) * 3
    seeds = list(range(15))
    free = generate(lm, prompts, seeds, max_new_tokens=25)
    letters = [letter for completion in free for letter in completion.text if letter.isascii()]
    stop = (max(set(letters), key=letters.count),)
    session = lm.session(15)
    found = session.generate(range(15), prompts, seeds, SamplingParams(25, 1.0, stop))
    lengths = {len(completion.token_ids) for completion in found}
    assert len(lengths) > 4, "the test needs rows that finish at different times"
    for one, other in zip(found, free, strict=True):
        assert one.token_ids == other.token_ids[: len(one.token_ids)]
    new = [lm.encode(TURNS[i % 5]) for i in range(15)]
    later = session.generate(range(15), new, seeds, SamplingParams(6, 1.0))
    for row in range(15):
        context = [*prompts[row], *found[row].token_ids, *new[row]]
        alone = lm.session(1).generate([0], [context], [seeds[row]], SamplingParams(6, 1.0))
        assert_same([later[row]], alone)


def test_stop_string_over_several_tokens_ends_the_text(lm):
    prompts, seeds = encode_all(lm, PROMPTS) * 4, list(range(20))
    tried = 0
    for row, completion in enumerate(generate(lm, prompts, seeds, max_new_tokens=25)):
        pieces = [lm.tokenizer.decode([i]) for i in completion.token_ids[:-1]]
        starts = range(4, len(pieces) - 3)
        starts = [i for i in starts if "".join(pieces[i : i + 3]).isascii()]
        for start in starts[:2]:
            stop = "".join(pieces[start : start + 3])
            session = lm.session(1)
            params = SamplingParams(25, 1.0, ("zzz", stop))
            found = session.generate([0], [prompts[row]], [seeds[row]], params)[0]
            assert found.finish_reason is FinishReason.STOP
            assert found.token_ids == completion.token_ids[: len(found.token_ids)]
            assert len(found.token_ids) <= start + 3
            assert stop in found.text
            assert stop not in lm.tokenizer.decode(found.token_ids[:-1])
            tried += 1
    assert tried > 5


def test_stop_string_inside_a_token_ends_the_text_after_it(lm):
    """A token may straddle the end of a stop string: the ids stay as sampled."""
    prompts = encode_all(lm, PROMPTS)
    free = generate(lm, prompts, max_new_tokens=25)
    tried = 0
    for row, completion in enumerate(free):
        pieces = [lm.tokenizer.decode([i]) for i in completion.token_ids]
        long = [i for i, p in enumerate(pieces) if len(p) > 2 and p.isascii() and i > 2]
        for place in long[:2]:
            stop = pieces[place][:-1]
            found = generate(lm, [prompts[row]], [SEEDS[row]], max_new_tokens=25, stop=(stop,))[0]
            assert found.finish_reason is FinishReason.STOP
            assert stop in found.text
            assert stop not in lm.tokenizer.decode(found.token_ids[:-1])
            tried += 1
    assert tried


class ScriptedHead(torch.nn.Module):
    """Makes the next token of a script the most likely one, whatever was read."""

    def __init__(self, script, vocab_size):
        super().__init__()
        self._logits = iter(torch.nn.functional.one_hot(torch.tensor(script), vocab_size) * 99.0)

    def forward(self, hidden):
        return next(self._logits).expand(*hidden.shape[:-1], -1)


def scripted(model, tokenizer, script):
    """Return a decoder that writes `script`."""
    model = copy.deepcopy(model)
    model.set_output_embeddings(ScriptedHead(script, len(tokenizer)))
    return TransformersLM(model, tokenizer)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("a <search> q</search> b", "</search>", "a <search> q</search>"),
        ("ab。cd", "。", "ab。"),  # its last byte alone decodes to no character at all
        ("ab。cd", "b。c", "ab。c"),
        ("one</answer></search>", "</search>", "one</answer></search>"),
    ],
)
def test_text_ends_with_the_stop_string(model, tiny_tokenizer, text, stop, expected):
    script = tiny_tokenizer.encode(text)
    lm = scripted(model, tiny_tokenizer, script)
    found = generate(
        lm, [[1, 2, 3]], max_new_tokens=len(script), temperature=0.0, stop=("zz", stop)
    )
    assert found[0].text == expected
    assert found[0].token_ids == script[: len(found[0].token_ids)]
    assert found[0].finish_reason is FinishReason.STOP


def test_stop_string_in_the_prompt_does_not_count(lm):
    prompt = lm.encode("an answer </answer>")
    found = generate(lm, [prompt], max_new_tokens=5, stop=("</answer>",))[0]
    assert len(found.token_ids) == 5


def test_end_of_text_is_kept_in_the_ids_and_not_in_the_text(model, tiny_tokenizer):
    biased = copy.deepcopy(model)
    lm = TransformersLM(biased, tiny_tokenizer)
    end = tiny_tokenizer.eos_token_id
    found = generate(lm, encode_all(lm, PROMPTS) * 8, list(range(40)), max_new_tokens=120)
    ended = [c for c in found if c.finish_reason is FinishReason.EOS]
    assert ended, "no row met the end of text"
    for completion in ended:
        assert completion.token_ids[-1] == end
        assert end not in completion.token_ids[:-1]
        assert completion.text == tiny_tokenizer.decode(completion.token_ids[:-1])
    for completion in found:
        if completion.finish_reason is FinishReason.LENGTH:
            assert len(completion.token_ids) == 120


def test_conversation_goes_on_after_an_end_of_text(lm):
    prompts = encode_all(lm, PROMPTS) * 8
    seeds = list(range(40))
    session = lm.session(40)
    first = session.generate(range(40), prompts, seeds, SamplingParams(60, 1.0))
    row = next(i for i, c in enumerate(first) if c.finish_reason is FinishReason.EOS)
    new = lm.encode(TURNS[0])
    found = session.generate([row], [new], [5], SamplingParams(6, 1.0))
    context = [*prompts[row], *first[row].token_ids, *new]
    assert_same(found, lm.session(1).generate([0], [context], [5], SamplingParams(6, 1.0)))


def test_budget_of_tokens_ends_with_reason_length(lm):
    found = generate(lm, encode_all(lm, PROMPTS), max_new_tokens=1)
    assert [len(c.token_ids) for c in found] == [1] * 5
    assert {c.finish_reason for c in found} == {FinishReason.LENGTH}


def test_context_is_filled_to_the_last_token_and_no_further(lm, plain):
    prompt = (lm.encode(TURNS[0]) * 100)[: lm.max_context - 3]
    short = lm.encode("Hi")
    found = generate(lm, [prompt, short], max_new_tokens=8)
    assert len(found[0].token_ids) == 3
    assert found[0].finish_reason is FinishReason.LENGTH
    assert len(found[1].token_ids) == 8
    expected = recomputed(plain, prompt, found[0].token_ids)
    assert found[0].logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("excess", [0, 5])
def test_full_context_gives_an_empty_completion(lm, excess):
    prompt = (lm.encode(TURNS[0]) * 100)[: lm.max_context + excess]
    empty, other = generate(lm, [prompt, lm.encode("Hi")], max_new_tokens=8)
    assert (empty.token_ids, empty.logprobs, empty.text) == ([], [], "")
    assert empty.finish_reason is FinishReason.LENGTH
    assert_same([other], generate(lm, [lm.encode("Hi")], SEEDS[1:], max_new_tokens=8))


def test_row_whose_context_overflowed_stays_full_until_it_is_cleared(lm):
    """Going on without what did not fit would sample from a context that nobody recorded."""
    session = lm.session(1)
    params = SamplingParams(4, 1.0)
    hello = lm.encode("Hi")
    first = session.generate([0], [hello], [1], params)
    assert session.generate([0], [[5] * lm.max_context], [1], params)[0].token_ids == []
    assert session.generate([0], [hello], [1], params)[0].token_ids == []
    session.clear([0])
    assert_same(session.generate([0], [hello], [1], params), first)


def test_no_rows_give_no_completions(lm):
    assert lm.session(2).generate([], [], [], SamplingParams(4)) == []
    assert lm.complete([], [], SamplingParams(4)) == []


def test_completing_texts_equals_continuing_their_ids(lm):
    expected = [c.text for c in generate(lm, encode_all(lm, PROMPTS), max_new_tokens=9)]
    assert lm.complete(PROMPTS, SEEDS, SamplingParams(9, 1.0)) == expected


def test_other_seeds_give_other_texts(lm):
    texts = lm.complete([PROMPTS[0]] * 20, range(20), SamplingParams(9, 1.0))
    assert len(set(texts)) > 10


def test_sampling_leaves_the_global_random_state_alone(lm):
    before = torch.random.get_rng_state()
    lm.complete(PROMPTS, SEEDS, SamplingParams(9, 1.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def negated(model):
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(-1)


def loaded(model):
    model.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items()})


def replaced(model):
    part = model.model.layers[0].mlp
    part.gate_proj.weight = torch.nn.Parameter(-part.gate_proj.weight.detach())


def stepped(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()


def adapted(model):
    """Add adapters that change what the model says."""
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(target_modules=["q_proj", "up_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))


def in_single_precision(model):
    negated(model)
    model.float()


@pytest.mark.parametrize(
    "change", [negated, loaded, replaced, stepped, adapted, in_single_precision]
)
def test_weights_may_change_between_calls(model, tiny_tokenizer, change):
    """The same object samples for a policy that is being trained."""
    trained = copy.deepcopy(model)
    lm = TransformersLM(trained, tiny_tokenizer)
    prompts = encode_all(lm, PROMPTS)
    before = generate(lm, prompts, max_new_tokens=9)
    change(trained)
    after = generate(lm, prompts, max_new_tokens=9)
    assert [c.logprobs for c in after] != [c.logprobs for c in before]
    for prompt, completion in zip(prompts, after, strict=True):
        expected = recomputed(trained, prompt, completion.token_ids)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=2e-3)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_wrapped_model_says_what_its_adapter_makes_it_say(make_tiny_model, tiny_tokenizer):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["v_proj", "o_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(make_tiny_model(), config).eval()
    lm = TransformersLM(wrapped, tiny_tokenizer)
    prompts = encode_all(lm, PROMPTS)
    with wrapped.disable_adapter():
        without = generate(lm, prompts, max_new_tokens=6)
    completions = generate(lm, prompts, max_new_tokens=6)
    assert [c.logprobs for c in completions] != [c.logprobs for c in without]
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = recomputed(wrapped, prompt, completion.token_ids)
        assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_begin_alike_go_on_as_if_alone(lm, temperature):
    """Their prompt is read once; what follows is their own."""
    texts = [PROMPTS[i] for i in (0, 2, 0, 2, 0)]
    session = lm.session(5)
    params = SamplingParams(8, temperature)
    prompts = encode_all(lm, texts)
    found = session.generate(range(5), prompts, SEEDS, params)
    later = session.generate(range(5), encode_all(lm, TURNS), SEEDS, params)
    for row in range(5):
        alone = lm.session(1)
        assert_same([found[row]], alone.generate([0], [prompts[row]], [SEEDS[row]], params))
        new = lm.encode(TURNS[row])
        assert_same([later[row]], alone.generate([0], [new], [SEEDS[row]], params))


def test_nothing_to_read_is_refused(lm):
    params = SamplingParams(4, 1.0)
    with pytest.raises(ValueError, match="`prompts` must have at least one token each"):
        lm.complete(["Hi", ""], [1, 2], params)
    session = lm.session(2)
    with pytest.raises(ValueError, match="`new_tokens` must hold at least one id for an empty"):
        session.generate([0, 1], [[1], []], [1, 2], params)


def test_row_without_new_tokens_goes_on_where_it_was(lm):
    prompt = lm.encode(PROMPTS[0])
    session = lm.session(1)
    first = session.generate([0], [prompt], [1], SamplingParams(4, 1.0))[0]
    found = session.generate([0], [[]], [2], SamplingParams(4, 1.0))
    context = [*prompt, *first.token_ids]
    assert_same(found, lm.session(1).generate([0], [context], [2], SamplingParams(4, 1.0)))


def test_row_that_ended_early_does_not_run_out_of_positions(tiny_tokenizer):
    """It stays in the batch for a while, and learned positions have a last one."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_embd=32,
        n_layer=1,
        n_head=4,
        n_positions=24,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
    )
    lm = TransformersLM(GPT2LMHeadModel(config).eval(), tiny_tokenizer)
    prompts = [[5] * 22, *([[7, i] for i in range(9)])]
    found = generate(lm, prompts, range(10), max_new_tokens=20)
    lengths = [len(completion.token_ids) for completion in found]
    assert (lengths[0], max(lengths)) == (2, 20)


def test_model_folder_is_loaded_as_it_was_saved(model, lm, tiny_tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    loaded = TransformersLM.from_pretrained(tmp_path, dtype=torch.float64)
    params = SamplingParams(9, 0.0)
    assert loaded.complete(PROMPTS, SEEDS, params) == lm.complete(PROMPTS, SEEDS, params)
    assert [loaded.encode(t) for t in PROMPTS] == [tiny_tokenizer.encode(t) for t in PROMPTS]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, name: tensors.pop(name), "where 1 weights are missing, such as model.lay"),
        (
            lambda tensors, name: tensors.update({name: tensors[name][1:].clone()}),
            "where 1 weights are of another shape, such as model.lay",
        ),
    ],
)
def test_weights_that_would_be_random_are_refused(model, tiny_tokenizer, tmp_path, change, message):
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors, "model.layers.0.mlp.down_proj.weight")
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        TransformersLM.from_pretrained(tmp_path)


def test_context_ends_where_longrope_would_turn_other_keys(make_tiny_model, tiny_tokenizer):
    """What is sampled token by token is then what one pass over it finds."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 32,
    }
    model = make_tiny_model(rope_parameters=rope)
    lm = TransformersLM(model, tiny_tokenizer)
    assert lm.max_context == 32
    prompt = lm.encode("Who was it?")
    [found] = lm.session(1).generate([0], [prompt], [3], SamplingParams(64, 1.0))
    assert len(prompt) + len(found.token_ids) == 32
    ids = torch.tensor([[*prompt, *found.token_ids]])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    wanted = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    torch.testing.assert_close(torch.tensor(found.logprobs), wanted, atol=1e-4, rtol=0)


def test_caches_are_held_once_while_sampling(lm, monkeypatch):
    session = lm.session(3)
    prompts = [lm.encode(text) for text in ("Who?", "Where was it?", "a b c")]
    session.generate(range(3), prompts, [1, 2, 3], SamplingParams(4))
    pasts = [weakref.ref(past) for past in session._pasts]
    run = Decoding.run

    def watched(self, *, keep):
        assert [past() for past in pasts] == [None] * 3
        run(self, keep=keep)

    monkeypatch.setattr(Decoding, "run", watched)
    found = session.generate(range(3), prompts, [1, 2, 3], SamplingParams(4))
    assert all(completion.token_ids for completion in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, got 0"),
        ({"temperature": -1.0}, "`temperature` must be 0 or more, got -1.0"),
        ({"temperature": float("nan")}, "`temperature` must be 0 or more, got nan"),
    ],
)
def test_bad_sampling_parameter_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**arguments)


def test_bad_batch_size_is_refused(model, tiny_tokenizer):
    with pytest.raises(ValueError, match="`max_batch_size` must be at least 1, got 0"):
        TransformersLM(model, tiny_tokenizer, 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_no_numbers_are_told(make_tiny_model, tiny_tokenizer, temperature):
    model = make_tiny_model("qwen2", torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    broken = TransformersLM(model, tiny_tokenizer)
    with pytest.raises(LanguageModelError, match="logits that are no finite numbers"):
        generate(broken, [broken.encode(PROMPTS[0])], temperature=temperature, max_new_tokens=3)
