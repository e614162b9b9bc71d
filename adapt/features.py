"""Clips -> one feature vector each: a frozen encoder's, an untrained encoder's, or the coordinates themselves."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from skelcore import views
from skelcore.batches import Batch, ClipDataset, ClipSampler, loader
from skelcore.encoders import Encoder, build, calibrate
from skelcore.encoders.joints import JointEncoder
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.store import Store, Subset
from skelcore.views.fill import fill, fill_gaps
from skelcore.views.parts import body_parts

Input = tuple[Tensor, Tensor | None]  # x and valid of an encoder's forward

_CALIBRATION_BATCH = 64
_CELLS = 3  # along each side of a heatmap, for averages of its parts


@dataclass(frozen=True)
class Clips:
    """A store's clips as an encoder wants them: resampled to ``frames``, ``persons`` each, in ``layout``."""

    store: Store
    frames: int
    persons: int
    layout: Layout
    stream: str = "joint"
    fill: float = 0.0  # score of joints that are interpolated in time, as in pretraining; 0 leaves gaps
    batch_size: int = 128
    workers: int = 0
    device: torch.device | str = "cpu"

    @functools.cached_property
    def _dataset(self) -> ClipDataset:
        return ClipDataset(self.store, self.frames, persons=self.persons, layout=self.layout)

    def batches(self) -> Iterator[Batch]:
        """Every clip once, in order, on the device."""
        return self._batches(ClipSampler(len(self.store), self.batch_size, seed=0, shuffle=False, drop_last=False))

    def rows(self, positions: np.ndarray) -> Batch:
        """The clips at those positions, as one batch on the device."""
        return _filled(self._dataset.__getitems__(positions.tolist()).to(self.device), self.fill)

    def only(self, positions: np.ndarray) -> Clips:
        """The clips at those positions alone."""
        return replace(self, store=Subset(self.store, positions))

    def inputs(self, encoder: Encoder) -> Iterator[Input]:
        """What ``encoder`` takes of every clip once, in order."""
        return self._inputs(encoder, self.batches())

    def mixed_inputs(self, encoder: Encoder, count: int) -> Iterator[Input]:
        """The same of the first ``count`` clips, for calibration: stores are often sorted by class, so batches are
        mixed, and each weighs the same, so they are equally large: up to 64 clips, and fewer than 64 are left out."""
        size = count // -(-count // _CALIBRATION_BATCH)
        return self._inputs(encoder, self._batches(ClipSampler(count, size, seed=0, drop_last=True)))

    def _batches(self, sampler: ClipSampler) -> Iterator[Batch]:
        return (_filled(batch.to(self.device), self.fill) for batch in loader(self._dataset, sampler, self.workers))

    def _inputs(self, encoder: Encoder, batches: Iterable[Batch]) -> Iterator[Input]:
        return (encoder.inputs(batch.keypoints, batch.scores, self.stream) for batch in batches)


def _filled(batch: Batch, score: float) -> Batch:
    keypoints, scores = fill(batch.keypoints, batch.scores, score)
    return replace(batch, keypoints=keypoints, scores=scores)


@torch.no_grad()
def encode(encoder: Encoder, clips: Iterable[Input], pool: str = "mean", segments: int = 1) -> np.ndarray:
    """Features (n, F) of a frozen encoder in evaluation mode.

    ``pool`` is `mean`, the encoder's own (n, D); `segments`, averages over persons and joints within equal stretches of
    time (n, segments * D), which keep the order; or `parts`, mean and deviation over time of every part of the body
    (n, 2 D * parts), which keep where something happens, and how much.
    """
    training = encoder.training
    encoder.eval()
    try:
        rows = [_pooled(encoder, x, valid, pool, segments) for x, valid in clips]
    finally:
        encoder.train(training)
    features = torch.cat(rows).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise InputError("the encoder gives features that are not finite; the checkpoint's weights are damaged")
    return features


def _pooled(encoder: Encoder, x: Tensor, valid: Tensor | None, pool: str, segments: int) -> Tensor:
    if pool == "segments":
        return adaptive_avg_pool1d(encoder.timeline(x, valid), segments).flatten(1)
    if pool == "parts":
        return _parts(encoder, x, valid).flatten(1)
    pooled: Tensor = encoder(x, valid)
    return pooled


