"""Training and inference speed of encoders against the same layers written plainly, with the same weights.

One CPU thread; CPU seconds, so that a busy machine distorts little; the two take turns, and medians are compared.
Run: python benchmarks/encoders.py [--clips N] [--rounds N] [NAME ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from plain import ctrgcn, posec3d, stgcnpp
from torch import Tensor, nn

from skelcore import checkpoint, encoders
from skelcore.encoders import Encoder

PLAIN: dict[str, Callable[[], nn.Module]] = {
    "stgcn++": lambda: stgcnpp.Plain("coco17"),
    "ctrgcn": lambda: ctrgcn.Plain("coco17"),
    "posec3d": lambda: posec3d.SlowOnly(),
}
TWO_PERSONS = 0.18  # of NTU RGB+D's clips; the second person of the others is padding


def pair(name: str) -> tuple[Encoder, nn.Module]:
    """Our encoder and the plain module with its weights."""
    encoder, plain = encoders.build(name, "coco17"), PLAIN[name]()
    plain.load_state_dict({key.removeprefix("backbone."): value for key, value in checkpoint.to_pyskl(encoder).items()})
    return encoder, plain


def cases(name: str, count: int) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Inputs of the published shapes, with the mask of valid persons where there is padding."""
    if name == "posec3d":
        return {"17x48x56x56": (torch.rand(count, 17, 48, 56, 56), None)}
    two = torch.randn(count, 2, 100, 17, 3)
    valid = torch.ones(count, 2, dtype=torch.bool)
    valid[round(TWO_PERSONS * count):, 1] = False
    return {"M=1": (two[:, :1], None), "M=2": (two, None),
            "M=2, 18 % present": (two * valid[..., None, None, None], valid)}


def seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each run, taken in turns after a warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def train(model: nn.Module, forward: Callable[[], Tensor]) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        forward().square().sum().backward()  # type: ignore[no-untyped-call]

    return step


def compare(encoder: Encoder, plain: nn.Module, x: Tensor, valid: Tensor | None,
            rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of the plain module and ours on ``x``: a training step, and inference."""
    over = (1, 3, 4) if x.shape[-1] == 3 else (2, 3, 4)
    pooled = {"plain": lambda: plain(x).mean(over), "ours": lambda: encoder(x, valid)}
    for model in (encoder, plain):
        model.train()
    training = seconds({"plain": train(plain, pooled["plain"]), "ours": train(encoder, pooled["ours"])}, rounds)
    for model in (encoder, plain):
        model.eval()
    with torch.inference_mode():
        return training, seconds(pooled, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(PLAIN)}; all unless told")
    parser.add_argument("--clips", type=int, help="clips a batch; 16 of graph encoders and 4 of PoseConv3D unless told")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("clips per CPU second, one thread; median of", arguments.rounds)
    print(f"{'':30}{'training':>10}{'inference':>23}")
    print(f"{'encoder':10}{'input':20}" + f"{'plain':>8}{'ours':>8}{'ratio':>7}" * 2, flush=True)
    for name in arguments.names or PLAIN:
        count = arguments.clips or (4 if name == "posec3d" else 16)
        encoder, plain = pair(name)
        for label, (x, valid) in cases(name, count).items():
            row = f"{name:10}{label:20}"
            for found in compare(encoder, plain, x, valid, arguments.rounds):
                row += f"{count / found['plain']:8.2f}{count / found['ours']:8.2f}{found['plain'] / found['ours']:7.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
