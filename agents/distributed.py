"""Several processes that train one policy together, and the one that trains alone.

`torchrun`, `accelerate launch` and `mpirun` start the same command several times; `join` tells a
process which of them it is. Each plays its share of an update's groups, all see all episodes and
compute the same targets, each takes the gradient of its share of every gradient step, and the sum
of the gradients is stepped along everywhere. So N processes do what one would do, but for the order
in which numbers are added.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar

import torch

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_T = TypeVar("_T")

EXTRA: Final = "pip install 'zs-env[train]'"

_PATIENCE: Final = timedelta(days=1)
"""How long a process waits for another one; the launcher ends all if one of them dies."""

_CHUNK_BYTES: Final = 64 * 2**20

_NAMES: Final = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""The variables in which torchrun tells a process which one it is."""

_MPI_NAMES: Final = (
    tuple(f"OMPI_COMM_WORLD_{name}" for name in ("SIZE", "RANK", "LOCAL_RANK", "LOCAL_SIZE")),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""The same for Open MPI, and for MPICH and its descendants."""


class Sharing(Enum):
    """What processes share out, instead of having all of it each, and by which engine."""

    NOTHING = "nothing"
    FSDP = "weights, gradients and moments, by PyTorch's FSDP2"
    DEEPSPEED = "moments, and in stage 2 gradients, by DeepSpeed's ZeRO"


class Launch(NamedTuple):
    """What a launcher tells the processes that it starts.

    Attributes:
        rank: The number of this process, from 0.
        size: How many there are.
        sharing: What they share out.
    """

    rank: int
    size: int
    sharing: Sharing


class PeerError(RuntimeError):
    """Another process failed; its own message tells why."""


def share_of(total: int, rank: int, size: int, name: str) -> range:
    """Return which of `total` things are those of one of `size` processes.

    Raises:
        ValueError: If there are fewer than processes.
    """
    if total < size:
        wanted = f"at least the number of processes, {size}"
        raise ValueError(f"`{name}` must be {wanted}, got {total!r}")
    return range(total * rank // size, total * (rank + 1) // size)


class Processes:
    """The processes that train together; this class itself is one process, alone.

    Attributes:
        rank: The number of this process, from 0.
        size: How many there are.
        sharing: What of the training they share out, besides its work.
    """

    rank: int = 0
    size: int = 1
    sharing: Sharing = Sharing.NOTHING

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes, prints and evaluates."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device of this process, where all are told the same `name`."""
        return name

    def share(self, total: int, name: str = "total") -> range:
        """Return which of `total` things are this process's: neighbours, as many as others have.

        Args:
            total: How many there are for all processes together.
            name: What to call it in messages.

        Raises:
            ValueError: If there are fewer than processes.

        Example:
            >>> Processes().share(5)
            range(0, 5)
        """
        return share_of(total, self.rank, self.size, name)

    def together(self, action: Callable[[], _T]) -> list[_T]:
        """Do something in every process; return what came out in each, in the order of ranks.

        All processes have to call it, and each goes on when the last one is done. Results are
        pickled. It can be called inside of itself, as a place where all meet: where one of them
        fails on its way there, the others end there.

        Raises:
            PeerError: If it raised in another process, before it did here or in one before.
            Exception: Whatever it raised in this process, if it raised in none before.
        """
        return [action()]

    def mesh(self, device: str) -> DeviceMesh:
        """Return all processes in one row, among which FSDP shards a model.

        Args:
            device: The kind of device that it is on.

        Raises:
            ValueError: If there is one process only.
        """
        raise ValueError(f"`size` must be at least 2 to shard a model, got {self.size}")

    def copy_from_first(self, module: torch.nn.Module) -> None:
        """Give all processes the tensors that `module` has in the first one."""

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; one that nobody has stays None."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        """Leave the others; after an error, end without waiting for them."""


ALONE: Final = Processes()
"""The one process of a training that nobody launched."""


class LaunchedProcesses(Processes):
    """The processes of a launcher, of which this is one."""

    def __init__(self, rank: int, size: int, local_rank: int, sharing: Sharing) -> None:
        """Join the others, whose default process group exists."""
        from torch import distributed

        self.rank, self.size, self.sharing = rank, size, sharing
        self._local_rank, self._torch = local_rank, distributed
        # Python objects go by a group of their own: NCCL would take them through the GPU.
        self._objects: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        self._told: Exception | None = None
        self._meshes: list[DeviceMesh] = []

    def mesh(self, device: str) -> DeviceMesh:
        """Return all processes in one row; see the base class."""
        from torch.distributed.device_mesh import init_device_mesh

        self._meshes.append(init_device_mesh(device, (self.size,)))
        return self._meshes[-1]

    def device(self, name: str) -> str:
        """Return the device of this process: with a GPU each, the one of its number."""
        return f"cuda:{self._local_rank}" if name == "cuda" else name

    def together(self, action: Callable[[], _T]) -> list[_T]:
        """Do something in every process; see the base class."""
        result, error = _outcome(action)
        if error is not None and error is self._told:
            raise error  # it comes from a `together` inside of this one: all know of it
        told = None if error is None else f"{type(error).__name__}: {error}"
        outcomes: list[Any] = [None] * self.size
        self._torch.all_gather_object(outcomes, (result, told), group=self._objects)
        failed = [rank for rank, (_, told) in enumerate(outcomes) if told is not None]
        if error is not None and failed[0] == self.rank:
            self._told = error
            raise error
        if failed:
            message = f"process {failed[0]} of {self.size} failed: {outcomes[failed[0]][1]}"
            self._told = PeerError(message)
            raise self._told from error
        return [result for result, _ in outcomes]

    @torch.no_grad()
    def copy_from_first(self, module: torch.nn.Module) -> None:
        """Give all processes the tensors that `module` has in the first one."""
        for tensor in (*module.parameters(), *module.buffers()):
            self._torch.broadcast(tensor.data, 0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over the processes; one that nobody has stays None."""
        every = list(parameters)
        present = torch.tensor([each.grad is not None for each in every], dtype=torch.int32)
        self._torch.all_reduce(present, self._torch.ReduceOp.MAX, group=self._objects)
        gradients = []
        for parameter, is_present in zip(every, present.tolist(), strict=True):
            if is_present and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for chunk in _chunks(gradients):
            self._sum(chunk)

    def _sum(self, tensors: Sequence[torch.Tensor]) -> None:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        self._torch.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def __exit__(self, kind: object, *exception: object) -> None:
        """Leave the others; after an error, end without waiting for them."""
        if kind is None and self._torch.is_initialized():
            self.together(lambda: None)
            self._torch.destroy_process_group()
            self._forget_groups()

    def _forget_groups(self) -> None:
        """Let go of all groups, so that their threads end.

        A thread that still lets go of a tensor when Python ends would abort the process.
        """
        del self._objects
        self._told = None  # its frames may hold what is trained
        for mesh in self._meshes:
            # PyTorch's caches hold a mesh for good, and it would hold its groups.
            vars(mesh).get("_pg_registry", {}).clear()
        gc.collect()


def _outcome(action: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
    try:
        return action(), None
    except Exception as error:
        return None, error


def _chunks(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield neighbours of one type and device, about `_CHUNK_BYTES` at a time."""
    chunk: list[torch.Tensor] = []
    num_bytes = 0
    for tensor in tensors:
        alike = not chunk or (chunk[0].dtype, chunk[0].device) == (tensor.dtype, tensor.device)
        if chunk and (not alike or num_bytes + tensor.nbytes > _CHUNK_BYTES):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(tensor)
        num_bytes += tensor.nbytes
    if chunk:
        yield chunk


def join(device: str = "cpu", environ: Mapping[str, str] = os.environ) -> Processes:
    """Return the processes that this one was launched with, after meeting them.

    Args:
        device: Where policies are trained: "cpu", or "cuda" for a GPU each.
        environ: What the launcher says.

    Returns:
        `ALONE` if nothing was launched, or one process only.

    Raises:
        ImportError: If several were launched and accelerate is not installed.
        ValueError: If they were launched in a way that training cannot follow.
    """
    by_mpi = _said_by_mpi(environ)
    environ = {**environ, **by_mpi}
    check_launch(environ)
    if _sharing(environ) is Sharing.DEEPSPEED:
        from agents.zero import read_config

        os.environ.setdefault("DS_ACCELERATOR", device.partition(":")[0])
        read_config()
    launch = read_launch(environ)
    if launch.size == 1:
        return ALONE
    if device.startswith("cuda:"):
        raise ValueError(f"`device` must be cpu or cuda for several processes, got {device!r}")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ImportError(f"several processes need accelerate: {EXTRA}") from error
    os.environ.update(by_mpi)  # where PyTorch and accelerate look
    on_cpu = device == "cpu"
    # Without a word accelerate would take MPI, where PyTorch has it, and only on CPUs.
    state = PartialState(cpu=on_cpu, **({"backend": "gloo"} if on_cpu else {}))
    rank, size, local = state.process_index, state.num_processes, state.local_process_index
    return LaunchedProcesses(rank, size, local, launch.sharing)


def read_launch(environ: Mapping[str, str] = os.environ) -> Launch:
    """Return what a launcher tells this process, without meeting the others.

    Example:
        >>> launch = read_launch({"WORLD_SIZE": "4", "RANK": "1", "ACCELERATE_USE_FSDP": "true"})
        >>> launch.rank, launch.size, launch.sharing.name
        (1, 4, 'FSDP')
    """
    said = {**environ, **_said_by_mpi(environ)}
    rank, size = int(said.get("RANK", "0")), int(said.get("WORLD_SIZE", "1"))
    return Launch(rank, size, _sharing(environ) if size > 1 else Sharing.NOTHING)


def _said_by_mpi(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what torchrun would have said, if an MPI's `mpirun` has started this process."""
    names = next((names for names in _MPI_NAMES if names[0] in environ), None)
    if "WORLD_SIZE" in environ or names is None:
        return {}
    said = {
        plain: environ[name] for plain, name in zip(_NAMES, names, strict=True) if name in environ
    }
    meeting = {"MASTER_PORT": "29500"}
    if said.get("LOCAL_WORLD_SIZE") == said["WORLD_SIZE"]:
        meeting["MASTER_ADDR"] = "127.0.0.1"
    return said | {name: environ.get(name, value) for name, value in meeting.items()}


def check_launch(environ: Mapping[str, str] = os.environ) -> None:
    """Check that training does what accelerate was told, DeepSpeed's configuration aside.

    Raises:
        ValueError: If it cannot.
    """
    # Accelerate names a meeting point where it was told to start several.
    is_one = "WORLD_SIZE" not in environ and "MASTER_ADDR" in environ
    if is_one and _is_true(environ, "ACCELERATE_USE_CPU"):
        raise ValueError(
            "accelerate launch --cpu must be given --mpirun_hostfile to start more than one "
            "process, and started one; --multi_gpu in its place needs no MPI, with --device cpu"
        )
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        raise ValueError(
            f"accelerate must be launched with --mixed_precision no, got {precision!r}: what is "
            "trained has to be what samples"
        )
    for option in ("USE_MEGATRON_LM", "USE_PARALLELISM_CONFIG"):
        if _is_true(environ, f"ACCELERATE_{option}"):
            raise ValueError(f"accelerate must be launched without --{option.lower()}")
    if not _is_true(environ, "ACCELERATE_USE_FSDP"):
        return
    version = environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"accelerate must be launched with --fsdp_version 2, got {version!r}")
    for option in ("FSDP_OFFLOAD_PARAMS", "FSDP_ACTIVATION_CHECKPOINTING"):
        if _is_true(environ, option):
            raise ValueError(f"accelerate must be launched with --{option.lower()} false")


def _sharing(environ: Mapping[str, str]) -> Sharing:
    if _is_true(environ, "ACCELERATE_USE_DEEPSPEED"):
        return Sharing.DEEPSPEED
    return Sharing.FSDP if _is_true(environ, "ACCELERATE_USE_FSDP") else Sharing.NOTHING


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in ("true", "1", "yes")