def _parts(encoder: Encoder, x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean and standard deviation over time (n, 2 D, P) of the features of P parts, averaged over persons.

    The parts are those of the body or, of heatmaps, the cells of a grid.
    """
    maps = encoder.features(x)
    if not isinstance(encoder, JointEncoder):
        cells = adaptive_avg_pool2d(maps.flatten(1, 2), _CELLS)
        each = cells.unflatten(1, maps.shape[1:3]).flatten(3)[:, None]  # (n, 1, D, T', cells)
        valid = None
    else:
        each = torch.stack([maps[..., part].mean(-1) for part in body_parts(encoder.layout)], -1)
    moments = torch.cat([each.mean(3), each.std(3, correction=0)], 2)  # (n, M, 2 D, P)
    weights = torch.ones_like(moments[:, :, 0, 0]) if valid is None else valid.to(moments.dtype)
    return (moments * weights[:, :, None, None]).sum(1) / weights.sum(1).clamp(min=1)[:, None, None]


def untrained(encoder: Encoder, seed: int, clips: Iterable[Input] | None = None) -> Encoder:
    """The same architecture with random weights of that seed; batch norm is calibrated on the unlabelled ``clips`` if
    there are any, else as initialised."""
    device = next(encoder.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = dict(encoder.spec)
        fresh = build(spec.pop("name"), encoder.layout, **{key: spec[key] for key in ("in_channels", "width")})
    fresh.to(device)
    if clips is not None:
        calibrate(fresh, clips)
    return freeze(fresh)


def freeze(encoder: Encoder) -> Encoder:
    """A copy in evaluation mode whose weights take no gradients."""
    frozen = copy.deepcopy(encoder).eval()
    nn.Module.requires_grad_(frozen, False)
    return frozen


def coordinates(clips: Clips, fill: bool) -> np.ndarray:
    """The controls without an encoder (n, F): normalised coordinates of the resampled clip, and their differences
    from frame to frame.

    A missing joint lies at the clip's centre; with ``fill`` it is interpolated linearly between the frames that have it
    and held at the ends, which makes a stronger control where many joints are missing.
    """
    rows = []
    for batch in clips.batches():
        points = views.normalise(batch.keypoints, batch.scores)
        if fill:
            points = fill_gaps(points, batch.scores > 0)
        rows.append(torch.cat([points.flatten(1), points.diff(dim=2).flatten(1)], 1))
    return torch.cat(rows).cpu().numpy()


def rescale(features: np.ndarray, pool: np.ndarray, whiten: str) -> np.ndarray:
    """Features (n, F) centred on their mean over the unlabelled ``pool`` (P, F) and rescaled by its statistics.

    ``standard`` divides each feature by its standard deviation over the pool; ``pca`` turns to the pool's principal
    axes and divides by theirs; features or axes of (almost) no variance are damped instead of blown up.
    """
    mean = pool.mean(0, dtype=np.float64)
    centred = features - mean
    if whiten == "standard":
        spread = pool.std(0, dtype=np.float64)
        centred /= _damped(spread)
    elif whiten == "pca":
        _, singular, axes = np.linalg.svd(pool - mean, full_matrices=False)
        centred = centred @ axes.T / _damped(singular / np.sqrt(len(pool)))
    return centred.astype(np.float32)


def fuse(blocks: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Centred features (n, F_i) side by side, each with a mean squared norm of 1 over the first ``count`` rows."""
    norms = [np.sqrt(np.square(block[:count], dtype=np.float64).sum(1).mean()) for block in blocks]
    return np.concatenate([block / max(norm, 1e-12) for block, norm in zip(blocks, norms, strict=True)], 1,
                          dtype=np.float32)


def _damped(spread: np.ndarray) -> np.ndarray:
    """Spreads kept from falling below a hundredth of the largest: a dead feature carries rounding noise, no signal."""
    floor = 0.01 * spread.max(initial=0)
    return np.maximum(spread, floor) if floor > 0 else np.ones_like(spread)
