"""Planning a million sources: time and memory from a list to a plan, of resuming, and of a ledger of all of them.

Each step is a process of its own, so that its peak of resident memory is its own; CPU seconds, so that a busy machine
distorts little. The baseline keeps every source as an object and writes the plan in one piece; the two take turns, and
medians count. Run: python benchmarks/planning.py [--sources N] [--rounds N]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

from harvest import plan, sources
from harvest.ledger import Entry, Ledger

SHARD, BATCH = 64, 1000
HOSTS, LABELS = 997, 400


def write_lists(folder: Path, count: int) -> None:
    """The same URLs as a .txt, and with labels and licences as a .csv."""
    with open(folder / "list.txt", "w") as text, open(folder / "list.csv", "w") as table:
        table.write("url,label,licence\n")
        for number in range(count):
            url = f"https://videos{number % HOSTS}.example.org/watch/{number * 7919 % 1_000_003:09d}-{number}.mp4"
            text.write(f"{url}\n")
            table.write(f"{url},class {number % LABELS},cc by 4.0\n")


@dataclass(frozen=True)
class Plain:
    """A source, kept as an object."""

    id: str
    address: str
    meta: dict[str, Any]
    shard: int = -1


def plain_read(path: Path) -> list[Plain]:
    return [Plain(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def plain_update(path: Path, rows: Iterable[dict[str, str]]) -> None:
    found = {}
    for row in rows:
        parts = urlsplit(row.pop("url"))
        url = urlunsplit((parts.scheme, (parts.hostname or "").lower(), parts.path, parts.query, ""))
        name = re.sub(r"\W+", "-", url.partition("://")[2])[-48:] + "-" + hashlib.sha256(url.encode()).hexdigest()[:12]
        found[url] = Plain(name, url, row)
    planned = plain_read(path)
    known = {source.address for source in planned}
    fresh = sorted((source for source in found.values() if source.address not in known), key=lambda s: s.address)
    if fresh:
        first = 1 + max((source.shard for source in planned), default=-1)
        planned += [Plain(s.id, s.address, s.meta, first + i // SHARD) for i, s in enumerate(fresh)]
        path.write_text("".join(json.dumps(asdict(source), sort_keys=True) + "\n" for source in planned))


def plain_rows(path: Path) -> Iterable[dict[str, str]]:
    with open(path, newline="") as lines:
        if path.suffix == ".csv":
            yield from csv.DictReader(lines)
        else:
            yield from ({"url": line.strip()} for line in lines)


def settle_all(folder: Path) -> None:
    planned = plan.read(folder / "plan.jsonl")
    with Ledger(folder / "ledger.jsonl", planned) as ledger:
        for first in range(0, len(planned), BATCH):
            ledger.settle_many((i, Entry(planned[i].id, "ok", tracks=2, dropped={"small": 1}, frames=100, seconds=6.7,
                                         host="example.org"))
                               for i in range(first, min(first + BATCH, len(planned))))


STEPS: dict[str, Callable[[Path], object]] = {
    "nothing, but for the imports": lambda folder: None,
    "plan a .txt": lambda folder: plan.update(folder / "plan.jsonl", sources.expand([f"{folder}/list.txt"]), SHARD),
    "plan a .csv": lambda folder: plan.update(folder / "labels.jsonl", sources.expand([f"{folder}/list.csv"]), SHARD),
    "read the plan": lambda folder: plan.read(folder / "plan.jsonl"),
    "plan the same again": lambda folder: plan.update(folder / "plan.jsonl", sources.expand([f"{folder}/list.txt"]),
                                                      SHARD),
    "settle all": settle_all,
    "read plan and ledger": lambda folder: Ledger(folder / "ledger.jsonl", plan.read(folder / "plan.jsonl")),
}
BASELINES: dict[str, Callable[[Path], object]] = {
    "plan a .txt": lambda folder: plain_update(folder / "plain.jsonl", plain_rows(folder / "list.txt")),
    "plan a .csv": lambda folder: plain_update(folder / "plain_labels.jsonl", plain_rows(folder / "list.csv")),
    "read the plan": lambda folder: plain_read(folder / "plain.jsonl"),
    "plan the same again": lambda folder: plain_update(folder / "plain.jsonl", plain_rows(folder / "list.txt")),
}
FRESH = {"plan a .txt": ("plan.jsonl", "plain.jsonl"), "plan a .csv": ("labels.jsonl", "plain_labels.jsonl"),
         "settle all": ("ledger.jsonl",)}


@dataclass(frozen=True)
class Cost:
    """What a step took: CPU seconds, the peak of its process with mapped files and what stayed without them, in MiB."""

    seconds: float
    peak: float
    resident: float


def resident() -> float:
    """Memory of the process itself in MiB: pages of a mapped file are the kernel's to take back."""
    found = re.search(r"RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def work(step: str, folder: Path, plain: bool) -> None:
    """Runs in a process of its own and prints its cost as JSON."""
    start = time.process_time()
    kept = (BASELINES if plain else STEPS)[step](folder)
    cost = Cost(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, resident())
    print(json.dumps(asdict(cost)))
    del kept


def measure(step: str, folder: Path, plain: bool) -> Cost:
    command = [sys.executable, __file__, "--work", step, "--folder", str(folder), *(["--plain"] if plain else [])]
    return Cost(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("seconds", "peak", "resident")))


def report(folder: Path, count: int, rounds: int) -> None:
    write_lists(folder, count)
    print(f"{count} sources; CPU seconds, peak of resident and lasting own MiB; medians of {rounds}\n"
          f"{'':30}{'seconds':>9}{'peak':>7}{'stays':>7}   baseline: {'seconds':>8}{'peak':>7}{'stays':>7}  faster")
    resting = 0.0
    for step in STEPS:
        ours, theirs = [], []
        for _ in range(rounds):
            for name in FRESH.get(step, ()):
                (folder / name).unlink(missing_ok=True)
            ours.append(measure(step, folder, plain=False))
            if step in BASELINES:
                theirs.append(measure(step, folder, plain=True))
        cost = median(ours)
        resting = resting or cost.resident
        line = f"{step:30}{cost.seconds:9.1f}{cost.peak:7.0f}{cost.resident:7.0f}"
        if theirs:
            other = median(theirs)
            line += (f"{'':13}{other.seconds:9.1f}{other.peak:7.0f}{other.resident:7.0f}"
                     f"{other.seconds / cost.seconds:7.2f}x")
        print(line, flush=True)
        if step.startswith("read"):
            print(f"{'':30}{(cost.resident - resting) * 2**20 / count:.0f} bytes a source stay resident"
                  + f" (baseline {(other.resident - resting) * 2**20 / count:.0f})" * bool(theirs))
    for name in ("plan.jsonl", "ledger.jsonl"):
        print(f"{name}: {(folder / name).stat().st_size / count:.0f} bytes a source on disk")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.folder, options.plain)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report(Path(folder), options.sources, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
