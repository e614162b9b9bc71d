"""Processes: one, torchrun's, or Ray Train's workers, through one door; nothing else in pretraining knows of them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from skelcore.encoders.synchronise import synchronise
from skelcore.errors import InputError, RunError

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TIMEOUT = timedelta(minutes=30)  # of an exchange: others wait as long while the first process looks at the features
_MOST_DEATHS = 5  # of a worker in one run, before the run is given up
_MOST_STARTS = 3  # of workers that a cluster does not give or that do not load torch in time
_RAY_SETTINGS = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # else workers leave the folder from which relative paths start
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else what they print arrives twice
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}
_POLL_SECONDS = 0.5
_LOST = re.compile(r"Connection (closed|reset|refused)|gloo.*timeout|Broken pipe", re.I)  # as gloo says it
_GRACE_SECONDS = 60  # in which interrupted workers end their step and save


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM arrived; the state is saved."""

    def __init__(self, signal_number: int) -> None:
        self.signal = signal_number


@dataclass(frozen=True)
class Group:
    """The processes that train together, seen from one of them; the default is a process on its own.

    Of a batch of N clips, process r holds clips r, r + world, ...: the methods speak of rows in that order. All but
    ``first`` and ``listening`` exchange something, so every process must call them equally often.
    """

    rank: int = 0
    world: int = 1
    signals: list[int] = field(default_factory=list, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module`` with batch norms over all processes and gradients averaged over them, starting as the first's."""
        if self.world == 1:
            return module
        synchronise(module)
        return DistributedDataParallel(module, broadcast_buffers=False)

    def gather(self, x: Tensor) -> Tensor:
        """Rows (N, ...) of the whole batch from each process's (N / world, ...); differentiable.

        The gradient is the sum of those of all processes. When each computes the same loss of the gathered rows, that
        is ``world`` times its gradient, and DistributedDataParallel's averaging takes the factor away.
        """
        if self.world == 1:
            return x
        gathered: Tensor = _Gather.apply(x, self.rank, self.world)
        return gathered

    def mean(self, x: Tensor) -> Tensor:
        """Mean of a tensor over processes, without a gradient."""
        if self.world == 1:
            return x.detach()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.world

    def same(self, value: T) -> T:
        """The first process's ``value``."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as wishes that ``interrupted`` tells of, instead of ends."""
        # Only a main thread may set handlers; a worker of Ray trains in another, and hears of the driver's signals.
        handled = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        previous = {number: signal.signal(number, lambda got, _: self.signals.append(got)) for number in handled}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def interrupted(self) -> int:
        """The signal that has reached any of the processes, or 0; the same in all of them."""
        heard = self.signals[0] if self.signals else 0
        if self.world == 1:
            return heard
        highest = torch.tensor(heard)
        dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rank: int, world: int) -> Tensor:
        ctx.rank, ctx.world = rank, world
        x = x.contiguous()
        every = [torch.empty_like(x) for _ in range(world)]
        dist.all_gather(every, x)
        return torch.stack(every, 1).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        dy = dy.contiguous().clone()
        dist.all_reduce(dy)
        return dy.unflatten(0, (-1, ctx.world))[:, ctx.rank], None, None


def run(train: Callable[[Group], T], mode: Literal["auto", "ray"], workers: int, device: str) -> T | None:
    """Call ``train`` in every process and give what it gives in the first; None in torchrun's other processes.

    ``auto`` is torchrun's group where its variables are set, else this process alone; ``ray`` starts ``workers`` of Ray
    Train, of which each may die: all start again then, and ``train`` must resume from what it has saved. ``train`` must
    be picklable for that. Raises RunError when Ray does not start or workers keep dying, InputError and RunError as
    ``train`` does, and Interrupted after Ctrl-C or SIGTERM.
    """
    torchrun = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if mode == "ray" and torchrun:
        raise InputError("distributed=ray starts its processes itself: start it without torchrun")
    if mode == "ray":
        return _ray(train, workers, device)
    if not torchrun:
        return train(Group())
    with _torchrun(_uses_cuda(device)) as group:
        result = train(group)
        return result if group.first else None


