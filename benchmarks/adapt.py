"""Time to fit and apply every frozen head over 10 draws and five k, against one episode at a time.

The baseline does what few-shot libraries do: for every draw and k it calls the same head on that episode alone, and
passes the queries in batches of 64. Both run interleaved in one process on the same random features.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from adapt import episodes, evaluate
from adapt.methods import METHODS

SHOTS = (1, 2, 5, 10, 20)


def setting(queries: int, width: int, classes: int, draws: int) -> tuple[episodes.Episodes, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 40)
    drawn = np.stack([np.stack([random.permutation(np.flatnonzero(labels == c))[:max(SHOTS)] for c in range(classes)])
                      for _ in range(draws)])
    truth = random.integers(0, classes, queries)
    centres = random.normal(size=(classes, width)) / 2
    pool, asked = (torch.from_numpy(centres[each] + random.normal(size=(len(each), width))).float()
                   for each in (labels, truth))
    names, seeds = tuple(map(str, range(classes))), tuple(range(draws))
    everything = episodes.Episodes(names, (), np.arange(len(labels)), labels, np.arange(queries), truth, drawn, seeds,
                                   np.ones((draws, queries), bool))
    return everything, pool, asked


def batched(method: str, drawn: episodes.Episodes, pool: torch.Tensor, queries: torch.Tensor) -> list[np.ndarray]:
    return [evaluate.predict(method, drawn, pool, queries, k) for k in SHOTS]


@torch.no_grad()
def looped(method: str, drawn: episodes.Episodes, pool: torch.Tensor, queries: torch.Tensor) -> list[np.ndarray]:
    found = []
    for k in SHOTS:
        targets = torch.nn.functional.one_hot(torch.from_numpy(drawn.labels(k)), len(drawn.classes)).float()
        predicted = []
        for rows in torch.from_numpy(drawn.support(k)):
            head = METHODS[method](pool[rows][None], targets)
            predicted.append(torch.cat([head(part)[0].argmax(-1) for part in queries.split(64)]))
        found.append(torch.stack(predicted).numpy())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("queries", 40_000), ("width", 256), ("classes", 60), ("draws", 10), ("repeats", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    drawn, pool, queries = setting(arguments.queries, arguments.width, arguments.classes, arguments.draws)
    print(f"{arguments.queries} queries x {arguments.width} features, {arguments.classes} classes, "
          f"{arguments.draws} draws, k = {SHOTS}, {torch.get_num_threads()} threads")
    print(f"{'head':<10} {'batched s':>10} {'loop s':>10} {'ratio':>7} {'agreement':>10}")
    total = 0.0
    for method in METHODS:
        seconds: dict[str, list[float]] = {"batched": [], "looped": []}
        answers = {}
        for _ in range(arguments.repeats):
            for name, function in (("batched", batched), ("looped", looped)):
                started = time.perf_counter()
                answers[name] = function(method, drawn, pool, queries)
                seconds[name].append(time.perf_counter() - started)
        ours, theirs = (statistics.median(seconds[name]) for name in ("batched", "looped"))
        agreement = np.mean([np.mean(a == b) for a, b in zip(*answers.values(), strict=True)])
        total += ours
        print(f"{method:<10} {ours:>10.2f} {theirs:>10.2f} {theirs / ours:>7.2f} {agreement:>10.4f}", flush=True)
    print(f"all heads: {total:.1f} s")


if __name__ == "__main__":
    main()
