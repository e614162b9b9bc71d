"""What each encoder costs: skelshot encoders [NAME ...] [--layout coco17 ...] [--frames 100] [--persons 1] [--width N]

Joint encoders read clips of --persons and --frames; heatmap encoders read 48 frames of 56 x 56 pixels, whatever those
two options say.
MACs are the multiply-accumulates of one clip's forward pass in matrix products and convolutions, as this
implementation arranges them; clips/s are measured here, forward in evaluation, and forward and backward in training.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skelcore import encoders
from skelcore.brief import brief
from skelcore.command import Parser, is_out_of_memory
from skelcore.encoders.heatmaps import SIZE, HeatmapEncoder
from skelcore.errors import InputError, RunError

FRAMES = 48  # heatmaps of a clip, as published for PoseConv3D
LARGEST_WIDTH, LARGEST = 1024, 10_000  # beyond these a number is a slip, which would fill the memory
SECONDS = 2.0  # a measurement ends with the first pass beyond this


@dataclass(frozen=True)
class Cost:
    """One row of the table; ``forward`` and ``training`` are clips/s, None where nothing was measured."""

    name: str
    layout: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    forward: float | None = None
    training: float | None = None


def cost(encoder: encoders.Encoder, frames: int = 100, persons: int = 1, batch: int = 4, timed: bool = True) -> Cost:
    """What ``encoder`` costs on the device where it is, for clips of ``frames`` and ``persons``, ``batch`` at a time.

    If ``timed``, leaves it in training mode, with the batch-norm statistics of noise. Raises RunError where the
    device's memory is too small for the batch.
    """
    encoder.eval()
    forward = training = None
    try:
        x = example(encoder, batch, frames, persons)
        macs = multiply_accumulates(encoder, x[:1])
        if timed:
            with torch.no_grad():
                forward = batch / _seconds(lambda: encoder(x), x.device)
            training = batch / _seconds(lambda: _step(encoder.train(), x), x.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f"encoder {encoder.name}: too little memory on the device for {batch} clips at a time; "
                       "take a smaller --batch") from error
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return Cost(encoder.name, encoder.layout.name, tuple(x.shape[1:]), parameters, macs, forward, training)


def example(encoder: encoders.Encoder, batch: int, frames: int, persons: int) -> Tensor:
    """A batch of the encoder's input on its device: normal coordinates, or uniform heatmaps."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(encoder, HeatmapEncoder):
        x = torch.rand(batch, encoder.in_channels, FRAMES, SIZE, SIZE, generator=generator)
    else:
        x = torch.randn(batch, persons, frames, len(encoder.layout), encoder.in_channels, generator=generator)
    return x.to(next(encoder.parameters()).device)


@torch.no_grad()
def multiply_accumulates(module: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of ``module(x)`` in matrix products and convolutions; elementwise work is not counted."""
    # torch's counter hooks whatever module input wants a gradient, and fails on views of parameters made without one.
    module = copy.deepcopy(module).requires_grad_(False)
    # It does not know the fused attention of a CPU; the plain one is two batched products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(x)
    return counter.get_total_flops() // 2


def _step(encoder: nn.Module, x: Tensor) -> None:
    encoder(x).square().mean().backward()
    encoder.zero_grad(set_to_none=True)


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """Median time of ``step`` over passes that last ``SECONDS`` together, after one to warm up."""
    taken: list[float] = []
    while len(taken) < 2 or (sum(taken[1:]) < SECONDS and len(taken) < 50):
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: must be cpu, cuda or cuda:N")
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without CUDA
        raise InputError(f"--device {name}: not usable here ({str(error).splitlines()[0]})") from error


def _where(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"


_LINE = "{:<13} {:<11} {:<15} {:>12} {:>9} {:>14} {:>14}"


def header() -> str:
    return _LINE.format("encoder", "layout", "input", "parameters", "GMACs", "eval clips/s", "train clips/s")


def line(row: Cost) -> str:
    speeds = ("-" if speed is None else f"{speed:.3g}" if speed < 1000 else f"{speed:.0f}"
              for speed in (row.forward, row.training))
    return _LINE.format(row.name, row.layout, "x".join(map(str, row.shape)), f"{row.parameters:,}",
                        f"{row.macs / 1e9:.3f}", *speeds)


def _positive(text: str, largest: int = LARGEST) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= largest:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a whole number above 0, at most {largest}")
    return int(text)


def _width(text: str) -> int:
    return _positive(text, LARGEST_WIDTH)


def _parser() -> Parser:
    about, details = (__doc__ or "").split("\n", 1)
    parser = Parser("skelshot encoders", description=about.split(":")[0], epilog=details)
    parser.add_argument("names", nargs="*", metavar="NAME", help="encoders to measure (all)")
    parser.add_argument("--layout", nargs="+", default=["coco17"], help="layouts of the clips (coco17)")
    parser.add_argument("--frames", type=_positive, default=100, help="frames of a clip of joints (100)")
    parser.add_argument("--persons", type=_positive, default=1, help="persons in a clip of joints (1)")
    parser.add_argument("--width", type=_width, help="width of every encoder (each as published)")
    parser.add_argument("--batch", type=_positive, default=4, help="clips at a time (4)")
    parser.add_argument("--device", help="cpu or cuda (cuda where there is one)")
    parser.add_argument("--no-timing", dest="timing", action="store_false", help="count only, measure nothing")
    return parser


def _execute(arguments: argparse.Namespace) -> None:
    device = _device(arguments.device)
    # All of them first: a bad name, layout or width is then known before minutes of measuring.
    built = [encoders.build(name, layout, width=arguments.width)
             for name in arguments.names or encoders.ENCODERS for layout in arguments.layout]
    print(f"{_where(device)}; clips at a time: {arguments.batch}\n{header()}", flush=True)
    for encoder in built:
        row = cost(encoder.to(device), arguments.frames, arguments.persons, arguments.batch, arguments.timing)
        encoder.to("cpu")
        print(line(row), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, row by row; exit status 2 for bad arguments, 1 where the memory is too small."""
    return _parser().run(argv, _execute)


if __name__ == "__main__":
    sys.exit(main())
