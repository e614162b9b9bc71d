"""The harvest against its bare pose model, on 1 and 8 nodes, and over many sources.

efficiency: frames a second over those of a loop over frames that lie decoded in memory, detector on every fifth and
landmarks on all. `extract` adds decoding, tracking and quality numbers; the harvest adds Ray, the ledger and shards.
The first two take turns; medians over the rounds.
scaling: Ray's own simulation of a cluster, 8 nodes of one CPU each that are processes of this machine. Its model sleeps
for each frame, so that this machine's cores are no limit; then once more with a node that is lost half-way.
memory: the driver's over a run of sources that all fail at once, as each file is missing.

Run: python benchmarks/harvest.py [efficiency] [scaling] [memory] [--sources N]
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # workers import this file too, for its model

from harvest import drive, sources
from harvest.config import Harvest
from harvest.decode import chunks
from harvest.estimators import Estimator, People, Poses, build
from harvest.extract import extract
from harvest.video import Outcome
from skelcore import layouts
from skelcore.mannequin import perform, write_video

ROOT = Path(__file__).parent.parent
EVERY, ROUNDS, VIDEOS, SECONDS = 5, 5, 12, 4.0
NODES, SLEEP, LENGTHS, EACH = 8, 0.05, (8, 16, 24), 30
STORE = 80 * 2**20  # bytes of each simulated node's object store, which the harvest does not use
QUARTERS = (0.25, 0.5, 0.75, 1.0)


class Sleeper:
    """A pose model that takes its time and none of the machine's: one person who fills the middle of each frame."""

    def __init__(self, layout: str = "coco17") -> None:
        self.layout = layouts.get(layout)
        self.provenance = {"estimator": "sleeper"}

    def detect(self, frames: np.ndarray) -> list[People]:
        height, width = frames.shape[1:3]
        return [People(np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]), np.ones(1)) for _ in frames]

    def estimate(self, frames: np.ndarray, people: list[People]) -> list[Poses]:
        time.sleep(SLEEP * len(frames))
        grid = np.linspace(0, 1, len(self.layout))[None, :, None]
        return [Poses(found.boxes[:, None, :2] * (1 - grid) + found.boxes[:, None, 2:] * grid,
                      np.ones((len(found), len(self.layout))), np.ones(len(found)), found) for found in people]


@dataclass
class Run:
    """What a harvest settled, in its order."""

    frames: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    settled: Counter[int] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    again: int = 0  # sources that took more than one attempt

    def rate(self, workers: int) -> float:
        """Frames a second, without Ray's start and with the end, when some workers have nothing left to do.

        Counted from a full round of the workers: what was in hand when the first ones settled had begun before. What
        is done by then of the round after still counts, on average half a source each.
        """
        return sum(self.frames[workers:]) / (self.times[-1] - self.times[workers - 1])


def harvest(config: Harvest, at: Callable[[int], None] = lambda count: None) -> Run:
    """Drive a harvest of all sources; ``at`` hears how many are settled."""
    run = Run()

    def settle(index: int, outcome: Outcome, attempts: int) -> None:
        run.frames.append(outcome.frames)
        run.times.append(time.perf_counter())
        run.settled[index] += 1
        run.states[outcome.reason if outcome.status == "failed" else "estimated"] += 1
        run.again += attempts > 1
        at(len(run.frames))

    found = list(sources.expand(config.sources))
    drive.drive(config, found, range(len(found)), settle, lambda *_: None)
    return run


def bare(estimator: Estimator, frames: np.ndarray) -> None:
    people = None
    for i in range(len(frames)):
        if i % EVERY == 0 or people is None:
            people = estimator.detect(frames[i:i + 1])[0]
        people = estimator.estimate(frames[i:i + 1], [people])[0].people


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def efficiency(folder: Path) -> None:
    estimator = build("blazepose")
    for i in range(VIDEOS):
        write_video(perform("wave", i, 0, seconds=SECONDS, fps=25, size=(360, 640)), folder / f"{i:02d}.mp4")
    path = folder / "00.mp4"
    frames = np.concatenate([chunk.frames for chunk in chunks(path, 15)])
    extract(path, estimator)
    pairs = [(seconds(lambda: bare(estimator, frames)), seconds(lambda: extract(path, estimator)))
             for _ in range(ROUNDS)]
    alone, piped = (len(frames) / median(times) for times in zip(*pairs, strict=True))
    print(f"{'640x360, one person':28} {'frames/s':>9} {'over bare':>10}")
    print(f"{'bare model, 1 core':28} {alone:9.1f} {1:10.2f}")
    print(f"{'extract, 1 core':28} {piped:9.1f} {median(a / b for a, b in pairs):10.2f}")
    for workers in sorted({1, min(2, os.cpu_count() or 1)}):
        rate = harvest(Harvest(sources=[str(folder)], output=str(folder / "out"), workers=workers)).rate(workers)
        print(f"{f'harvest, {workers} workers':28} {rate:9.1f} {rate / alone / workers:10.2f} per worker")


