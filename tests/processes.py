"""Real processes for tests of what several of them do together."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing


def together(work: Callable[[int, int], dict[str, Tensor]], world: int = 2) -> list[dict[str, Tensor]]:
    """What ``work(rank, world)``, a function of a module, gives in each of ``world`` processes that gloo joins."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_join, (world, work, folder), world)
        return [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(world)]


def _join(rank, world, work, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    torch.save(work(rank, world), Path(folder) / str(rank))
    dist.barrier()
    dist.destroy_process_group()
