"""The stage that tunes a simulator: which weights come out, and that nothing gets lost."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from agents.tuning import tune as stage
from agents.tuning.sft import SFTConfig, finetune
from agents.tuning.sft_config import SFTOptions
from agents.tuning.sft_state import STATE_FILE
from agents.tuning.tune import prepare, tune
from zs_env.lm.generator import SamplingParams
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder
from zs_env.search.engine import SearchRequest
from zs_env.search.simulator import SimulatedSearchEngine

QUICK = SFTOptions(
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    batch_size=4,
    warmup_steps=2,
    eval_every=0,
    autocast=False,
)


def record(number, split="train", **changes):
    return {
        "id": f"{split}{number}",
        "data_source": "made",
        "question": f"Who founded {split} {number}?",
        "golden_answers": [f"Founder {number}"],
        "query": f"founder {number}",
        "documents": [f"Founder {number} did.", f"Film {number} is long." * (number % 3)],
        "label": ["useful", "noisy"][number % 2],
        "split": split,
    } | changes


def write_rows(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read_lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Return 40 rows to learn, 6 to validate and 3 that nobody may look at."""
    rows = [record(n) for n in range(40)]
    rows += [record(n, "validation") for n in range(6)]
    rows += [record(n, "test") for n in range(3)]
    return write_rows(tmp_path_factory.mktemp("rows") / "labelled.jsonl", rows)


@pytest.fixture(scope="module")
def llama(tmp_path_factory, make_tiny_model, tiny_tokenizer):
    """Return the folder of a random Llama of two layers."""
    folder = tmp_path_factory.mktemp("llama")
    make_tiny_model("llama", initializer_range=0.1).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def weights(folder):
    return {name: value.clone() for name, value in load(folder).state_dict().items()}


def run(file, model, options, out, **arguments):
    arguments = {"report": lambda line: None} | arguments
    return tune(prepare(file, model, options), options, out, **arguments)


def rows_of(out):
    rows = read_lines(out / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def test_weights_are_those_of_plain_fine_tuning(labelled, llama, tmp_path):
    job = prepare(labelled, llama, QUICK)
    expected = load(llama)
    config = SFTConfig(1e-2, 1e-3, batch_size=4, warmup_steps=2, autocast=False)
    finetune(expected, job.train, config)
    tune(job, QUICK, tmp_path / "out", report=lambda line: None)
    torch.testing.assert_close(
        weights(tmp_path / "out/model"), dict(expected.state_dict()), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("changes", [{"max_tokens_per_pass": 200}, {"pack": 256}])
def test_passes_and_packing_change_no_weights(labelled, llama, tmp_path, changes):
    run(labelled, llama, QUICK, tmp_path / "plain")
    run(labelled, llama, replace(QUICK, **changes), tmp_path / "other")
    plain, other = (rows_of(tmp_path / name) for name in ("plain", "other"))
    assert [r["train/loss"] for r in plain] == pytest.approx(
        [r["train/loss"] for r in other], abs=1e-4
    )
    torch.testing.assert_close(
        weights(tmp_path / "plain/model"), weights(tmp_path / "other/model"), atol=1e-3, rtol=1e-2
    )


def test_metrics_have_a_row_a_step_and_the_validations(labelled, llama, tmp_path):
    options = replace(QUICK, eval_every=4, epochs=2, patience=0)
    lines = []
    run(labelled, llama, options, tmp_path / "out", report=lines.append)
    rows = rows_of(tmp_path / "out")
    assert [row["step"] for row in rows] == list(range(21))
    validated = [row["step"] for row in rows if "eval/validation/loss" in row]
    assert validated == [0, 4, 8, 12, 16, 20]
    assert rows[-1]["eval/validation/loss"] < 0.5 * rows[0]["eval/validation/loss"]
    assert len(lines) == 6
    assert lines[-1].startswith("step 20/20  loss ")


def test_every_epoch_has_an_order_of_its_own(labelled, llama, tmp_path):
    job = prepare(labelled, llama, replace(QUICK, epochs=2))
    loop = stage._Run(job, replace(QUICK, epochs=2), tmp_path, print)
    first, second = ([e for i in r for e in loop._batch(i)] for r in (range(10), range(10, 20)))
    assert sorted(e.name for e in first) == sorted(e.name for e in second)
    assert first != second


def test_run_stops_early_and_keeps_the_best_weights(labelled, llama, tmp_path):
    # Every step does harm, so the weights that it began with are the best.
    harmful = replace(QUICK, learning_rate=3.0, warmup_steps=0, eval_every=2, patience=2)
    progress = run(labelled, llama, harmful, tmp_path / "out")
    assert (progress.step, progress.best_step, progress.num_worse) == (4, 0, 2)
    torch.testing.assert_close(weights(tmp_path / "out/model"), weights(llama))


def test_without_validation_the_last_weights_are_kept(labelled, llama, tmp_path):
    harmful = replace(QUICK, learning_rate=3.0, warmup_steps=0)
    progress = run(labelled, llama, harmful, tmp_path / "out")
    assert (progress.step, progress.best_step) == (10, -1)
    assert not torch.equal(
        weights(tmp_path / "out/model")["lm_head.weight"], weights(llama)["lm_head.weight"]
    )


def test_held_out_rows_are_never_learned(labelled, llama):
    options = replace(QUICK, off_topic=1.0, shuffled=0.5, eval_every=2)
    job = prepare(labelled, llama, options)
    assert job.counts == {"train": 80, "off_topic": 40, "validation": 6, "too_long": 0}
    assert all("test" not in e.name and "validation" not in e.name for e in job.train)
    assert all(e.name.startswith("validation") for e in job.validation)


def test_test_rows_change_nothing(labelled, llama, tmp_path):
    kept = [row for row in read_lines(labelled) if row["split"] != "test"]
    without = write_rows(tmp_path / "without.jsonl", kept)
    options = replace(QUICK, eval_every=2, max_steps=4)
    for name, file in (("with", labelled), ("without", without)):
        run(file, llama, options, tmp_path / name)
    assert rows_of(tmp_path / "with") == rows_of(tmp_path / "without")


class Interruption(BaseException):
    """Stands for a signal."""


def interrupt_save(monkeypatch, number):
    """Let the `number`-th state end the run instead of being written."""
    original, calls = stage.save_state, []

    def save(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise Interruption
        original(*arguments)

    monkeypatch.setattr(stage, "save_state", save)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"autocast": True, "epochs": 2},
        {"lora_rank": 2, "lora_dropout": 0.5, "lora_merge": True},
        {"off_topic": 0.5, "shuffled": 0.5, "pack": 200, "eval_every": 2, "patience": 3},
    ],
)
def test_interrupted_run_ends_with_the_same_weights(
    labelled, llama, tmp_path, monkeypatch, changes
):
    options = replace(QUICK, **{"eval_every": 4, **changes})
    run(labelled, llama, options, tmp_path / "whole", save_every=2)
    with monkeypatch.context() as patch:
        interrupt_save(patch, 3)
        with pytest.raises(Interruption):
            run(labelled, llama, options, tmp_path / "resumed", save_every=2)
    assert (tmp_path / "resumed/state" / STATE_FILE).exists()
    assert not (tmp_path / "resumed/model").exists()
    run(labelled, llama, options, tmp_path / "resumed", save_every=2)
    whole, resumed = (weights(tmp_path / name / "model") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "resumed")


