"""`zerosearch train` on models in the layouts of the hub, with recipes and plans."""

import copy
import json
import re
import shutil
import socket
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import gymnasium as gym
import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import Qwen2Config, Qwen2ForCausalLM

from agents.cli.main import main, parse
from agents.cli.plan import make_plan
from agents.cli.recipes import recipe_options
from agents.cli.train import Train, with_simulator
from agents.cli.train_setup import chosen_algorithm, read_settings
from agents.distributed import ALONE
from agents.memory_plan import GIB
from agents.metrics import read_metrics
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.weights import Weights
from zs_env.episode import Rules
from zs_env.lm.transformers import TransformersLM
from zs_env.models import model_folder

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
SHORT = (
    "--steps 2 --num-questions 2 --group-size 2 --max-turns 2 --eval-every 0 --threads 1 "
    "--max-new-tokens 8 --log-formats csv"
).split()
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def instruct(tmp_path_factory, tiny_tokenizer_with_chat):
    """Return a folder as the hub has it: shards, a chat template, an end of turn."""
    folder = tmp_path_factory.mktemp("models") / "instruct"
    tokenizer = tiny_tokenizer_with_chat
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder, max_shard_size="40KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture(scope="module")
def tiny_tokenizer_with_chat(tiny_tokenizer):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def train(out, *options):
    return main(["train", *SHORT, "--engine", "world", "--out", str(out), *map(str, options)])


def rows(out):
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read_metrics(out)
    ]


