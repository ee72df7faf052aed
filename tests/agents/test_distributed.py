"""Several processes, really started and talking over loopback, do what one would do.

What they compute differs by the order in which float32 numbers are added: a mean of the log by
about 1e-6, a weight by a few hundredths of one step of AdamW. The episodes are the same, unless
a draw falls between two roundings of a probability, which it does not with the seeds here.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from agents.cli.main import main
from agents.distributed import ALONE, Processes, _chunks, _said_by_mpi, join
from agents.metrics import read_metrics
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.model_options import ModelOptions
from agents.rollout import Rollout, side_by_side
from agents.trajectory import Trajectory
from agents.zero import ZeroTrainee, _without_moments, followed

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).parent / "processes_probe.py"
PATIENCE = 200.0
STEPS = 3
# Three questions for two processes: shares that differ.
TINY = (
    f"--engine world --policy skill --steps {STEPS} --num-questions 3 --group-size 3 "
    "--max-turns 2 --temperature 1.5 --eval-questions 4 --eval-every 2 --threads 1 "
    "--log-formats csv"
).split()
TOLERANCE = 2e-5
LEARNING_RATE = 1.5e-4
MASTER = "10.231.0.1"
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")


def launch(*command: str, num: int = 2, **environ: str) -> subprocess.Popen[str]:
    """Start a command in several processes; in one, without a launcher."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    return start(*(torchrun if num > 1 else []), *command, **environ)


def accelerate(*command: str, **environ: str) -> subprocess.Popen[str]:
    """Start a command in two processes by accelerate, whose options come first."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    options = "--num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    cli = ("-m", "accelerate.commands.accelerate_cli", "launch", "--main_process_port", port)
    return start(*cli, *options, *command, **environ)


def start(*command: str, **environ: str) -> subprocess.Popen[str]:
    """Start Python."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    with process:
        text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, text
    return text


def train(out: Path, algorithm: str, **environ: str) -> str:
    options = (*TINY, "--algorithm", algorithm, "--out", str(out))
    return finish(launch("-m", "agents.cli.main", "train", *options, **environ))


def probe(out: Path, *names: str, num: int = 3, **environ: str) -> dict[str, list[Any]]:
    """Return what each process found, by name."""
    finish(launch(str(PROBE), str(out), *names, num=num, **environ))
    found = [json.loads((out / f"{rank}.json").read_text()) for rank in range(num)]
    return {name: [each[name] for each in found] for name in (*names, "threads")}


def numbers(run: Path) -> list[dict[str, float]]:
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read_metrics(run)
    ]


def transcripts(run: Path) -> tuple[list[Any], list[float]]:
    """Return what was said in a run's transcripts, and all numbers of their tokens."""
    records = [json.loads(line) for line in (run / "transcripts.jsonl").read_text().splitlines()]
    found = [[r["tokens"].pop(name) for name in ("logprobs", "advantages")] for r in records]
    return records, [number for some in found for each in some for number in each or ()]


def assert_alike(run: Path, wanted: Path) -> None:
    """Check that a run has the episodes, and nearly the numbers and weights, of another one."""
    texts, token_numbers = zip(*(transcripts(each) for each in (run, wanted)), strict=True)
    assert texts[0] == texts[1]
    # Rounded to four digits, which may fall either way.
    assert token_numbers[0] == pytest.approx(token_numbers[1], rel=TOLERANCE, abs=2e-4)
    found, expected = numbers(run), numbers(wanted)
    assert len(found) == len(expected) == STEPS
    assert sum(row["train/grad_norm"] > 0.01 for row in expected) >= 2
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=TOLERANCE, abs=TOLERANCE)
    folders = [each / f"checkpoints/{STEPS:06}" for each in (run, wanted)]
    files = {file.name for file in folders[1].glob("*.safetensors")}
    assert files == {file.name for file in folders[0].glob("*.safetensors")}
    for name in files - {"optimizer.safetensors"}:
        tensors = [load_file(folder / name) for folder in folders]
        torch.testing.assert_close(tensors[0], tensors[1], rtol=0, atol=LEARNING_RATE / 2)
        mean = [torch.cat([t.flatten() for t in each.values()]) for each in tensors]
        assert float((mean[0] - mean[1]).abs().mean()) < LEARNING_RATE / 1000


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return runs of one process by algorithm."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ("grpo", "ppo"):
        options = ["train", *TINY, "--algorithm", name, "--out", str(folder / name)]
        assert main(options) == 0
    return {name: folder / name for name in ("grpo", "ppo")}


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_two_processes_train_like_one(
    alone: dict[str, Path], tmp_path: Path, algorithm: str
) -> None:
    text = train(tmp_path / "run", algorithm)
    assert text.count("update 1/3") == 1
    assert_alike(tmp_path / "run", alone[algorithm])
    assert json.loads((tmp_path / "run/config.json").read_text())["num_processes"] == 2


