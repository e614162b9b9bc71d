"""Few-shot methods from cached features: episodes against a loop over them, all heads on nested draws, and re-ranking.

One CPU thread and CPU seconds, so that a busy machine distorts little; what is compared takes turns, and medians count.
Features are random. Run: python benchmarks/adapt.py [--rounds N]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

from adapt import episodes, evaluate, tasks
from adapt.methods import METHODS, TRANSDUCTIVE, align, prototype
from skelcore import encoders

WAY, QUERY, EPISODES = 5, 10, 10_000
LOOPED = 500  # episodes that are timed where EPISODES would take minutes
SHOTS = (1, 2, 5, 10, 20)
QUERIES, WIDTH, CLASSES, DRAWS = 40_000, 256, 60, 10
SEGMENTS, PARTS = 4, 6
INDUCTIVE = [name for name in METHODS if name not in TRANSDUCTIVE]


def seconds(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def features(labels: np.ndarray, spread: float) -> Tensor:
    """Clips (n, WIDTH) around centres of their classes."""
    generator = torch.Generator().manual_seed(0)
    centres = spread * torch.randn(labels.max() + 1, WIDTH, generator=generator)
    return centres[torch.from_numpy(labels)] + torch.randn(len(labels), WIDTH, generator=generator)


class Sampler:
    """Clips of ``count`` episodes, drawn one after the other by `random.sample`."""

    def __init__(self, labels: np.ndarray, shot: int, count: int) -> None:
        self.members = {c: np.flatnonzero(labels == c).tolist() for c in np.unique(labels).tolist()}
        self.clips, self.count = shot + QUERY, count

    def __iter__(self) -> Iterator[list[int]]:
        source = random.Random(0)
        for _ in range(self.count):
            yield [i for c in source.sample(sorted(self.members), WAY)
                   for i in source.sample(self.members[c], self.clips)]


def loaded(labels: np.ndarray, clips: Tensor, shot: int, count: int) -> float:
    """Mean accuracy as few-shot libraries evaluate: a loader puts every episode together clip by clip."""
    pairs = list(zip(clips, labels.tolist(), strict=True))

    def collate(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.stack([clip for clip, _ in batch]).unflatten(0, (WAY, -1))
        names = list(dict.fromkeys(label for _, label in batch))
        numbers = torch.tensor([names.index(label) for _, label in batch]).unflatten(0, (WAY, -1))
        return rows[:, :shot].flatten(0, 1), rows[:, shot:].flatten(0, 1), numbers[:, :shot].flatten()

    batches: Iterable[tuple[Tensor, Tensor, Tensor]] = DataLoader(
        pairs, batch_sampler=Sampler(labels, shot, count), collate_fn=collate)  # type: ignore[arg-type]
    return float(np.mean([classify(*batch) for batch in batches]))


def bare_loop(drawn: tasks.Tasks, clips: Tensor) -> np.ndarray:
    """Accuracies (E,) of episodes that are drawn already, each fetched at once: the least that a loop can do."""
    labels = torch.arange(WAY).repeat_interleave(drawn.support.shape[2])
    positions = (torch.from_numpy(each).flatten(1) for each in (drawn.support, drawn.queries))
    return np.array([classify(clips[known], clips[asked], labels) for known, asked in zip(*positions, strict=True)])


def classify(known: Tensor, asked: Tensor, labels: Tensor) -> float:
    known, asked = normalize(known, dim=-1), normalize(asked, dim=-1)
    means = torch.stack([known[labels == c].mean(0) for c in range(WAY)])
    predicted = (asked @ normalize(means, dim=-1).T).argmax(1)
    return (predicted == torch.arange(WAY).repeat_interleave(QUERY)).float().mean().item()


def compare_episodes(rounds: int) -> None:
    labels = np.arange(20_000) % 20
    clips = features(labels, 0.3)
    print(f"\n{EPISODES:,} {WAY}-way episodes, {QUERY} queries a class, {len(clips):,} x {WIDTH} features; seconds")
    for shot in (1, 5):
        drawn = tasks.sample(labels, WAY, shot, QUERY, EPISODES, 0)
        compare_loops(labels, clips, shot, drawn, rounds)
        for name in METHODS:
            some = part(drawn, LOOPED if name == "logistic" else EPISODES)
            found = seconds({name: partial(tasks.accuracy, name, some, clips)}, rounds)[name]
            print(f"  {name:<10} {found * EPISODES / len(some.classes):6.2f}", flush=True)


def compare_loops(labels: np.ndarray, clips: Tensor, shot: int, drawn: tasks.Tasks, rounds: int) -> None:
    few = part(drawn, LOOPED)
    taken = seconds({
        "whole": lambda: tasks.accuracy("prototype", tasks.sample(labels, WAY, shot, QUERY, EPISODES, 0), clips),
        "drawn": lambda: tasks.accuracy("prototype", drawn, clips),
        "loader": lambda: loaded(labels, clips, shot, LOOPED),
        "bare": lambda: bare_loop(few, clips)}, rounds)
    loader, bare = (taken[name] * EPISODES / LOOPED for name in ("loader", "bare"))
    same = np.mean(np.isclose(bare_loop(few, clips), tasks.accuracy("prototype", few, clips), atol=1e-6))
    print(f"{shot}-shot prototype, sampling and all: {taken['whole']:.2f}; loader and loop {loader:.1f}, "
          f"{loader / taken['whole']:.0f}x\n  of episodes drawn already: {taken['drawn']:.2f}; bare loop {bare:.1f}, "
          f"{bare / taken['drawn']:.0f}x; same accuracy in {same:.1%} of episodes", flush=True)


def part(drawn: tasks.Tasks, count: int) -> tasks.Tasks:
    return tasks.Tasks(drawn.classes[:count], drawn.support[:count], drawn.queries[:count])


def setting() -> tuple[episodes.Episodes, Tensor, Tensor]:
    """Nested draws from 40 clips a class, and features of pool and queries."""
    source = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), 40)
    drawn = np.stack([np.stack([source.permutation(np.flatnonzero(labels == c))[:max(SHOTS)] for c in range(CLASSES)])
                      for _ in range(DRAWS)])
    truth = source.integers(0, CLASSES, QUERIES)
    clips = features(np.concatenate([labels, truth]), 0.5)
    everything = episodes.Episodes(tuple(map(str, range(CLASSES))), (), np.arange(len(labels)), labels,
                                   np.arange(QUERIES), truth, drawn, tuple(range(DRAWS)),
                                   np.ones((DRAWS, QUERIES), bool))
    return everything, clips[:len(labels)], clips[len(labels):]


def all_heads(drawn: episodes.Episodes, pool: Tensor, queries: Tensor) -> None:
    print(f"\n{DRAWS} draws, k = {SHOTS}, {CLASSES} classes, {QUERIES:,} x {WIDTH} queries; seconds")
    total = 0.0
    for name in INDUCTIVE:
        total += show(name, drawn, pool, queries, SHOTS)
    print(f"  all {len(INDUCTIVE)}      {total:6.2f}")
    print("one draw, k = 1")
    for name in sorted(TRANSDUCTIVE):
        show(name, drawn.first(1), pool, queries, SHOTS[:1])


def show(name: str, drawn: episodes.Episodes, pool: Tensor, queries: Tensor, shots: Sequence[int]) -> float:
    taken = seconds({name: lambda: [evaluate.predict(name, drawn, pool, queries, k) for k in shots]}, 1)[name]
    print(f"  {name:<10} {taken:6.2f}", flush=True)
    return taken


@torch.no_grad()
def re_ranking(drawn: episodes.Episodes, pool: Tensor, queries: Tensor, rounds: int) -> None:
    """What align adds to the scores of prototype alone, and to a first stage that has to encode the queries."""
    generator = torch.Generator().manual_seed(0)
    known, asked = (torch.randn(len(each), SEGMENTS, PARTS, align.WIDTH, generator=generator)
                    for each in (pool, queries))
    encoder = encoders.build("stgcn++", "coco17", width=16).eval()
    x = torch.randn(256, 1, 16, 17, 3)
    print(f"\nalign on {SEGMENTS} x {PARTS} x {align.WIDTH} tokens, {DRAWS} draws, {QUERIES:,} queries; seconds")
    encoder(x)
    encoding = seconds({"encode": lambda: encoder(x)}, rounds)["encode"] / len(x) * QUERIES
    for k in SHOTS:
        rows, targets = torch.from_numpy(drawn.support(k)), one_hot(torch.from_numpy(drawn.labels(k))).float()

        def scores(rows: Tensor = rows, targets: Tensor = targets) -> Tensor:
            head = prototype.fit(pool[rows], targets)
            return torch.cat([head(each) for each in queries.split(4096)], 1)

        again = partial(align.rerank, scores(), known[rows], targets, asked)
        taken = seconds({"scores": scores, "align": again}, rounds)
        print(f"  k = {k:2}: scores {taken['scores']:.2f}, align {taken['align']:.2f}: with it "
              f"{1 + taken['align'] / taken['scores']:.1f}x the scores alone, "
              f"{1 + taken['align'] / (taken['scores'] + encoding):.2f}x the scores and encoding the queries once "
              f"({encoding:.0f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    compare_episodes(arguments.rounds)
    drawn, pool, queries = setting()
    all_heads(drawn, pool, queries)
    re_ranking(drawn, pool, queries, arguments.rounds)


if __name__ == "__main__":
    main()
