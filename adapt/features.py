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
from skelcore.views import spatial, temporal
from skelcore.views.fill import fill, fill_gaps
from skelcore.views.parts import body_parts

Input = tuple[Tensor, Tensor | None]  # x and valid of an encoder's forward

_CALIBRATION_BATCH = 64
_CELLS = 3  # along each side of a heatmap, for averages of its parts


@dataclass(frozen=True)
class Look:
    """How a clip is looked at: the stretch of its time from ``start`` to ``stop`` (0 to 1), and in a mirror or not."""

    start: float = 0.0
    stop: float = 1.0
    mirror: bool = False


WINDOW = 0.8  # of a clip's time


def looks(windows: int, mirror: bool) -> list[Look]:
    """The views of a clip over which features are averaged: the whole clip, or evenly placed windows of it, each in the
    mirror as well if asked."""
    starts = np.linspace(0, 1 - WINDOW, windows).tolist()
    stretches = [Look()] if windows == 1 else [Look(start, start + WINDOW) for start in starts]
    return stretches + [replace(look, mirror=True) for look in stretches if mirror]


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
    look: Look = Look()

    @functools.cached_property
    def _dataset(self) -> ClipDataset:
        return ClipDataset(self.store, self.frames, persons=self.persons, layout=self.layout)

    def batches(self) -> Iterator[Batch]:
        """Every clip once, in order, on the device."""
        return self._batches(ClipSampler(len(self.store), self.batch_size, seed=0, shuffle=False, drop_last=False))

    def rows(self, positions: np.ndarray) -> Batch:
        """The clips at those positions, as one batch on the device."""
        return self._prepared(self._dataset.__getitems__(positions.tolist()))

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
        return map(self._prepared, loader(self._dataset, sampler, self.workers))

    def _prepared(self, batch: Batch) -> Batch:
        batch = batch.to(self.device)
        keypoints, scores = fill(batch.keypoints, batch.scores, self.fill)
        return replace(batch, **dict(zip(("keypoints", "scores"), _looked(keypoints, scores, self.layout, self.look),
                                         strict=True)))

    def _inputs(self, encoder: Encoder, batches: Iterable[Batch]) -> Iterator[Input]:
        return (encoder.inputs(batch.keypoints, batch.scores, self.stream) for batch in batches)


def _looked(keypoints: Tensor, scores: Tensor, layout: Layout, look: Look) -> tuple[Tensor, Tensor]:
    """Clips (N, M, T, V, C) as they are looked at; the mirror stands at x = 0, since encoders centre what they see."""
    if look == Look():
        return keypoints, scores
    points, frames = keypoints.movedim(-1, 1), keypoints.shape[2]
    if (look.start, look.stop) != (0, 1):
        times = torch.linspace(look.start, look.stop, frames, device=points.device) * (frames - 1)
        points, scores = temporal.resample(points, scores, times.expand(len(points), -1))
    if look.mirror:
        everyone = torch.ones(len(points), dtype=torch.bool, device=points.device)
        points, scores = spatial.swap_sides(points, scores, layout, everyone)
        points = torch.cat([-points[:, :1], points[:, 1:]], 1)
    return points.movedim(1, -1), scores


@torch.no_grad()
def encode(encoder: Encoder, clips: Iterable[Input], pool: str = "mean", segments: int = 1) -> np.ndarray:
    """Features (n, F) of a frozen encoder in evaluation mode.

    ``pool`` is `mean`, the encoder's own (n, D); `segments`, averages over persons and joints within equal stretches of
    time (n, segments * D), which keep the order; `parts`, mean and deviation over time of every part of the body
    (n, 2 D * parts), which keep where something happens, and how much; or `tokens`, averages over equal stretches of
    time of every part (n, segments * parts * D), in that order.
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
    if pool == "tokens":
        return _tokens(encoder, x, valid, segments).flatten(1)
    pooled: Tensor = encoder(x, valid)
    return pooled


def _parts(encoder: Encoder, x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean and standard deviation over time (n, 2 D, P) of the features of P parts, averaged over persons."""
    each = _by_part(encoder, x)
    moments = torch.cat([each.mean(3), each.std(3, correction=0)], 2)  # (n, M, 2 D, P)
    return _over_persons(moments, encoder, valid)


def _tokens(encoder: Encoder, x: Tensor, valid: Tensor | None, segments: int) -> Tensor:
    """Averages (n, segments, P, D) over stretches of time of the features of P parts, averaged over persons."""
    each = _by_part(encoder, x)  # (n, M, D, T', P)
    stretches = adaptive_avg_pool2d(each.flatten(1, 2), (segments, each.shape[-1])).unflatten(1, each.shape[1:3])
    return _over_persons(stretches, encoder, valid).permute(0, 2, 3, 1)


def _by_part(encoder: Encoder, x: Tensor) -> Tensor:
    """Features (n, M, D, T', P) averaged over each part of the body or, of heatmaps, over each cell of a grid."""
    maps = encoder.features(x)
    if isinstance(encoder, JointEncoder):
        return torch.stack([maps[..., part].mean(-1) for part in body_parts(encoder.layout)], -1)
    cells = adaptive_avg_pool2d(maps.flatten(1, 2), _CELLS)
    return cells.unflatten(1, maps.shape[1:3]).flatten(3)[:, None]


def _over_persons(values: Tensor, encoder: Encoder, valid: Tensor | None) -> Tensor:
    """Mean over the valid persons of (n, M, ...)."""
    if valid is None or not isinstance(encoder, JointEncoder):
        return values.mean(1)
    weights = valid.to(values.dtype).reshape(*valid.shape, *[1] * (values.dim() - 2))
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)


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
