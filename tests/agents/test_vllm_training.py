"""Trainings whose episodes a real vLLM plays: in the same process, and on a server.

`make test-vllm` runs these; see tests/zs_env/lm/test_vllm.py.
"""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from agents.callbacks import TranscriptCallback
from agents.cli.main import main
from agents.metrics import read_metrics
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.samplers.names import SamplerName
from agents.samplers.opening import open_sampler
from tests.vllm_servers import DEVELOPMENT, ENVIRONMENT, interpreter, serving
from zs_env.lm.generator import LanguageModelError, SamplingParams
from zs_env.lm.vllm_server import VLLMServer
from zs_env.lm.vllm_worker import EXTENSION
from zs_env.models import model_folder
from zs_env.random import derive

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MAX_GAP = 1e-4
SERVED = {
    "model": str(model_folder("base")),
    "served-model-name": "policy",
    "worker-extension-cls": EXTENSION,
}
TINY = (
    "--engine world --steps 3 --num-questions 4 --group-size 4 --eval-every 0 --max-turns 3 "
    "--threads 1 --temperature 0.9 --policy-engine vllm-server"
).split()
SAMPLED = SamplingParams(32, 1.0, ("</search>", "</answer>"))


def random_states():
    numpy_state = np.random.get_state(legacy=True)
    return [random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()]


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    """Return what happened in a training with vLLM in its process."""
    results = tmp_path_factory.mktemp("vllm") / "results.json"
    program = Path(__file__).with_name("vllm_training.py")
    command = [interpreter(), str(program), str(results)]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(results.read_text())


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    with serving(interpreter(), tmp_path_factory.mktemp("server"), SERVED, DEVELOPMENT) as (
        _,
        port,
    ):
        yield port


@pytest.fixture(scope="module")
def url(port):
    return f"http://127.0.0.1:{port}/v1"


def open_server(policy, url, folder, name="vllm-server"):
    return open_sampler(SamplerName(name), policy, folder, url=url, folder=folder / "sampler")


def largest_gap(policy, sampler, temperature=1.0):
    """Return how far sampled log-probabilities are from those of the policy."""
    prompt = policy.encode_prompt("Question: who founded Altek Labs?\n")
    count = 8
    completions = sampler.session(count).generate(
        list(range(count)), [prompt] * count, [derive(0, i) for i in range(count)], SAMPLED
    )
    assert len({tuple(each.token_ids) for each in completions}) > 2
    gaps = []
    for each in completions:
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *each.token_ids]])
            logits = policy.model(ids).logits[0, len(prompt) - 1 : -1] / temperature
        found = torch.log_softmax(logits, -1).gather(-1, ids[0, len(prompt) :, None])[:, 0]
        gaps.append(float((found - torch.tensor(each.logprobs)).abs().max()))
    return max(gaps)


