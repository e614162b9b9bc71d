"""Watch: looks at the encoder now and then, on clean clips in evaluation mode; it reports and chooses nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor

from pretrain import monitor
from pretrain.board import Board
from pretrain.config import PretrainConfig
from pretrain.objectives import Objective
from pretrain.objectives.masked_motion import MaskedMotion
from skelcore import mixture
from skelcore.batches import Batch, ClipDataset, ClipSampler, loader
from skelcore.encoders import Encoder
from skelcore.errors import InputError, RunError
from skelcore.sequence import PoseSequence
from skelcore.sources import Source
from skelcore.store import Store, Subset
from skelcore.views import Views
from skelcore.views.fill import fill

_MOST = 4096  # clips on which the features' health is measured when no monitor set is given
_MOST_POINTS = 1000  # of the embedding projector


class Watch:
    """What is measured of an encoder: kNN and linear probe where labels are given, health of the features, figures."""

    def __init__(self, config: PretrainConfig, data: ClipDataset, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.labelled = config.monitor.data is not None
        self.clips = self._labelled(config.monitor.data) if config.monitor.data is not None else self._sample()

    @torch.no_grad()
    def look(self, objective: Objective, encoder: Encoder, board: Board, step: int, last: bool) -> dict[str, float]:
        """Measure ``encoder``, write the figures, and return the measures."""
        modes = [(module, module.training) for module in (objective, encoder)]
        objective.eval()
        features, index = self._embed(encoder, self.config.stream)
        if not np.isfinite(features).all():
            raise RunError(f"step {step}: features are not finite: lower optimizer.lr, or take precision=bf16 or fp32")
        first, second = self._two_views(encoder)
        shown = {"features/std": monitor.feature_std(features),
                 "features/effective_rank": monitor.effective_rank(features),
                 "features/alignment": monitor.alignment(first, second),
                 "features/uniformity": monitor.uniformity(features)}
        if self.labelled:
            labels = np.asarray(self.clips.store.labels)[index]
            rows = np.flatnonzero(labels >= 0)
            videos = [self.clips.store.groups[i] for i in index[rows]]
            shown["knn/accuracy"] = monitor.knn_accuracy(features[rows], labels[rows], videos, self.config.monitor.k)
            shown["linear/accuracy"] = monitor.probe_accuracy(features[rows], labels[rows], videos)
        board.scalars(shown, step)
        self._draw(objective, board, step)
        if last and self.config.monitor.projector:
            self._project(features, index, board)
        for module, mode in modes:
            module.train(mode)
        return shown

    def _labelled(self, uri: str) -> ClipDataset:
        found = mixture.open_sources([Source(uri=uri, split=self.config.monitor.split,
                                             data_layout=self.config.data_layout)])
        if not (np.asarray(found.labels) >= 0).any():
            raise InputError(f"monitor.data={uri}: no labels there; leave it out or give labels")
        if found.channels != self.data.channels:
            raise InputError(f"monitor.data={uri}: has {found.channels}D poses, the training data "
                             f"{self.data.channels}D ones")
        return ClipDataset(found, self.config.frames, self.config.persons, self.data.layout)

    def _sample(self) -> ClipDataset:
        store: Store = self.data.store
        count = min(len(store), _MOST)
        chosen = np.random.default_rng(self.config.seed).choice(len(store), count, replace=False)
        return ClipDataset(Subset(store, np.sort(chosen)), self.config.frames, self.config.persons, self.data.layout)

    def _embed(self, encoder: Encoder, stream: str) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, D) of clean clips in evaluation mode, and their positions (n,)."""
        encoder.eval()
        sampler = ClipSampler(len(self.clips), self.config.batch_size, seed=0, shuffle=False, drop_last=False)
        features, index = [], []
        for batch in loader(self.clips, sampler, 0):
            features.append(_features(encoder, stream, *self._clean(batch)))
            index.append(batch.index.numpy())
        return np.concatenate(features), np.concatenate(index)

    def _two_views(self, encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
        """Features of two views of a batch; drawn apart from the training's, which looking must not change."""
        keypoints, scores = self._clean(self._few(self.config.batch_size))
        views, generator = Views(self.config.views), self._generator()
        first, second = (_features(encoder, self.config.stream, *views(keypoints, scores, self.data.layout, generator))
                         for _ in range(2))
        return first, second

    def _draw(self, objective: Objective, board: Board, step: int) -> None:
        batch, generator = self._few(1), self._generator()
        clip = self._clean(batch)
        views = Views(self.config.views)
        pairs = [clip, *(views(*clip, self.data.layout, generator) for _ in range(2))]
        board.views([PoseSequence(k[0].cpu().numpy(), s[0].cpu().numpy(), self.data.layout) for k, s in pairs],
                    ["clip", "view 1", "view 2"], step)
        if isinstance(objective, MaskedMotion):
            whole = replace(batch.to(self.device), keypoints=clip[0], scores=clip[1])
            found = objective.reconstruction(whole, generator)
            board.reconstruction(found.points, found.scores, found.hidden, found.predicted, self.data.layout, step)

    def _project(self, features: np.ndarray, index: np.ndarray, board: Board) -> None:
        rows = np.linspace(0, len(index) - 1, min(len(index), _MOST_POINTS)).astype(int)
        store = self.clips.store
        classes = store.classes
        names = [classes[label] if (label := int(store.labels[i])) >= 0 else store.ids[i] for i in index[rows]]
        board.projector(features[rows], names, [store[int(i)] for i in index[rows]])

    def _few(self, count: int) -> Batch:
        return self.clips.__getitems__(range(min(count, len(self.clips))))

    def _clean(self, batch: Batch) -> tuple[Tensor, Tensor]:
        batch = batch.to(self.device)
        return fill(batch.keypoints, batch.scores, self.config.fill)

    def _generator(self) -> Generator:
        return Generator(self.device).manual_seed(self.config.seed)


def _features(encoder: Encoder, stream: str, keypoints: Tensor, scores: Tensor) -> np.ndarray:
    found: np.ndarray = encoder(*encoder.inputs(keypoints, scores, stream)).float().cpu().numpy()
    return found
