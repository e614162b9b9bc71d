"""The rows of a few-shot table: every head on every representation, at every k."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from adapt import evaluate, probe, results, tasks, tuning
from adapt.benchmarks import Novel, Trial
from adapt.config import LEARNED, TRAINING, TUNED, AdaptConfig
from adapt.episodes import Budget, Episodes
from adapt.features import untrained
from adapt.methods import TRANSDUCTIVE
from adapt.represent import Clips
from skelcore.store import Store

ALIGN = "align"


@dataclass(frozen=True)
class Task:
    """What is evaluated, opened and checked."""

    store: Store
    trial: Trial
    clips: Clips
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """The rows; each row's predictions (D, Q), of the first initialisation, by its name and k; what all labels give;
    and features (n, F) of the clips in question, of the representation that is shown."""

    rows: list[results.Row]
    predictions: dict[tuple[str, Budget], np.ndarray]
    all_labels: dict[str, dict[str, float]]
    shown: np.ndarray


def applicable(config: AdaptConfig, task: Task, kind: str) -> list[str]:
    """The methods that take a representation; N-way episodes, of which there are thousands, only frozen heads."""
    unfit: set[str] = set()
    if isinstance(task.trial.asked, Novel) or kind not in TUNED:
        unfit |= TRAINING
    if isinstance(task.trial.asked, Novel) or kind not in LEARNED:
        unfit.add(ALIGN)
    return [method for method in config.methods if method not in unfit]


def fill(config: AdaptConfig, task: Task) -> Outcome:
    """Evaluate every representation with every method that takes it."""
    rows: list[results.Row] = []
    predictions: dict[tuple[str, Budget], np.ndarray] = {}
    all_labels: dict[str, dict[str, float]] = {}
    shown = np.zeros((0, 0))
    for kind in task.kinds:
        found = task.clips.features(kind)
        if applicable(config, task, kind) and (kind == "pretrained" or not shown.size):
            shown = found[0]
        asked = task.trial.asked
        if isinstance(asked, Novel):
            rows += _episodic(config, task, asked, kind, found)
            continue
        if labels := probe.accuracies(asked, *_pair(asked, found[0], task.clips)):
            all_labels[kind] = labels
        for row, predicted in _drawn(config, task, asked, kind, found):
            rows.append(row)
            predictions[row.name, row.k] = predicted
    return Outcome(rows, predictions, all_labels, shown)


def _episodic(config: AdaptConfig, task: Task, asked: Novel, kind: str, found: list[np.ndarray]) -> list[results.Row]:
    """Rows of N-way episodes: an accuracy for each of them."""
    rows = []
    for method in applicable(config, task, kind):
        for k in task.trial.budgets:
            accuracy = np.stack([tasks.accuracy(method, asked.tasks[int(k)],
                                                torch.from_numpy(each[asked.rows]).to(task.clips.device))
                                 for each in found])
            rows.append(results.row(kind, method, k, accuracy, accuracy, None, method in TRANSDUCTIVE))
    return rows


def _drawn(config: AdaptConfig, task: Task, asked: Episodes, kind: str,
           found: list[np.ndarray]) -> Iterator[tuple[results.Row, np.ndarray]]:
    """Rows of nested draws, with the predictions of the first initialisation."""
    for method in applicable(config, task, kind):
        drawn = asked.first(config.tune.draws) if method in TRAINING else asked
        for k in task.trial.budgets:
            predicted = list(_predicted(config, task, drawn, kind, method, k, found))
            recalls = np.stack([evaluate.recalls(each, drawn) for each in predicted])
            accuracy = np.stack([evaluate.accuracies(each, drawn)[0] for each in predicted])
            yield results.row(kind, method, k, accuracy, np.nanmean(recalls, 2), recalls,
                              method in TRANSDUCTIVE), predicted[0]


def _predicted(config: AdaptConfig, task: Task, drawn: Episodes, kind: str, method: str, k: Budget,
               found: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Predicted classes (D, Q) of each initialisation or training run."""
    if method in TRAINING:
        # The first stream alone: streams are joined as frozen features.
        for source, *_ in task.clips.runs if kind == "pretrained" else task.clips.runs[:1]:
            encoder = source.encoder if kind == "pretrained" else untrained(source.encoder, config.seed)
            yield tuning.predict(method, encoder, source.clips, drawn, k, config.tune.steps, config.seed)
    elif method == ALIGN:
        for features, tokens in zip(found, task.clips.tokens(kind), strict=True):
            yield evaluate.aligned(drawn, *_pair(drawn, features, task.clips), *_pair(drawn, tokens, task.clips), k)
    else:
        for features in found:
            yield evaluate.predict(method, drawn, *_pair(drawn, features, task.clips), k)


def _pair(asked: Episodes, features: np.ndarray, clips: Clips) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool's and queries' rows of what was computed for the clips in question."""
    return tuple(torch.from_numpy(features[rows]).to(clips.device)  # type: ignore[return-value]
                 for rows in (asked.pool_rows, asked.query_rows))