def failure(capsys, *options):
    assert main(["train", *SHORT, *map(str, options)]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    return message


def test_defaults_are_those_of_the_library():
    for kind in (ModelOptions, Rules):
        names = {f.name for f in fields(kind)} & {f.name for f in fields(Train)} - {"prompt"}
        assert names
        assert all(getattr(Train, name) == getattr(kind(), name) for name in names)


def test_an_instruct_model_is_trained_as_a_chat(instruct, tmp_path):
    out = tmp_path / "run"
    assert train(out, "--policy", instruct, "--prompt", "zerosearch", "--top-k", 2) == 0
    config = json.loads((out / "config.json").read_text())["config"]
    assert (config["chat"], config["prompt"], config["top_k"]) == ("auto", "zerosearch", 2)
    assert not {"resume", "recipe", "dry_run"} & config.keys()
    trained = CausalLMPolicy.load(out)
    assert trained.chat
    assert "<|im_start|>user" in trained.decode(trained.encode_prompt("Who?"))
    # The question is told as it was asked, whatever frame the model reads it in.
    record = json.loads((out / "transcripts.jsonl").read_text().splitlines()[0])
    assert record["question"].endswith("?")
    assert "im_start" not in record["question"]


def test_a_chat_that_is_not_wanted_stays_unwanted(instruct, tmp_path):
    out = tmp_path / "run"
    assert train(out, "--policy", instruct, "--chat", "false", "--steps", 1) == 0
    assert not CausalLMPolicy.load(out).chat
    assert (
        main(["evaluate", "--policy", str(out), "--engine", "world", "--num-questions", "2"]) == 0
    )


def test_adapters_are_trained_resumed_and_merged(instruct, tmp_path, capsys):
    lora = ["--policy", instruct, "--lora-rank", 4, "--learning-rate", 1e-2, "--steps", 3]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train(straight, *lora, "--checkpoint-every", 1, "--keep-checkpoints", 9) == 0
    newest = straight / "checkpoints" / "000003" / "policy.safetensors"
    with safe_open(newest, "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    # As if the run had been killed after its first update.
    straight.rename(stopped)
    wanted = rows(stopped)
    for number in ("000002", "000003"):
        shutil.rmtree(stopped / "checkpoints" / number)
    assert main(["train", "--resume", str(stopped)]) == 0
    assert rows(stopped) == wanted
    assert (stopped / "checkpoint" / "adapter_config.json").is_file()
    assert main(["models", "merge", "--policy", str(stopped), "--out", str(tmp_path / "m")]) == 0
    assert type(CausalLMPolicy.load(tmp_path / "m")) is CausalLMPolicy
    capsys.readouterr()
    message = failure(capsys, "--policy", stopped, "--out", tmp_path / "again")
    assert "`policy` must be a whole model to start from" in message


def test_memory_savers_and_bfloat16_train(instruct, tmp_path, capsys):
    savers = ["--gradient-checkpointing", "--logit-chunk", 3, "--max-tokens-per-pass", 300]
    assert train(tmp_path / "a", "--policy", instruct, *savers, "--rollout-batch-size", 2) == 0
    assert "warning" not in capsys.readouterr().out
    assert train(tmp_path / "b", "--policy", instruct, "--dtype", "bfloat16", "--steps", 1) == 0
    assert "warning: weights in bfloat16 lose every step" in capsys.readouterr().out
    assert (
        CausalLMPolicy.load(tmp_path / "b", options=ModelOptions(dtype="bfloat16")).model.dtype
        == torch.bfloat16
    )


def test_a_simulator_model_is_an_engine(instruct, tmp_path):
    out = tmp_path / "run"
    options = [*SHORT, "--steps", "1", "--policy", str(instruct), "--out", str(out)]
    simulator = f"{instruct}?tokens=4"
    assert main(["train", *options, "--simulator-model", simulator]) == 0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["engine"] == f"simulator:{simulator}"
    assert config["simulator_model"] == ""


@pytest.mark.parametrize("engine", ["world", "simulator-tiny", "simulator:runs/other"])
def test_a_simulator_model_beside_another_engine_is_refused(capsys, engine):
    message = failure(capsys, "--engine", engine, "--simulator-model", "runs/mine")
    assert f"`engine` must be simulator beside `simulator_model`, got '{engine}'" in message


@pytest.mark.parametrize(
    ("engine", "model", "meant"),
    [
        ([], "runs/mine", "simulator:runs/mine"),
        (["simulator"], "runs/mine", "simulator:runs/mine"),
        (["simulator:runs/mine"], "runs/mine", "simulator:runs/mine"),
        (["simulator"], "simulator-tiny", "simulator-tiny"),
        (["simulator-tiny"], "simulator-tiny", "simulator-tiny"),
        (["simulator"], "simulator", "simulator"),
    ],
)
def test_a_simulator_model_says_which_simulator_the_engine_is(engine, model, meant):
    options = [text for name in engine for text in ("--engine", name)]
    config = with_simulator(parse(["train", *options, "--simulator-model", model]))
    assert (config.engine, config.simulator_model) == (meant, "")


def adapter_of(policy, folder, seed=1):
    """Return a folder with an adapter that is not zero."""
    tuned = CausalLMPolicy.load(policy, options=ModelOptions(lora_rank=4, seed=seed))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    tuned.save(folder)
    return folder


def test_a_simulator_that_is_an_adapter_shares_the_policys_model(tmp_path, capsys, monkeypatch):
    """Base, which writes searches; its simulator writes nonsense, which is no matter here."""
    simulator = f"{adapter_of('base', tmp_path / 'simulator')}?tokens=6"
    loaded = []
    load = TransformersLM.from_pretrained
    monkeypatch.setattr(
        TransformersLM,
        "from_pretrained",
        lambda path, *args, **kwargs: loaded.append(path) or load(path, *args, **kwargs),
    )
    lora = ["--lora-rank", 2, "--max-new-tokens", 48, "--eval-every", 2, "--eval-questions", 2]
    options = [*SHORT, *lora, "--learning-rate", 1e-2, "--simulator-model", simulator]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    arguments = [*map(str, options), "--keep-checkpoints", "9"]
    assert main(["train", *arguments, "--out", str(straight)]) == 0
    assert loaded == [model_folder("base")]
    assert any(row["rollout/searches"] > 0 for row in rows(straight))
    wanted = rows(straight)
    straight.rename(stopped)
    shutil.rmtree(stopped / "checkpoints" / "000002")
    assert main(["train", "--resume", str(stopped)]) == 0
    assert rows(stopped) == wanted
    assert loaded == [model_folder("base")] * 2
    evaluate = ["evaluate", "--num-questions", "2", "--engine", f"simulator:{simulator}"]
    assert main([*evaluate, "--policy", str(stopped), "--threads", "1"]) == 0
    assert loaded == [model_folder("base")] * 3


def test_a_plan_counts_a_shared_model_once(tmp_path, capsys):
    simulator = adapter_of("base", tmp_path / "simulator")
    found = []
    for options in (["--lora-rank", "2"], []):
        dry = ["train", "--dry-run", "--engine", f"simulator:{simulator}", *options]
        assert main(dry) == 0
        found.append(" ".join(capsys.readouterr().out.split()))
    weights = Weights.read(model_folder("base")).num_parameters
    adapter = Weights.read(simulator).num_parameters
    assert f"the policy's model + {adapter:,} × 4" in found[0]
    assert f" {weights + adapter:,} × 4" in found[1]
    assert "simulator's keys and values" in found[0]


def test_several_sets_of_questions_are_asked_together(tmp_path):
    files = []
    for name in ("one", "two"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps({"id": name, "question": f"{name}?", "answers": ["x"]}) + "\n")
        files.append(str(file))
    questions = ",".join(files)
    options = ["--questions", questions, "--num-questions", "8", "--steps", "1"]
    assert train(tmp_path / "run", *options) == 0
    text = (tmp_path / "run" / "transcripts.jsonl").read_text()
    asked = {json.loads(line)["question_id"] for line in text.splitlines()}
    assert asked <= {"one", "two"}


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "no-such-model"], "`policy` must name a shipped model"),
        (["--dtype", "float8"], "dtype"),
        (["--lora-rank", "-1"], "`lora_rank` must be at least 0, got -1"),
        (["--logit-chunk", "0"], "`logit_chunk` must be at least 1, got 0"),
        (["--chat", "true"], "`chat` must be false for a tokenizer without chat template"),
        (["--lora-rank", "2", "--lora-targets", "nope"], "`lora_targets` must name linear layers"),
        (["--lora-rank", "2", "--algorithm", "ppo"], "`algorithm` must do without a critic"),
        (["--prompt", "no placeholder"], "`prompt` must be"),
        (["--top-k", "0"], "`top_k` must be at least 1, got 0"),
        (["--simulator-model", "/no/such/folder"], "/no/such/folder"),
        (["--device", "no-such-device", "--dry-run"], "`device` must be one that torch knows"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, tmp_path, options, message):
    assert message in failure(capsys, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_a_model_that_the_hub_does_not_give_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = failure(capsys, "--policy", "nobody/nothing", "--out", tmp_path / "run")
    assert "one on the hub, got nobody/nothing: " in message


def test_a_model_in_the_hubs_cache_is_found_offline(instruct, tmp_path, monkeypatch):
    home = tmp_path / "models--some--instruct"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("a" * 40)
    (home / "snapshots").mkdir()
    (home / "snapshots" / ("a" * 40)).symlink_to(instruct)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    policy = CausalLMPolicy.load("some/instruct", options=ModelOptions(lora_rank=2))
    config = policy.adapter.peft_config["default"]
    # Others find the model by its id, and not by where this machine keeps it.
    assert config.base_model_name_or_path == "some/instruct"


def test_a_dead_server_is_told_before_anything_is_written(capsys, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    engine = f"http://127.0.0.1:{port}/v1#sim"
    message = failure(capsys, "--simulator-model", engine, "--out", tmp_path / "run")
    assert f"`engine` must name a server that replies, got simulator:{engine[:-4]}: Conn" in message
    assert not (tmp_path / "run").exists()


class Refusing(BaseHTTPRequestHandler):
    """Is there, and answers nothing."""

    def do_GET(self):
        self.send_error(503)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *args):
        pass


def test_a_server_that_fails_in_training_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("zs_env.remote.limits.Limits.backoff", lambda *_: 0.0)
    options = ["--policy", "skill", "--max-new-tokens", 48, "--out", tmp_path / "run"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        dead = f"http://127.0.0.1:1/v1,http://127.0.0.1:{server.server_port}/v1#sim"
        message = failure(capsys, "--simulator-model", dead, *options)
        server.shutdown()
    assert "the simulator failed" in message
    assert str(server.server_port) in message


def test_a_full_memory_while_training_is_told_in_one_line(capsys, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(CausalLMPolicy, "score", full)
    message = failure(capsys, "--engine", "world", "--out", tmp_path / "run")
    assert "the memory of cpu is full (CUDA out of memory)" in message


def test_too_little_memory_is_told_before_anything_is_loaded(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.memory_plan.available_memory", lambda device: 10_000_000)
    message = failure(capsys, "--engine", "world", "--out", tmp_path / "run")
    assert "`device` must have 0.0 GiB of free memory (weights" in message
    assert not (tmp_path / "run").exists()


# --- recipes and plans --------------------------------------------------------------------------


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_have_the_papers_settings(file):
    config = recipe_options(file)
    assert (config.num_questions, config.group_size, config.steps) == (64, 5, 200)
    assert (config.kl_coef, config.clip_range, config.temperature) == (0.001, 0.2, 1.0)
    assert (config.max_turns, config.top_k) == (6, 5)
    assert (config.noise_start, config.noise_end, config.noise_base) == (0.0, 0.5, 4)
    assert config.questions == "nq,hotpotqa"
    assert config.prompt == "zerosearch"
    if "lora" in file.stem:
        assert (config.lora_rank, config.lora_alpha) == (16, 32)
    else:
        assert (config.learning_rate, config.dtype) == (1e-6, "float32")
    assert config.critic_learning_rate == 1e-5
    # A number with an exponent is a text to YAML, and `1.0` must stay a number.
    assert isinstance(config.learning_rate, float)
    assert f"--recipe examples/recipes/{file.name}" in file.read_text()


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipes_tell_what_they_leave_open(file):
    text = " ".join(file.read_text().replace("#", " ").split())
    assert "lr_warmup_steps_ratio: 0.95 with GRPO and REINFORCE, 0.285 with PPO, 0.015" in text
    assert "best/ is chosen on questions of the test split and must not be reported" in text
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert "must not be reported" in " ".join(page.split())


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_trains_with_the_papers_other_algorithms(file):
    recipe = ["train", "--recipe", str(file)]
    reinforce = parse([*recipe, "--algorithm", "reinforce?baseline=false"])
    assert (reinforce.kl_coef, reinforce.clip_range) == (0.001, None)
    assert chosen_algorithm(reinforce).kl_coef == 0.001
    ppo = chosen_algorithm(parse([*recipe, "--algorithm", "ppo"]))
    assert (ppo.kl_coef, ppo.clip_range) == (0.001, 0.2)
    # What the command line says is not left out.
    given = parse([*recipe, "--algorithm", "reinforce", "--clip-range", "0.2"])
    with pytest.raises(ValueError, match="`clip_range` is no option of reinforce"):
        chosen_algorithm(given)
    assert parse([*recipe, "--algorithm", "grpo"]).clip_range == 0.2


def test_a_recipe_keeps_what_its_own_algorithm_does_not_know(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("algorithm: reinforce\nclip_range: 0.2\n")
    with pytest.raises(ValueError, match="`clip_range` is no option of reinforce"):
        chosen_algorithm(parse(["train", "--recipe", str(file)]))


def test_an_unknown_algorithm_beside_a_recipe_is_told_in_one_line(capsys):
    message = failure(capsys, "--recipe", RECIPES[0], "--algorithm", "nope")
    assert "`algorithm` must be one of" in message


def test_the_largest_gradient_is_an_option(tmp_path):
    file, out = tmp_path / "mine.yaml", tmp_path / "run"
    file.write_text("max_grad_norm: 0.25\n")
    assert train(out, "--recipe", file, "--steps", 1) == 0
    assert json.loads((out / "config.json").read_text())["config"]["max_grad_norm"] == 0.25
    settings = read_settings(parse(["train", "--max-grad-norm", "0.5"]), ALONE)
    assert settings.trainer.max_grad_norm == 0.5


def test_there_are_recipes_of_all_models_in_full_and_with_lora():
    assert [file.stem for file in RECIPES] == [
        f"{model}{kind}"
        for model in ("llama-3.2-3b", "qwen2.5-3b", "qwen2.5-7b")
        for kind in ("-lora", "")
    ]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_planned_offline_with_a_local_configuration(file, tmp_path, capsys):
    """The model is replaced by a configuration without weights."""
    (tmp_path / "config.json").write_text(json.dumps(MODELS["qwen2.5-3b"]))
    out = tmp_path / "run"
    options = ["--policy", str(tmp_path), "--dry-run", "--out", str(out)]
    assert main(["train", "--recipe", str(file), *options]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Qwen2ForCausalLM, 3,085,938,688 parameters, 36 layers" in text
    assert "320 episodes" in text
    assert "6 turns × (500 written + 344 read)" in text
    for name in ("weights", "gradients", "optimiser", "reference", "keys and values", "logits"):
        assert name in text
    assert ("29,933,568 parameters (LoRA)" in text) == ("lora" in file.stem)
    assert not out.exists()


def test_a_plan_tells_of_a_shipped_policy_and_its_simulator(capsys):
    assert main(["train", "--dry-run", "--threads", "1"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "simulator: simulator, Qwen2ForCausalLM" in text
    assert "miniwiki (train): 1,068 questions" in text
    assert "free on cpu" in text


def planned(capsys, *options):
    """Return the rows of a plan, each on one line."""
    assert main(["train", "--dry-run", *map(str, options)]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_plan_of_launched_processes_is_told_once_and_shares_out(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    num = f"{Weights.read(model_folder('base')).num_parameters:,}"
    text = planned(capsys, "--engine", "world", "--eval-every", 0)
    assert f"{num} × 2 × 4 / 4" in text
    assert f"whole copy always 0.00 {num} × 4" in text
    assert "(32 episodes + 32 being" in text
    monkeypatch.setenv("RANK", "1")
    assert planned(capsys, "--engine", "world") == ""
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("RANK", "0")
    text = planned(capsys, "--engine", "world", "--eval-every", 0)
    assert "whole copy" not in text
    assert "(32 episodes + 32 being" in text


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_a_plan_shares_out_nothing_of_an_adapter(capsys, monkeypatch, engine):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    text = planned(capsys, "--engine", "world", "--eval-every", 0, "--lora-rank", 4)
    assert "/ 4" not in text
    assert "whole copy" not in text
    assert "(32 episodes + 32 being" in text


def test_a_plan_shares_out_moments_with_deepspeed(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    num = f"{Weights.read(model_folder('base')).num_parameters:,}"
    text = planned(capsys, "--engine", "world", "--algorithm", "ppo", "--eval-every", 0)
    assert text.count("/ 4") == 2
    assert f"{num} × 2 × 4 / 4" in text
    assert "× (2 + 2 / 4)" in text
    assert "whole copy" not in text


def test_a_plan_refuses_what_training_would(capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert main(["train", "--dry-run", "--engine", "world"]) == 2
    assert "--mixed_precision no, got 'bf16'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lora-rank", 4, "--algorithm", "ppo"], "`algorithm` must do without a critic"),
        (["--noise-base", 0], "`noise_base` must be greater than 0"),
        (["--learning-rate", 0], "`learning_rate` must be greater than 0"),
        (["--importance-cap", 0.5], "`importance_cap` must be"),
        (["--num-waves", 17], "`num_waves` must be at most the questions of a process"),
        (["--eval-split", "tests"], "`split` must be one of"),
        (["--questions", "nq,hotpotqa"], "`split` must be one of train, test for questions='hot"),
    ],
)
def test_training_and_its_plan_refuse_the_same(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base = ["train", "--engine", "world", "--out", str(tmp_path / "run"), *map(str, options)]
    assert main([*base, "--dry-run"]) == 2
    found = capsys.readouterr()
    assert message in found.err
    assert not found.out
    if "--questions" not in options:  # whose first set would be downloaded
        assert main(base) == 2
        assert capsys.readouterr().err == found.err


def test_a_plan_refuses_to_start_from_an_adapter(capsys, tmp_path):
    message = "`policy` must be a whole model to start from, got the LoRA adapter"
    run = tmp_path / "run" / "checkpoint"
    for policy in (adapter_of("base", run), run.parent):
        for options in ([], ["--dry-run"], ["--lora-rank", 2, "--dry-run"]):
            told = failure(capsys, "--engine", "world", "--policy", policy, *options)
            assert message in told


def test_a_plan_refuses_processes_without_a_question(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    told = failure(capsys, "--engine", "world", "--dry-run")
    assert "`num_questions` must be at least the number of processes, 4, got 2" in told
    told = failure(
        capsys, "--engine", "world", "--dry-run", "--num-questions", 4, "--policy-engine", "vllm"
    )
    assert "`policy_engine` must be transformers or vllm-server in several processes" in told


def test_a_plan_tells_how_the_policy_learns(capsys):
    text = planned(capsys, "--engine", "world", "--schedule", "cosine", "--num-minibatches", 3)
    assert (
        "learning: GRPO, learning rate 0.00015 (cosine, down to 0.1 of that), warm-up 0 updates, "
        "epochs 1, minibatches 3, KL coefficient 0.005" in text
    )
    options = ["--critic-learning-rate", 1e-5, "--num-warmup-updates", 7, "--kl-coef", 0.001]
    text = planned(capsys, "--engine", "world", "--algorithm", "ppo?num_epochs=5", *options)
    assert "PPO, learning rate 0.00015 and 1e-05 of the critic (constant), warm-up 7" in text
    assert "epochs 5, minibatches 2, KL coefficient 0.001" in text


def test_a_plan_counts_processes_that_mpi_started(capsys, monkeypatch):
    for name, value in (("SIZE", 4), ("RANK", 0), ("LOCAL_RANK", 0)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    text = planned(capsys, "--engine", "world", "--eval-every", 0)
    assert "(32 episodes + 32 being" in text
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    assert planned(capsys, "--engine", "world") == ""


def test_a_plan_counts_what_vllm_takes_in_this_process(capsys):
    num = f"{Weights.read(model_folder('base')).num_parameters:,}"
    base = ["--engine", "world", "--policy-engine"]
    text = planned(capsys, *base, "vllm?kv_cache_memory_bytes=1000000&dtype=bfloat16")
    assert f"{num} × 2 + 1,000,000 of keys" in text
    # Its own model plays evaluations alone, no larger than an update.
    assert "(128 episodes of evaluations + 128 being" in text
    assert "(7 episodes of eval" in planned(capsys, *base, "vllm", "--eval-questions", 7)
    assert "(0 episodes + 0 being" in planned(capsys, *base, "vllm", "--eval-every", 0)
    text = planned(capsys, *base, "vllm?gpu_memory_utilization=0.4", "--device", "cuda:7")
    assert "vLLM samples always 0.00 0.4 of the device, which is not here" in text
    text = planned(capsys, "--engine", f"vllm:{model_folder('simulator')}", "--device", "cuda:7")
    assert "vLLM simulates always 0.00 0.92 of the device" in text


@pytest.mark.parametrize("eval_questions", [0, 200, 1000])
def test_evaluations_need_no_more_memory_than_rollouts(capsys, monkeypatch, eval_questions):
    asked = ["--engine", "world", "--num-questions", 4, "--eval-questions", eval_questions]
    text = planned(capsys, *asked)
    assert "(32 episodes + 32 being" in text
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "(16 episodes + 16 being" in planned(capsys, *asked)


def test_a_simulator_writes_for_what_vllm_plays(capsys):
    options = ["--policy-engine", "vllm", "--eval-every", 0]
    assert "128 requests ×" in planned(capsys, *options)


def test_training_evaluates_as_many_side_by_side_as_planned(tmp_path, capsys, monkeypatch):
    sizes = []
    make = gym.make_vec
    monkeypatch.setattr(
        "gymnasium.make_vec",
        lambda *args, num_envs, **kwargs: (
            sizes.append(num_envs) or make(*args, num_envs=num_envs, **kwargs)
        ),
    )
    asked = ["--num-questions", 1, "--eval-every", 1, "--eval-questions", 5, "--steps", 1]
    assert train(tmp_path / "run", *asked) == 0
    # The update, the evaluation and what is played again for the transcripts.
    assert sizes == [2, 2, 2, 1]
    lines = (tmp_path / "run" / "transcripts.jsonl").read_text().splitlines()
    played = [json.loads(line) for line in lines]
    replayed = [each["question_id"] for each in played if each["split"] == "validation"]
    assert len(set(replayed)) == 3
    capsys.readouterr()
    assert "(2 episodes + 2 being" in planned(capsys, *SHORT, "--engine", "world", *asked)


def test_a_plan_needs_no_model_of_an_engine_that_is_replayed(capsys, tmp_path):
    options = ["--engine", "simulator:/no/such/folder", "--cache", tmp_path / "x"]
    assert "simulator's" not in planned(capsys, *options, "--cache-mode", "replay-strict")


def test_a_plan_imports_no_engine_of_ones_own(capsys):
    assert main(["train", "--dry-run", "--engine", "no_such_module:Engine"]) == 0
    assert "engine: no_such_module:Engine" in capsys.readouterr().out
    assert main(["train", "--dry-run", "--engine", "google"]) == 2


def test_what_is_given_comes_before_the_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\ngroup_size: 3\nchat: false\ntarget_kl: null\n")
    command = parse(["train", "--recipe", str(file), "--steps", "9"])
    assert (command.steps, command.group_size, command.chat) == (9, 3, "false")
    assert command.target_kl is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 3\nstepz: 4\n", ":2: unknown option of train: `stepz`"),
        ("steps: many\n", ":1: `steps` must be an integer, got 'many'"),
        ("steps: 1\nsteps: 2\n", ":2: `steps` must stand once"),
        ("schedule: round\n", ":1: `schedule` must be one of constant, linear, cosine"),
        ("recipe: other.yaml\n", ":1: unknown option of train: `recipe`"),
        ("- steps\n", ":1: a table of options of train was expected"),
        ("", ":1: a table of options of train was expected, got nothing"),
        ("steps: [", ":1: "),
    ],
)
def test_a_mistake_in_a_recipe_names_its_line(capsys, tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main(["train", "--recipe", str(file)]) == 2
    error = capsys.readouterr().err
    assert f"{file}{message}" in error
    assert len(error.splitlines()) == 1


def test_a_recipe_beside_a_run_to_resume_is_refused(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 3\n")
    assert main(["train", "--recipe", str(file), "--resume", str(tmp_path)]) == 2
    assert "`recipe` must be left out beside `resume`" in capsys.readouterr().err


def test_the_options_of_a_run_are_a_recipe(tmp_path):
    out = tmp_path / "run"
    assert train(out, "--steps", 1) == 0
    config = json.loads((out / "config.json").read_text())["config"]
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config))
    assert vars(recipe_options(file)) == vars(Train(**config))


PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_page_names_every_option_and_recipe():
    options = {f.name for f in fields(ModelOptions)} - {"seed"}
    named = [f"--{name.replace('_', '-')}" for name in options]
    assert not [
        text for text in (*named, *(f"`{file.name}`" for file in RECIPES)) if text not in PAGE
    ]


MODELS = json.loads((Path(__file__).parent / "model_configs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_the_page_tells_what_a_recipe_needs_at_the_most(file, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MODELS[file.stem.removesuffix("-lora")]))
    recipe = ["train", "--recipe", str(file), "--policy", str(tmp_path)]
    plans = [
        make_plan(with_simulator(parse([*recipe, *options])))
        for options in ([], ["--num-questions", "8"])
    ]
    found = [plans[0].memory.certain, *(each.memory.peak for each in plans)]
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{file.name}`"))
    assert re.findall(r"(\d+) GiB", row) == [f"{num_bytes / GIB:.0f}" for num_bytes in found]
    assert f"a prompt of {plans[0].tokens.prompt} tokens" in PAGE


def test_the_snippets_of_the_page_run():
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(snippet, {})