def test_two_processes_with_sharded_weights_train_like_one(
    alone: dict[str, Path], tmp_path: Path
) -> None:
    """The critic, the reference, evaluations, checkpoints and best weights included."""
    train(tmp_path / "run", "ppo", **SHARDED)
    assert_alike(tmp_path / "run", alone["ppo"])
    exported = load_file(tmp_path / "run/checkpoint/model.safetensors")
    kept = load_file(tmp_path / f"run/checkpoints/{STEPS:06}/policy.safetensors")
    assert exported.keys() == kept.keys()
    assert all(torch.equal(exported[name], kept[name]) for name in kept)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_with_deepspeed_train_like_one(
    alone: dict[str, Path], tmp_path: Path, stage: int
) -> None:
    """Launched by accelerate, which is told of DeepSpeed by options, or by a file of its own."""
    file = tmp_path / "deepspeed.json"
    zero = {"stage": 1, "reduce_bucket_size": 100_000, "overlap_comm": "auto"}
    file.write_text(json.dumps({"zero_optimization": zero, "gradient_clipping": "auto"}))
    options = ("--deepspeed_config_file", str(file)) if stage == 1 else ("--zero_stage", "2")
    command = ("train", *TINY, "--algorithm", "ppo", "--out", str(tmp_path / "run"))
    finish(accelerate("--use_deepspeed", *options, "-m", "agents.cli.main", *command))
    assert_alike(tmp_path / "run", alone["ppo"])


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs an MPI: there is no mpirun")
def test_accelerate_on_cpus_trains_like_one_process(alone: dict[str, Path], tmp_path: Path) -> None:
    """`accelerate launch --cpu` leaves it to MPI to start processes, which then talk over gloo."""
    is_open = "Open MPI" in subprocess.check_output(["mpirun", "--version"], text=True)
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n" if is_open else "localhost:2\n")
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = ("train", *TINY, "--algorithm", "grpo", "--out", str(tmp_path / "run"))
    launcher = ("--cpu", "--mpirun_hostfile", str(hosts))
    text = finish(accelerate(*launcher, "-m", "agents.cli.main", *command, **as_root))
    assert text.count("3 updates of 3") == 1
    assert_alike(tmp_path / "run", alone["grpo"])


def test_accelerate_on_cpus_without_mpi_is_told_so(tmp_path: Path) -> None:
    with accelerate("--cpu", str(PROBE), str(tmp_path)) as process:
        text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "accelerate launch --cpu must be given --mpirun_hostfile" in text


@pytest.mark.parametrize(
    "environ", [{}, pytest.param(ZERO, marks=needs_deepspeed)], ids=["whole", "zero"]
)
def test_signal_to_one_process_stops_all_and_the_run_goes_on_in_one(
    alone: dict[str, Path], tmp_path: Path, environ: dict[str, str]
) -> None:
    run = tmp_path / "run"
    options = (*TINY, "--algorithm", "grpo", "--out", str(run))
    process = launch("-m", "agents.cli.main", "train", *options, **environ)
    end = time.monotonic() + PATIENCE
    while not (run / "metrics.jsonl").exists() or not read_metrics(run):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = sorted(psutil.Process(process.pid).children(), key=lambda each: each.pid)
    workers[-1].send_signal(signal.SIGTERM)
    text = finish(process)
    done = len(read_metrics(run))
    assert 1 <= done < STEPS, text
    assert f"stopped after update {done} of {STEPS}" in text
    assert main(["train", "--resume", str(run)]) == 0
    assert_alike(run, alone["grpo"])