def test_run_that_is_over_is_not_repeated(labelled, llama, tmp_path):
    out = tmp_path / "out"
    run(labelled, llama, replace(QUICK, max_steps=2), out)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert run(labelled, llama, replace(QUICK, max_steps=2), out).step == 0
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert not (out / "state").exists()


def test_damaged_state_is_reported(labelled, llama, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / STATE_FILE).write_bytes(b"rubbish")
    with pytest.raises(OSError, match="must be a readable safetensors file"):
        run(labelled, llama, QUICK, tmp_path)


def test_loss_that_is_not_finite_names_step_and_rows(labelled, llama, tmp_path):
    job = prepare(labelled, llama, QUICK)
    with torch.no_grad():
        job.model.causal.lm_head.weight[5] = torch.inf
    with pytest.raises(
        FloatingPointError,
        match=r"loss \w+ .* in step 1, whose rows are (train\d+ \(line \d+\)(, )?){4};",
    ):
        tune(job, QUICK, tmp_path / "out", report=lambda line: None)
    assert not (tmp_path / "out/model").exists()


def test_rows_longer_than_the_context_are_dropped_and_counted(labelled, llama, tmp_path):
    long = [record(n, query="far " * 300, question=f"Who {n}?") for n in range(50, 53)]
    rows = [*read_lines(labelled), *long]
    job = prepare(write_rows(tmp_path / "rows.jsonl", rows), llama, QUICK)
    assert (job.counts["train"], job.counts["too_long"]) == (40, 3)
    with pytest.raises(ValueError, match="must hold train rows of at most 256 tokens, got 3 long"):
        prepare(write_rows(tmp_path / "long.jsonl", long), llama, QUICK)


def test_missing_splits_are_refused(llama, tmp_path):
    only = {s: write_rows(tmp_path / s, [record(0, s)]) for s in ("train", "validation")}
    with pytest.raises(ValueError, match="must hold rows of split 'train', got none"):
        prepare(only["validation"], llama, QUICK)
    with pytest.raises(ValueError, match="split 'validation' where `eval_every` is above 0, got n"):
        prepare(only["train"], llama, replace(QUICK, eval_every=5))


def test_row_longer_than_the_context_cannot_be_packed(labelled, llama):
    with pytest.raises(ValueError, match="`pack` must be at most 256, got 300"):
        prepare(labelled, llama, replace(QUICK, pack=300))


