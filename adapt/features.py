"""Clips -> one feature vector each: a frozen encoder's, an untrained encoder's, or the coordinates themselves."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from skelcore import views
from skelcore.batches import Batch, ClipDataset, ClipSampler, loader
from skelcore.encoders import Encoder, build, calibrate
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.store import Store

Input = tuple[Tensor, Tensor | None]  # x and valid of an encoder's forward

_CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Clips:
    """A store's clips as an encoder wants them: resampled to ``frames``, ``persons`` each, in ``layout``."""

    store: Store
    frames: int
    persons: int
    layout: Layout
    stream: str = "joint"
    batch_size: int = 128
    workers: int = 0
    device: torch.device | str = "cpu"

    @functools.cached_property
    def _dataset(self) -> ClipDataset:
        return ClipDataset(self.store, self.frames, persons=self.persons, layout=self.layout)

    def batches(self) -> Iterator[Batch]:
        """Every clip once, in order, on the device."""
        return self._batches(ClipSampler(len(self.store), self.batch_size, seed=0, shuffle=False, drop_last=False))

    def inputs(self, encoder: Encoder) -> Iterator[Input]:
        """What ``encoder`` takes of every clip once, in order."""
        return self._inputs(encoder, self.batches())

    def mixed_inputs(self, encoder: Encoder, count: int) -> Iterator[Input]:
        """The same of the first ``count`` clips, for calibration: stores are often sorted by class, so batches are
        mixed, and each weighs the same, so they are equally large: up to 64 clips, and fewer than 64 are left out."""
        size = count // -(-count // _CALIBRATION_BATCH)
        return self._inputs(encoder, self._batches(ClipSampler(count, size, seed=0, drop_last=True)))

    def _batches(self, sampler: ClipSampler) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in loader(self._dataset, sampler, self.workers))

    def _inputs(self, encoder: Encoder, batches: Iterable[Batch]) -> Iterator[Input]:
        return (encoder.inputs(batch.keypoints, batch.scores, self.stream) for batch in batches)


@torch.no_grad()
def encode(encoder: Encoder, clips: Iterable[Input], segments: int | None = None) -> np.ndarray:
    """Features (n, D) of a frozen encoder in evaluation mode, or (n, segments * D) that keep the temporal order.

    With ``segments`` the feature maps are averaged over persons and joints and within equal stretches of time.
    """
    training = encoder.training
    encoder.eval()
    try:
        rows = [_pooled(encoder, x, valid, segments) for x, valid in clips]
    finally:
        encoder.train(training)
    features = torch.cat(rows).float().cpu().numpy()
    if not np.isfinite(features).all():
        raise InputError("the encoder gives features that are not finite; the checkpoint's weights are damaged")
    return features


def _pooled(encoder: Encoder, x: Tensor, valid: Tensor | None, segments: int | None) -> Tensor:
    if segments is None:
        pooled: Tensor = encoder(x, valid)
        return pooled
    return adaptive_avg_pool1d(encoder.timeline(x, valid), segments).flatten(1)


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


def fill_gaps(points: Tensor, seen: Tensor) -> Tensor:
    """``points`` (N, M, T, V, C) with each joint's frames outside ``seen`` (N, M, T, V) interpolated in time."""
    last = points.shape[2] - 1
    time = torch.arange(last + 1, device=points.device)[:, None].expand_as(seen)
    before = torch.where(seen, time, -1).cummax(2).values
    after = torch.where(seen, time, last + 1).flip(2).cummin(2).values.flip(2)
    start, end = torch.where(before < 0, after, before), torch.where(after > last, before, after)
    weight = ((time - start) / (end - start).clamp_min(1)).clamp(0, 1)[..., None]
    start, end = (index.clamp(0, last)[..., None].expand_as(points) for index in (start, end))
    filled = points.gather(2, start) * (1 - weight) + points.gather(2, end) * weight
    return torch.where(seen.any(2, keepdim=True)[..., None], filled, points)


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


def _damped(spread: np.ndarray) -> np.ndarray:
    """Spreads kept from falling below a hundredth of the largest: a dead feature carries rounding noise, no signal."""
    floor = 0.01 * spread.max(initial=0)
    return np.maximum(spread, floor) if floor > 0 else np.ones_like(spread)