@pytest.mark.parametrize(
    "environ", [SHARDED, pytest.param(ZERO, marks=needs_deepspeed)], ids=["sharded", "zero"]
)
def test_run_of_one_process_goes_on_in_two(
    alone: dict[str, Path], tmp_path: Path, environ: dict[str, str]
) -> None:
    """From a checkpoint of a critic and of all moments, in shards."""
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", str(alone["ppo"]), str(run)], check=True)
    for file in (run / f"checkpoints/{STEPS:06}").iterdir():
        file.unlink()
    finish(launch("-m", "agents.cli.main", "train", "--resume", str(run), **environ))
    assert_alike(run, alone["ppo"])


LEARNING = ("nonfinite", "learned", "restored")


@pytest.fixture(
    scope="module",
    params=[{}, SHARDED, pytest.param(ZERO, marks=needs_deepspeed)],
    ids=["whole", "sharded", "zero"],
)
def learners(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    """Return what three processes find that hold all weights each, or shards of them."""
    return probe(tmp_path_factory.mktemp("learners"), *LEARNING, **request.param)


def test_loss_that_is_no_number_in_one_process_stops_all(learners: dict[str, list[Any]]) -> None:
    other, own = ["PeerError", True], ["NonFiniteLossError", True]
    assert learners["nonfinite"] == [other, own, other]


def test_learner_state_is_put_back_in_all(learners: dict[str, list[Any]]) -> None:
    assert learners["restored"] == [[True, True]] * 3


def test_three_processes_learn_the_same_weights(
    learners: dict[str, list[Any]], tmp_path: Path
) -> None:
    """Two to four rows a step: some processes have fewer passes than others, or none."""
    [[weights, rows]] = probe(tmp_path, "learned", num=1)["learned"]
    first, *others = learners["learned"]
    assert others == [first] * 2
    assert first[0] == pytest.approx(weights, rel=1e-6)
    for found, expected in zip(first[1], rows, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_processes_agree(tmp_path: Path) -> None:
    found = probe(tmp_path, "errors", "meeting", "gradients", "first_weights", "target_kl")
    lost = "process 0 of 3 failed: KeyError: 'lost'"
    assert found["meeting"] == ["own", lost, lost]
    told = "process 1 of 3 failed: KeyError: 'lost'"
    assert found["errors"] == [told, "own", told]
    assert found["gradients"] == [[[6.0, 6.0], [2.0, 2.0], None]] * 3
    assert found["first_weights"] == [[[3.0, 3.0]]] * 3
    assert found["threads"] == [[]] * 3
    stopped, num_steps = found["target_kl"][0]
    assert found["target_kl"] == [[stopped, num_steps]] * 3
    assert stopped == 1.0


def test_failure_of_the_first_process_ends_those_that_hold_shards(tmp_path: Path) -> None:
    found = probe(tmp_path, "checkpoint", num=2, **SHARDED)
    assert found["checkpoint"] == ["KeyError", "PeerError"]
    # One of a group that is at work when Python ends would abort the process.
    assert found["threads"] == [[], []]


@pytest.mark.parametrize("environ", [{}, SHARDED], ids=["whole", "sharded"])
def test_bfloat16_learns_with_a_critic_as_in_one_process(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    """Whose head is in float32, beside a body in bfloat16."""
    [[norm, loss, _]] = probe(tmp_path, "bfloat16", num=1)["bfloat16"]
    first, other = probe(tmp_path, "bfloat16", num=2, **environ)["bfloat16"]
    assert first == other
    assert first[0] == pytest.approx(norm, rel=0.05)
    assert first[1] == pytest.approx(loss, rel=0.05)
    assert first[2]


@pytest.mark.parametrize("environ", [{}, SHARDED], ids=["whole", "sharded"])
def test_adapter_learns_as_in_one_process(tmp_path: Path, environ: dict[str, str]) -> None:
    """It is whole in each, also where a whole model would be sharded."""
    [[weights, rows, _]] = probe(tmp_path, "adapter", num=1)["adapter"]
    first, other = probe(tmp_path, "adapter", num=2, **environ)["adapter"]
    assert first == other
    assert first[2]
    assert first[0] == pytest.approx(weights, rel=1e-5)
    assert rows[0]["train/grad_norm"] > 0.01
    for found, expected in zip(first[1], rows, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_snippets_of_the_page_run() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(snippet, {})


class Share(Processes):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.integers(1, 20), st.integers(0, 50))
def test_shares_are_neighbours_that_cover_all_once(size: int, more: int) -> None:
    total = size + more
    shares = [Share(rank, size).share(total) for rank in range(size)]
    assert [each for share in shares for each in share] == [*range(total)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_fewer_questions_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_questions` must be at least the number of proc"):
        Share(0, 3).share(2, "num_questions")


def test_one_process_is_alone() -> None:
    assert join(environ={}) is ALONE
    assert join(environ={"WORLD_SIZE": "1"}) is ALONE
    assert join(environ={"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}) is ALONE
    assert join(environ={"ACCELERATE_USE_CPU": "true"}) is ALONE
    with pytest.raises(ValueError, match="--mixed_precision no, got 'fp16'"):
        join(environ={"WORLD_SIZE": "1", "ACCELERATE_MIXED_PRECISION": "fp16"})


OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}


@pytest.mark.parametrize(
    ("environ", "world"),
    [
        (OPEN_MPI, "4 3 1 2 - 29500"),
        (OPEN_MPI | {"MASTER_ADDR": "first", "MASTER_PORT": "1"}, "4 3 1 2 - 1"),
        (HYDRA, "2 1 1 2 127.0.0.1 29500"),
        (HYDRA | {"MASTER_ADDR": "first"}, "2 1 1 2 first 29500"),
        (OPEN_MPI | {"WORLD_SIZE": "2"}, "- - - - - -"),
        ({"MASTER_ADDR": "first"}, "- - - - - -"),
    ],
)
def test_what_an_mpi_says_is_said_as_torchrun_would(environ: dict[str, str], world: str) -> None:
    said = _said_by_mpi(environ)
    names = "WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
    assert " ".join(said.get(name, "-") for name in names) == world


@pytest.mark.parametrize(
    ("environ", "device", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "cpu", "--mixed_precision no, got 'bf16'"),
        ({"ACCELERATE_USE_FSDP": "true"}, "cpu", "--fsdp_version 2, got '1'"),
        (SHARDED | {"FSDP_OFFLOAD_PARAMS": "true"}, "cpu", "--fsdp_offload_params false"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "cpu", "without --use_megatron_lm"),
        ({"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "cpu", "without --use_parallelism_config"),
        ({}, "cuda:1", "`device` must be cpu or cuda for several processes, got 'cuda:1'"),
    ],
)
def test_launch_that_training_cannot_follow_is_refused(
    environ: dict[str, str], device: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        join(device, {"WORLD_SIZE": "2"} | environ)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, r"must be 1 or 2, got 3: --use_fsdp"),
        ({"zero_optimization": {}}, "must be 1 or 2, got None"),
        (
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
            "`zero_optimization.offload_optimizer` of DeepSpeed must be left out, got {'device'",
        ),
        (
            {"zero_optimization": {"stage": 2}, "fp16": {"enabled": True}},
            "`fp16` of DeepSpeed must be left to training, got {'enabled': True}",
        ),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}, "`gradient_clipping`"),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Adam"}}, "`optimizer`"),
    ],
)
def test_deepspeed_that_training_cannot_follow_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        followed(config)


@needs_deepspeed
@pytest.mark.parametrize("num", [1, 2])
def test_deepspeed_is_refused_before_processes_meet_or_one_is_alone(
    monkeypatch: pytest.MonkeyPatch, num: int
) -> None:
    said = ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "WORLD_SIZE": str(num)}
    for name, value in {"DS_ACCELERATOR": "cpu", **said}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="of DeepSpeed must be 1 or 2, got 3"):
        join()


def test_deepspeed_is_followed_where_nothing_else_is_said() -> None:
    zero = {"stage": 2, "reduce_scatter": False, "reduce_bucket_size": 10}
    idle = {"offload_optimizer": {"device": "none"}, "round_robin_gradients": False}
    config = {"train_batch_size": 8, "bf16": {"enabled": False}, "gradient_accumulation_steps": 1}
    assert followed({**config, "zero_optimization": zero | idle}) == {"zero_optimization": zero}


def test_numbers_that_deepspeed_would_take_for_others_are_refused() -> None:
    policy = CausalLMPolicy.load("skill", options=ModelOptions(dtype="bfloat16"))
    trainee = ZeroTrainee(policy, None, ALONE)
    with pytest.raises(ValueError, match=r"`dtype` must be float32 with DeepSpeed, got torch.bf"):
        trainee.begin(torch.optim.AdamW(policy.parameters()))


def test_moments_of_parameters_that_took_other_steps_are_refused() -> None:
    saved = [{"step": torch.tensor(step), "exp_avg": torch.ones(2)} for step in (1.0, 2.0)]
    blank = _without_moments(saved[:1], torch.ones(3))
    assert {name: value.tolist() for name, value in blank.items()} == {
        "step": 1.0,
        "exp_avg": [0.0] * 3,
    }
    assert _without_moments([], torch.ones(3)) == {}
    with pytest.raises(ValueError, match=r"equally many steps.*got \[1.0, 2.0\]"):
        _without_moments(saved, torch.ones(3))


def test_groups_that_two_processes_number_alike_are_refused() -> None:
    rollout = Rollout([Trajectory(group=1)], 1.0, 2.0)
    with pytest.raises(ValueError, match="`group` of an episode must tell groups"):
        side_by_side([rollout, rollout])


def test_rollouts_side_by_side_took_as_long_as_the_longest() -> None:
    rollouts = [Rollout([Trajectory(group=i)] * 2, 1.0 + i, 3.0 - i) for i in range(2)]
    joined = side_by_side(rollouts)
    assert [each.group for each in joined.trajectories] == [0, 0, 1, 1]
    assert (joined.policy_seconds, joined.engine_seconds) == (2.0, 3.0)


def test_chunks_keep_types_apart_and_bytes_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.distributed._CHUNK_BYTES", 100)
    tensors = [torch.zeros(n) for n in (10, 10, 10, 40)] + [torch.zeros(2, dtype=torch.float64)]
    sizes = [[each.numel() for each in chunk] for chunk in _chunks(tensors)]
    assert sizes == [[10, 10], [10], [40], [2]]


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Yield two network namespaces joined by a cable: hosts, but for the disk that they share."""
    names = (f"zs-a-{os.getpid()}", f"zs-b-{os.getpid()}")
    first, second = names
    setup = f"""set -e
        ip netns add {first}
        ip netns add {second}
        ip link add zs0 netns {first} type veth peer name zs0 netns {second}
        ip -n {first} addr add {MASTER}/24 dev zs0
        ip -n {second} addr add 10.231.0.2/24 dev zs0
        ip -n {first} link set lo up
        ip -n {second} link set lo up
        ip -n {first} link set zs0 up
        ip -n {second} link set zs0 up
    """
    try:
        made = subprocess.run(["sh", "-c", setup], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no network namespaces can be made here: {made.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(
                ["sh", "-c", f"ip netns delete {name}"], capture_output=True, check=False
            )


@pytest.mark.parametrize("layout", [{}, SHARDED], ids=["whole", "sharded"])
def test_two_hosts_train_like_one(
    hosts: tuple[str, str], layout: dict[str, str], alone: dict[str, Path], tmp_path: Path
) -> None:
    """They reach each other over their own network only, and the launcher by its address."""
    run = tmp_path / "run"
    options = (*TINY, "--algorithm", "ppo", "--out", str(run))
    environ = (
        os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "zs0"}
        | layout
    )
    started = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run"),
                *("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank)),
                *("--master-addr", MASTER, "--master-port", "29511"),
                *("-m", "agents.cli.main", "train", *options),
            ],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, host in enumerate(hosts)
    ]
    texts = [finish(each) for each in started]
    assert [text.count("update 1/3") for text in texts] == [1, 0]
    assert_alike(run, alone["ppo"])