def test_lora_writes_an_adapter_that_loads(labelled, llama, tmp_path):
    options = replace(QUICK, lora_rank=4)
    job = prepare(labelled, llama, options)
    assert all("lora" in name for name in job.model.trained())
    tune(job, options, tmp_path / "out", report=lambda line: None)
    folder = tmp_path / "out/model"
    assert (folder / "adapter_config.json").exists()
    assert not (folder / "model.safetensors").exists()
    loaded = TransformersLM.from_pretrained(folder)
    ids = torch.tensor([[5, 6, 7, 8]])
    tuned = job.model.causal.eval()(ids).logits
    torch.testing.assert_close(loaded.model(ids).logits, tuned, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(load(llama)(ids).logits, tuned, atol=1e-2)


def test_merged_lora_is_a_plain_model_that_says_the_same(labelled, llama, tmp_path):
    options = replace(QUICK, lora_rank=4, lora_merge=True)
    job = prepare(labelled, llama, options)
    tune(job, options, tmp_path / "out", report=lambda line: None)
    folder = tmp_path / "out/model"
    assert not [file for file in folder.iterdir() if "adapter" in file.name]
    assert weights(folder).keys() == weights(llama).keys()
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(
        load(folder)(ids).logits, job.model.causal.eval()(ids).logits, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("wanted", "dtype"), [("auto", "F16"), ("bfloat16", "BF16")])
def test_shipped_simulator_learns_and_is_written_as_it_was(labelled, tmp_path, wanted, dtype):
    options = SFTOptions(learning_rate=2e-3, warmup_steps=2, eval_every=5, save_dtype=wanted)
    job = prepare(labelled, "simulator", replace(options, batch_size=8))
    assert job.model.path == str(model_folder("simulator"))
    tune(job, replace(options, batch_size=8), tmp_path / "out", report=lambda line: None)
    rows = [row for row in rows_of(tmp_path / "out") if "eval/validation/loss" in row]
    assert rows[-1]["eval/validation/loss"] < 0.8 * rows[0]["eval/validation/loss"]
    header = (tmp_path / "out/model/model.safetensors").read_bytes()[:2000].decode(errors="ignore")
    assert f'"dtype":"{dtype}"' in header
    engine = SimulatedSearchEngine(TransformersLM.from_pretrained(tmp_path / "out/model"))
    assert engine.search([SearchRequest("founder 3", "Who founded train 3?", ("Founder 3",))])[0]


def test_written_tokenizer_is_the_one_that_was_read(labelled, llama, tmp_path):
    run(labelled, llama, replace(QUICK, max_steps=1), tmp_path / "out")
    before, after = (TransformersLM.from_pretrained(f) for f in (llama, tmp_path / "out/model"))
    text = "Question: Who?\nDoc 1: Nobody."
    assert before.encode(text) == after.encode(text)
    params = SamplingParams(max_new_tokens=3)
    assert len(after.complete([text], [0], params)) == 1


def test_model_that_is_not_there_is_reported(labelled, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        prepare(labelled, str(tmp_path / "nowhere"), QUICK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "`learning_rate` must be greater than 0, got 0.0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        ({"pack": -1}, "`pack` must be at least 0, got -1"),
        ({"off_topic": 1.5}, r"`off_topic` must be a share in \[0, 1\], got 1.5"),
        ({"lora_merge": True}, "`lora_merge` must come with a `lora_rank` above 0"),
        ({"save_dtype": "int8"}, "`save_dtype` must be one of auto, .*, got 'int8'"),
        ({"max_grad_norm": float("nan")}, "`max_grad_norm` must be greater than 0, got nan"),
    ],
)
def test_wrong_option_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SFTOptions(**changes)


def test_best_weights_of_an_older_state_are_removed_last(labelled, llama, tmp_path):
    options = replace(QUICK, eval_every=2, max_steps=6, patience=0)
    job = prepare(labelled, llama, options)
    loop = stage._Run(job, options, tmp_path, lambda line: None)
    progress = loop.learn(save_every=6)
    kept = sorted(Path(file).name for file in (tmp_path / "state").iterdir())
    assert kept == [f"best-{progress.best_step}.safetensors", STATE_FILE]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", [{}, {"pack": 256}, {"lora_rank": 4, "lora_merge": True}])
def test_stage_learns_on_a_gpu(labelled, llama, tmp_path, changes):
    options = replace(QUICK, autocast=True, eval_every=5, epochs=2, patience=0, **changes)
    job = prepare(labelled, llama, options)
    assert job.accelerator.device.type == "cuda"
    tune(job, options, tmp_path / "out", report=lambda line: None)
    losses = [r["eval/validation/loss"] for r in rows_of(tmp_path / "out") if r["step"] % 5 == 0]
    assert losses[-1] < 0.7 * losses[0]
    assert weights(tmp_path / "out/model").keys() == weights(llama).keys()