def step(policy):
    """Change all weights that are trained, as a large step of an optimiser would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def report(name, rows, record_property):
    gaps = [row["train/logprob_gap"] for row in rows]
    record_property(f"log-prob gaps, {name}", gaps)
    print(f"log-prob gaps, {name}: {gaps}")
    assert len(gaps) == 3
    assert 0 < max(gaps) <= MAX_GAP
    assert all(row["train/grad_norm"] > 0 for row in rows[1:])
    assert [row["train/importance_mean"] for row in rows] == pytest.approx([1] * 3, abs=1e-4)


def test_three_updates_in_process_keep_sampler_and_trainer_together(in_process, record_property):
    report("in process", in_process["rows"], record_property)


def test_every_batch_that_was_played_in_process_passes_the_audit(in_process):
    assert [each["passed"] for each in in_process["audits"]] == [True] * 3
    assert all(each["max_logprob_gap"] <= MAX_GAP for each in in_process["audits"])
    assert min(each["checks"]["stops"]["num_checked"] for each in in_process["audits"]) >= 16


def test_training_in_process_leaves_the_global_random_numbers_alone(in_process):
    assert in_process["random_states_are_kept"]


def test_sampling_in_process_is_named_by_seeds(in_process):
    assert in_process["same_seed_same_ids"]
    assert in_process["other_seed_other_ids"]


def test_training_in_process_leaves_nothing_behind(in_process):
    assert (in_process["num_children"], in_process["files_left"]) == (0, 0)


def test_three_updates_with_a_server_keep_sampler_and_trainer_together(
    url, tmp_path, record_property
):
    children, out = psutil.Process().children(recursive=True), tmp_path / "run"
    assert main(["train", *TINY, "--policy-url", url, "--out", str(out)]) == 0
    assert psutil.Process().children(recursive=True) == children
    assert not (out / "sampler").exists()
    report("server", read_metrics(out), record_property)


def stop_after_two_updates(self, trainer, rollout, metrics):
    if trainer.num_updates_done == 2:
        signal.raise_signal(signal.SIGTERM)


def test_run_with_a_server_is_resumed_with_its_weights(url, tmp_path, record_property):
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TranscriptCallback, "on_update_end", stop_after_two_updates)
        assert main(["train", *TINY, "--policy-url", url, "--out", str(out)]) == 0
    assert len(read_metrics(out)) == 2
    # Another training gives the server other weights in between.
    policy = CausalLMPolicy.load("skill")
    sampler = open_server(policy, url, tmp_path)
    sampler.sync()
    sampler.close()
    assert main(["train", "--resume", str(out)]) == 0
    report("resumed", read_metrics(out), record_property)


def test_server_has_stale_weights_until_they_are_synced(url, tmp_path):
    policy = CausalLMPolicy.load("base")
    before = random_states()
    sampler = open_server(policy, url, tmp_path)
    sampler.sync()
    assert largest_gap(policy, sampler) <= MAX_GAP
    step(policy)
    assert largest_gap(policy, sampler) > 0.1
    sampler.sync()
    # The same prompts as before: the prefix cache must not remember them.
    assert largest_gap(policy, sampler) <= MAX_GAP
    sampler.close()
    assert random_states() == before


def test_server_samples_with_the_adapter_of_a_lora_policy(url, tmp_path):
    policy = CausalLMPolicy.load("base", options=ModelOptions(lora_rank=4))
    step(policy)
    sampler = open_server(policy, url, tmp_path)
    sampler.sync()
    assert largest_gap(policy, sampler) <= MAX_GAP
    policy.adapter.disable_adapter_layers()
    assert largest_gap(policy, sampler) > 0.1
    sampler.close()


def test_folder_that_the_server_does_not_see_is_told(url, tmp_path):
    server = VLLMServer(url, {0})
    server.check(1.0)
    with pytest.raises(LanguageModelError, match=r"4 tries.*the worker sees no folder"):
        server.load_weights(tmp_path / "elsewhere")
    server.close()


def test_server_that_was_not_started_for_it_is_a_mistake_in_one_line(tmp_path, capsys):
    options = {name: value for name, value in SERVED.items() if "extension" not in name}
    with serving(interpreter(), tmp_path, options) as (_, port):
        url = f"http://127.0.0.1:{port}/v1"
        code = main(["train", *TINY, "--policy-url", url, "--out", str(tmp_path / "run")])
    message = capsys.readouterr().err
    assert code == 2
    assert message.count("\n") == 1
    assert "VLLM_SERVER_DEV_MODE=1" in message


def test_server_that_ends_in_mid_training_ends_it_in_one_line(tmp_path, capsys):
    with serving(interpreter(), tmp_path, SERVED, DEVELOPMENT) as (process, port):
        sampler_url = f"http://127.0.0.1:{port}/v1"
        policy = CausalLMPolicy.load("base")
        sampler = open_server(policy, sampler_url, tmp_path)
        sampler.sync()
        process.terminate()
        process.wait(60)
        start = time.monotonic()
        with pytest.raises(LanguageModelError, match="did not answer in 4 tries"):
            largest_gap(policy, sampler)
        assert time.monotonic() - start < 30
        sampler.close()