def scaling(folder: Path) -> None:
    write_clips(folder / "few", EACH)
    write_clips(folder / "many", EACH * NODES)
    slow = {"estimator": "benchmarks.harvest:Sleeper", "output": str(folder / "out")}
    few, many = (Harvest(sources=[str(folder / name)], **slow) for name in ("few", "many"))
    with cluster(folder) as add:
        add(1)
        alone = harvest(few).rate(1)
        lose = add(NODES - 1)
        together = harvest(many).rate(NODES)
        print(f"{'a sleeping model':28} {'frames/s':>9} {'over 1 node':>12} {'per node':>9}\n"
              f"{'bare model':28} {1 / SLEEP:9.1f}\n{'1 node':28} {alone:9.1f}\n"
              f"{f'{NODES} nodes':28} {together:9.1f} {together / alone:12.2f} {together / alone / NODES:9.3f}")
        with redirect_stdout(io.StringIO()):  # Ray has much to say about it
            run = harvest(many, lambda count: lose() if count == EACH * NODES // 2 else None)
    print(f"a node lost after half of {EACH * NODES} sources: {len(run.settled)} settled, each at most "
          f"{max(run.settled.values())} times, {run.again} after a second attempt, as {dict(run.states)}")


def write_clips(folder: Path, count: int) -> None:
    """Clips of as many frames as LENGTHS says, in turns: names of the same few files."""
    folder.mkdir()
    for i in range(count):
        path = folder / f"{i:04d}.mp4"
        if i < len(LENGTHS):
            write_video(perform("wave", i, 0, seconds=LENGTHS[i] / 15, fps=15, size=96), path)
        else:
            os.link(folder / f"{i % len(LENGTHS):04d}.mp4", path)


@contextmanager
def cluster(folder: Path) -> Iterator[Callable[[int], Callable[[], None]]]:
    """A simulated cluster, first with a head that has no CPU; gives what adds nodes and then gives what loses one."""
    os.environ["RAY_TMPDIR"] = str(folder)  # else it would be what others on this machine join
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE,
                                                          "include_dashboard": False})

    def add(count: int) -> Callable[[], None]:
        added = [nodes.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(count)]
        nodes.wait_for_nodes()
        return lambda: nodes.remove_node(added[0], allow_graceful=False)

    try:
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.CRITICAL)
        yield add
    finally:
        ray.shutdown()
        nodes.shutdown()
        del os.environ["RAY_TMPDIR"]


def memory(folder: Path, count: int) -> None:
    """A harvest as a process of its own, watched through its ledger."""
    (folder / "list.txt").write_text("".join(f"{i:07d}.mp4\n" for i in range(count)))
    command = [sys.executable, "-m", "harvest.run", f"sources={folder / 'list.txt'}", f"output={folder / 'out'}",
               "estimator=benchmarks.harvest:Sleeper", "workers=1"]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        print(f"{'sources settled':28} {'driver, MiB':>12}")
        for share in QUARTERS:
            held = wait(process, folder / "out" / "ledger.jsonl", count * share)
            print(f"{round(count * share):28} {held:12.1f}", flush=True)
    print(f"status {process.returncode}; {count / (time.perf_counter() - began):.0f} sources/s with start and end")


def wait(process: subprocess.Popen[bytes], ledger: Path, lines: float) -> float:
    """Resident MiB of a driver when its ledger has so many lines, or at its end."""
    held, seen, read = float("nan"), 0, 0
    while seen < lines and process.poll() is None:
        time.sleep(0.05)
        if ledger.exists():
            with ledger.open("rb") as file:
                file.seek(read)
                piece = file.read()
            seen, read = seen + piece.count(b"\n"), read + len(piece)
        pages = Path(f"/proc/{process.pid}/statm").read_text().split()
        held = int(pages[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if int(pages[1]) else held
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="efficiency, scaling, memory; default: all")
    parser.add_argument("--sources", type=int, default=20_000, help="of the section memory")
    options = parser.parse_args()
    sections: dict[str, Callable[[Path], None]] = {
        "efficiency": efficiency, "scaling": scaling, "memory": lambda folder: memory(folder, options.sources)}
    if unknown := set(options.sections) - set(sections):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    for name in options.sections or sections:
        with tempfile.TemporaryDirectory() as folder:
            sections[name](Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