def _uses_cuda(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available()


def _backend(cuda: bool) -> str:
    return "cpu:gloo,cuda:nccl" if cuda else "gloo"


@contextlib.contextmanager
def _torchrun(cuda: bool) -> Iterator[Group]:
    try:
        rank, world, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise InputError(f"WORLD_SIZE is set, but not what torchrun sets with it ({error}); unset it") from None
    if cuda:
        if local >= torch.cuda.device_count():
            raise InputError(f"torchrun started more processes than there are GPUs, {torch.cuda.device_count()}")
        torch.cuda.set_device(local)
    try:
        dist.init_process_group(_backend(cuda), timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"the processes do not find each other: {_line(error)}") from None
    try:
        yield Group(rank, world)
    except dist.DistError as error:
        raise RunError(f"another process has ended; its own words say why ({_line(error)})") from None
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise RunError(f"another process has ended; its own words say why ({_line(error)})") from None
    finally:
        dist.destroy_process_group()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


class _Desk:
    """An actor: where workers leave what they print and what became of the training, and a signal waits for them."""

    def __init__(self) -> None:
        self._text, self._signal = "", 0
        self._outcome: Any = None

    def say(self, text: str) -> None:
        self._text += text

    def put(self, outcome: Any) -> None:
        if not isinstance(self._outcome, BaseException):
            self._outcome = outcome

    def news(self) -> tuple[str, Any]:
        text, self._text = self._text, ""
        return text, self._outcome

    def stop(self, number: int) -> None:
        self._signal = number

    def stopped(self) -> int:
        return self._signal


class _Voice(io.TextIOBase):
    """What a worker prints, on its way to the driver's terminal."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk

    def write(self, text: str) -> int:
        self._desk.say.remote(text)
        return len(text)


def _ray(train: Callable[[Group], T], workers: int, device: str) -> T:
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray import train as ray_train
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError as error:
        raise InputError(f"distributed=ray needs ray[train]: {_line(error)}") from None
    _connect(workers)
    try:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(_Desk)
        desk = actor.options(num_cpus=0, scheduling_strategy=here).remote()
        gpus = device == "cuda" or (device == "auto" and ray.cluster_resources().get("GPU", 0) >= workers)
        # Checkpoints are our own files, so what Ray keeps of a run is of no use after it.
        with tempfile.TemporaryDirectory() as scratch:
            trainer = TorchTrainer(
                _work, train_loop_config={"train": train, "desk": desk},
                torch_config=TorchConfig(_backend(gpus), timeout_s=int(_TIMEOUT.total_seconds())),
                scaling_config=ray_train.ScalingConfig(num_workers=workers, use_gpu=gpus),
                run_config=ray_train.RunConfig(
                    storage_path=scratch, failure_config=ray_train.FailureConfig(  # type: ignore[call-arg]
                        max_failures=_MOST_DEATHS, controller_failure_limit=_MOST_STARTS - 1)))
            return _follow(trainer, desk)
    except ray.exceptions.RayError as error:
        raise RunError(f"the cluster of Ray went away: {_line(error)}") from None
    finally:
        ray.shutdown()


def _connect(workers: int) -> None:
    """Join the cluster that the environment names, else start Ray here, for us alone."""
    import ray

    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "critical"}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(address="auto", **common)
        else:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, **common)
    except Exception as error:  # a time-out has no class of its own
        raise RunError(f"Ray does not start: {_line(error)}") from None


def _follow(trainer: Any, desk: Any) -> Any:
    """Train, and give what the first worker left on the desk; the errors are those of ``run``."""
    import ray

    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            errors.append(error)

    # In a thread of its own Ray takes no signals: what they do is for us to say.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    driver, until, running, outcome = Group(), math.inf, True, None
    with driver.listening():
        while running and not isinstance(outcome, BaseException):
            thread.join(_POLL_SECONDS)
            running = thread.is_alive()
            if driver.signals and until == math.inf:
                desk.stop.remote(driver.signals[0])
                until = time.monotonic() + _GRACE_SECONDS
            if len(driver.signals) > 1 or time.monotonic() > until:
                raise Interrupted(driver.signals[0])
            text, outcome = ray.get(desk.news.remote())
            print(text, end="", file=sys.stderr, flush=True)
    if isinstance(outcome, BaseException):
        raise outcome
    if errors:
        raise RunError(f"the workers of Ray keep failing: {_line(errors[0])}")
    return outcome


def _work(job: dict[str, Any]) -> None:
    """What a worker of Ray does."""
    import ray
    from ray import train as ray_train

    context, desk = ray_train.get_context(), job["desk"]
    group = Group(context.get_world_rank(), context.get_world_size())
    voice: Any = sys.stderr
    if group.first:
        voice = _Voice(desk)
        threading.Thread(target=_hear, args=(desk, group.signals), daemon=True).start()
    try:
        with contextlib.redirect_stdout(voice), contextlib.redirect_stderr(voice):
            outcome = job["train"](group)
    except KeyboardInterrupt as interrupt:
        outcome = interrupt
    except (InputError, RunError) as error:
        ray.get(desk.put.remote(error))
        raise
    if group.first:
        ray.get(desk.put.remote(outcome))


def _hear(desk: Any, signals: list[int]) -> None:
    """Hand on the signal that reaches the driver."""
    import ray

    while not signals:
        time.sleep(_POLL_SECONDS)
        if number := ray.get(desk.stopped.remote()):
            signals.append(number)
