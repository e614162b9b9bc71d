"""Speed and memory of the pretraining loop, against its bare encoder and against the way it is usually done.

1. What a step of the shipped recipes spends on reading clips, on views with heatmaps, and on all but the encoder's and
   the objective's own forward and backward passes, which are timed on ready tensors, in turns with the loop.
2. The loop against the usual recipe (benchmarks/plain/pretraining.py): numpy views in two workers and plain modules, on
   clips of one person, and on the same padded to two persons, as public code feeds every clip.
3. Masked motion with its light decoder against a decoder of three layers over the full sequence.
4. Memory of a whole run on a set and on one of ten times as many clips.

One CPU thread a process, and a GPU where there is one. On a CPU the figures are CPU seconds of all processes, so that a
busy machine distorts little, unless they say wall; on a GPU they are wall seconds. Medians of runs taken in turns.
Run: python benchmarks/pretrain.py
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import numpy as np
import torch
from plain.pretraining import Feeder, FullMaskedMotion, Recipe
from torch import Tensor
from torch.utils.data import DataLoader

from pretrain.config import PretrainConfig
from pretrain.objectives import OBJECTIVES, Objective
from pretrain.objectives.masked_motion import MaskedMotion
from pretrain.trainer import Trainer
from skelcore import config, procedural, shards
from skelcore.batches import Batch, Loader, loader
from skelcore.encoders.transformer import keep

RECIPES = Path(__file__).resolve().parents[1] / "configs/pretrain"
PROCEDURAL = "procedural:2000"
CLIPS, COPIES = 500, 4  # procedural clips that are written as shards, and how often
WORKERS, PREFETCHED = 2, 4  # batches that two workers hold ready when the first one is taken
EPOCH = 2  # batches of a run of the usual recipe, whose workers rest between two runs
STEPS = {"cpu": 8, "cuda": 100}  # timed with workers
REPEATS = {"cpu": 1, "cuda": 20}  # runs between two looks at the clock
MEMORY = (1000, 10000)
SMALL = ["encoder.width=8", "frames=16", "batch_size=50", "epochs=1", "optimizer.warmup_epochs=1"]


@dataclass(frozen=True)
class Case:
    """A recipe, the clips of a batch on a CPU (None, and on a GPU: the recipe's), and how often it is timed."""

    objective: str
    encoder: str
    size: str
    clips: int | None
    rounds: int

    @property
    def title(self) -> str:
        return f"{self.encoder} {self.objective} {self.size}"

    def trainer(self, folder: Path, data: str, device: str, *overrides: str) -> Trainer:
        batch = [f"batch_size={self.clips}"] if device == "cpu" and self.clips else []
        paths = [RECIPES / f"{self.objective}.yaml", RECIPES / f"encoder/{self.encoder}.yaml",
                 RECIPES / f"size/{self.size}.yaml"]
        given = [f"data={data}", f"output={folder / 'run'}", f"device={device}", *batch, *overrides]
        return Trainer(config.load(PretrainConfig, paths, given))


GRAPH = Case("vicreg", "stgcn++", "tiny", 32, 5)
WIDE_GRAPH = Case("vicreg", "stgcn++", "full", 8, 2)
MASKED = Case("masked_motion", "transformer", "tiny", 32, 9)
WIDE_MASKED = Case("masked_motion", "transformer", "full", 16, 3)
HEATMAP = Case("vicreg", "x3d-shallow", "tiny", 8, 3)
WIDE_HEATMAP = Case("vicreg", "posec3d", "full", 2, 3)
CASES = {"cpu": [GRAPH, WIDE_GRAPH, MASKED, WIDE_MASKED, HEATMAP],
         "cuda": [GRAPH, WIDE_GRAPH, MASKED, WIDE_MASKED, HEATMAP, WIDE_HEATMAP]}


@dataclass(frozen=True)
class Cost:
    """Median seconds of a run: of all processors, and on the wall."""

    cpu: float
    wall: float

    def on(self, device: str) -> float:
        return self.cpu if device == "cpu" else self.wall


def costs(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, Cost]:
    """What each run costs, taken in turns after a warm-up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            cpu, wall = clocks(device)
            for _ in range(REPEATS[device]):
                run()
            after = clocks(device)
            if number:
                taken[name].append(((after[0] - cpu) / REPEATS[device], (after[1] - wall) / REPEATS[device]))
    return {name: Cost(*map(statistics.median, zip(*each, strict=True))) for name, each in taken.items()}


def clocks(device: str) -> tuple[float, float]:
    """CPU seconds of this process and the workers that live, and wall seconds; a GPU has done its work by then."""
    if device == "cuda":
        torch.cuda.synchronize()
    # A process's clock, as clock_getcpuclockid(3) numbers it.
    children = [time.clock_gettime(~child.pid << 3 | 2) for child in multiprocessing.active_children()]
    return time.process_time() + sum(children), time.perf_counter()


def endless(batches: Loader) -> Iterator[Batch]:
    while True:
        yield from batches


def ready(objective: Objective, seen: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor | None]]:
    """What the encoder reads in each of its passes: an input, and the valid persons or the tokens kept."""
    if isinstance(objective, MaskedMotion):
        return [(seen[0][:, 0], kept[:, 0]) for kept in (seen[2], *seen[6:])]
    views = zip(seen[::2], seen[1::2], strict=False)  # the clips' weights come last
    return [objective.encoder.inputs(*view, objective.setting.stream) for view in views]


def encode(objective: Objective, x: Tensor, other: Tensor | None) -> Tensor:
    if isinstance(objective, MaskedMotion):
        return objective.encoder.encode(keep(objective.encoder.tokens(x), other))
    return objective.encoder(x, other)


def pieces(trainer: Trainer, batches: Iterator[Batch]) -> dict[str, Callable[[], object]]:
    """The loop, and by themselves what it reads, its views and inputs, its encoder's and its objective's passes."""
    objective = trainer.objective.train()
    batch = next(batches).to(trainer.device)
    seen = trainer.see(batch, 0)
    inputs = ready(objective, seen)

    def backward(loss: Callable[[], Tensor]) -> None:
        objective.zero_grad(set_to_none=True)
        with trainer.autocast:
            value = loss()
        value.backward()

    return {
        "loop": lambda: trainer.train_step([next(batches)]),
        "reading": lambda: next(batches),
        "views": lambda: ready(objective, trainer.see(batch, 0)),
        "encoder": lambda: backward(lambda: torch.stack([encode(objective, *x).float().square().mean()
                                                         for x in inputs]).sum()),
        "objective": lambda: backward(lambda: objective(*seen)[0]),
    }


def waiting(trainer: Trainer, device: str) -> float:
    """The share of the wall time that the loop waits for two workers."""
    for number, batch in enumerate(trainer.meter.waited(loader(trainer.dataset, trainer.sampler, WORKERS))):
        shown = trainer.train_step([batch])
        if number == PREFETCHED:
            float(shown["loss/total"])
            trainer.meter.read()
        if number == PREFETCHED + STEPS[device]:
            break
    float(shown["loss/total"])
    return trainer.meter.read()["speed/waiting_share"]


def steps(device: str, folder: Path, data: str) -> None:
    print(f"1. a step on {device}\n{'':44}{'clips/s':>9}{'':>9}{'waiting':>9}{'':>9}{'views,':>9}{'loop / bare':>18}")
    print(f"{'recipe':44}{'':>9}{'wall':>9}{'alone':>9}{'2 workers':>10}{'maps':>8}{'encoder':>9}{'objective':>10}")
    for case in CASES[device]:
        for name, source in {"": data, **({"procedural": PROCEDURAL} if case is GRAPH else {})}.items():
            trainer = case.trainer(folder, source, device)
            batches = endless(loader(trainer.dataset, trainer.sampler, 0))
            found = costs(pieces(trainer, batches), case.rounds, device)
            share = {piece: cost.on(device) / found["loop"].on(device) for piece, cost in found.items()}
            clips, loop = trainer.config.batch_size, found["loop"]
            waits = waiting(case.trainer(folder, source, device), device)
            print(f"{f'{case.title} {name}':44}{clips / loop.on(device):9,.1f}{clips / loop.wall:9,.1f}"
                  f"{share['reading']:9.1%}{waits:10.1%}{share['views']:8.1%}{share['encoder']:9.2f}"
                  f"{share['objective']:10.2f}", flush=True)


def contenders(trainer: Trainer, device: str, whole: bool) -> dict[str, Callable[[], object]]:
    """EPOCH steps, or no more than their views, of the usual recipe, also padded to two persons, and ours."""
    dataset, size = trainer.dataset, trainer.config.batch_size
    clips = dataset.__getitems__(np.arange(EPOCH * size) % len(dataset))
    stored = trainer.encoder.inputs(clips.keypoints, clips.scores)[0].permute(0, 4, 2, 3, 1).numpy()

    def usual(persons: int) -> Callable[[], None]:
        padded = np.pad(stored, [(0, 0)] * 4 + [(0, persons - 1)])
        views = DataLoader(Feeder(padded, dataset.layout), size, shuffle=True, num_workers=WORKERS,
                           persistent_workers=True)
        recipe = Recipe(dataset.layout, trainer.encoder.width, trainer.config.objective.expander, device)

        def run() -> None:
            for batch in views:
                if whole:
                    recipe.step(batch)

        return run

    batches = endless(loader(dataset, trainer.sampler, 0))

    def ours() -> None:
        for _ in range(EPOCH):
            if whole:
                trainer.train_step([next(batches)])
            else:
                ready(trainer.objective, trainer.see(next(batches).to(trainer.device), 0))

    return {"usual": usual(1), "padded": usual(2), "ours": ours}


def usual(device: str, folder: Path, data: str) -> None:
    print(f"\n2. against the usual recipe, stgcn++ vicreg on {device}; clips a CPU second, all processes\n"
          f"{'':44}{'usual':>9}{'padded':>9}{'ours':>9}{'/ usual':>9}{'/ padded':>9}{'wall':>7}{'wall':>7}")
    for case in (GRAPH, WIDE_GRAPH):
        for what, trainer in {"whole loop": case.trainer(folder, data, device),
                              "reading and views": replace(case, clips=None).trainer(folder, data, device)}.items():
            found = costs(contenders(trainer, device, what == "whole loop"), case.rounds, device)
            size, own = trainer.config.batch_size, found.pop("ours")
            print(f"{f'{case.size}, {what}, batches of {size}':44}"
                  + "".join(f"{EPOCH * size / cost.cpu:9,.1f}" for cost in [*found.values(), own])
                  + "".join(f"{cost.cpu / own.cpu:9.1f}" for cost in found.values())
                  + "".join(f"{cost.wall / own.wall:7.1f}" for cost in found.values()), flush=True)


def decoders(device: str, folder: Path, data: str) -> None:
    print(f"\n3. masked motion on {device}, clips/s\n{'':44}{'full':>9}{'light':>9}{'ratio':>9}")
    for case in (MASKED, WIDE_MASKED):
        with mock.patch.dict(OBJECTIVES, masked_motion=FullMaskedMotion):
            full = case.trainer(folder, data, device, "objective.asked=1.0", "objective.pooled=0")
        runs = {}
        light = case.trainer(folder, data, device, "objective.pooled=0")
        for name, trainer in {"full": full, "light": light}.items():
            runs[name] = pieces(trainer, endless(loader(trainer.dataset, trainer.sampler, 0)))["loop"]
        found = {name: cost.on(device) for name, cost in costs(runs, case.rounds, device).items()}
        title = f"{case.title}, {full.config.frames} frames"
        print(f"{title:44}{full.config.batch_size / found['full']:9,.1f}{full.config.batch_size / found['light']:9,.1f}"
              f"{found['full'] / found['light']:9.1f}", flush=True)


def write_shards(folder: Path, copies: int) -> str:
    """Shards of ``copies`` times the same procedural clips."""
    store = procedural.read(f"procedural:{CLIPS}?seed=1")
    clips = [store[i] for i in range(CLIPS)]
    for copy in range(copies):
        shards.write(folder / f"{copy:03d}.tar", [shards.Block(f"{copy}-{number}", [clip], [{}], {}, {})
                                                  for number, clip in enumerate(clips)])
    return str(folder)


def run_whole(data: str) -> None:
    """Pretrain for an epoch and print the peak of memory and what of it is the process's own at the end (MB)."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"data={data}", f"output={folder}", "device=cpu", *SMALL]
        Trainer(config.load(PretrainConfig, RECIPES / "vicreg.yaml", given)).run()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "RssAnon")]))


def memory(folder: Path) -> None:
    print(f"\n4. memory of an epoch, MB\n{'':44}{'clips':>9}{'peak':>9}{'own':>9}")
    for kind in ("shards", "procedural"):
        for count in MEMORY:
            data = f"procedural:{count}"
            if kind == "shards":
                (place := folder / str(count)).mkdir()
                data = write_shards(place, count // CLIPS)
            answer = subprocess.run([sys.executable, __file__, "--memory", data], check=True, text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            peak, own = json.loads(answer.stdout)
            print(f"{kind:44}{count:9,}{peak:9,.0f}{own:9,.0f}", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "set").mkdir()
        data = write_shards(folder / "set", COPIES)
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            steps(device, folder, data)
            usual(device, folder, data)
            decoders(device, folder, data)
        memory(folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        run_whole(sys.argv[2])
    else:
        main()
