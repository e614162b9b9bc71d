"""Which frames a clip shows: uniform sampling of PYSKL (Duan et al. 2022), padding in time, and the gather of both.

A clip of ``n`` frames is cut into as many equal segments as the sample has frames, and each gives one frame at random.
Clips too short for that have rules of their own: below one frame a segment they are run through in a circle from a
random place (``wrap``), below two a segment all but a random set of frames are shown once (``skip``).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Generator, Tensor

from skelcore.errors import InputError
from skelcore.views.draws import uniform

Share = tuple[float, float]
WHOLE: Share = (1.0, 1.0)


def bounds(lengths: Tensor, frames: int) -> Tensor:
    """Bounds (N, S + 1) of the S = ``frames`` equal segments of clips of ``lengths`` (N,) frames."""
    return torch.arange(frames + 1, device=lengths.device) * lengths[:, None] // frames


def wrap(start: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Frames (N, S) from ``start`` (N,) onwards, beginning anew after the last of ``lengths`` (N,)."""
    return (start[:, None] + torch.arange(frames, device=start.device)) % lengths[:, None]


def skip(skipped: Tensor) -> Tensor:
    """Frames (N, S) in order, leaving out one before the i-th where ``skipped`` (N, S + 1) is true up to i."""
    frames = skipped.shape[1] - 1
    return torch.arange(frames, device=skipped.device) + skipped[:, :frames].cumsum(1)


def uniform_train(lengths: Tensor, frames: int, generator: Generator, share: Share = WHOLE) -> Tensor:
    """Random frames (N, S), ascending but where a clip shorter than S begins anew, of clips of ``lengths`` (N,).

    ``share`` bounds the fraction of the clip from which they are taken, a stretch at a random place (CTR-GCN, Chen et
    al. 2021, uses 0.5 to 1). Lengths and generator are on one device. Raises InputError for fewer than one frame.
    """
    _check(lengths, frames)

    def integers(below: Tensor) -> Tensor:
        return (uniform(tuple(below.shape), 0, 1, generator) * below).long()

    offset = torch.zeros_like(lengths)
    if share != WHOLE:
        ratio = uniform((len(lengths),), *share, generator)
        whole, lengths = lengths, (ratio * lengths).long().clamp(min=1)
        offset = integers(whole - lengths + 1)
    edges = bounds(lengths, frames)
    long = edges[:, :-1] + integers(edges.diff(dim=1))
    picked = torch.where((lengths < frames)[:, None], wrap(integers(lengths), lengths, frames), long)
    middle = (lengths >= frames) & (lengths < 2 * frames)
    places = uniform((len(lengths), frames + 1), 0, 1, generator)
    if not middle.any():  # spares the sort, but not the draw: what follows must not depend on the lengths
        return picked + offset[:, None]
    order = places.argsort(1)
    first = torch.arange(frames + 1, device=lengths.device) < (lengths - frames)[:, None]
    skipped = torch.zeros_like(first).scatter(1, order, first)
    return torch.where(middle[:, None], skip(skipped), picked) + offset[:, None]


def uniform_test(lengths: Tensor, frames: int, clips: int, seed: int = 255, ordered: bool = True) -> Tensor:
    """The frames (N, clips, S) that the reference shows in a test: the same for equal lengths, whatever the batch.

    Where a clip is shorter than S, the ``clips`` samples start at equal distances (``ordered``), or at random as in the
    reference's fused sampling. The numbers are drawn by a generator of their own, where the reference seeds the global
    one. The lengths are read on the host. Raises InputError for fewer than one frame.
    """
    _check(lengths, frames)
    known = [_test(length, frames, clips, seed, ordered) for length in lengths.tolist()]
    return torch.stack(known).to(lengths.device)


@lru_cache(4096)
def _test(length: int, frames: int, clips: int, seed: int, ordered: bool) -> Tensor:
    random = np.random.RandomState(seed)
    starts: list[int | None] = [None] * clips
    if ordered:
        starts = [clip if length < clips else clip * length // clips for clip in range(clips)]
    return torch.stack([drawn(length, frames, random, start=start) for start in starts])


def drawn(length: int, frames: int, random: np.random.RandomState, share: Share = WHOLE,
          start: int | None = None) -> Tensor:
    """Frames (S,) of one clip, with numbers drawn in the reference's order (two for the stretch, even if it is whole).

    A clip shorter than S begins at ``start``, or at random. With a ``share`` below 1 the reference's plain sampling
    wraps such a clip outside its stretch, its fused one and this one inside.
    """
    kept = int((random.rand() * (share[1] - share[0]) + share[0]) * length)
    offset = int(random.randint(length - kept + 1))
    lengths = torch.tensor([kept])
    if kept < frames:
        start = int(random.randint(0, kept)) if start is None else start
        picked = wrap(torch.tensor([start]), lengths, frames)
    elif kept < 2 * frames:
        skipped = torch.zeros(1, frames + 1, dtype=torch.bool)
        skipped[0, torch.from_numpy(random.choice(frames + 1, kept - frames, replace=False))] = True
        picked = skip(skipped)
    else:
        edges = bounds(lengths, frames)
        picked = edges[:, :-1] + torch.from_numpy(random.randint(edges.diff(dim=1).numpy()))
    return picked[0] + offset


def gather(x: Tensor, indices: Tensor) -> Tensor:
    """Samples (N, K, M, S, ...) of clips (N, M, T, ...) at the frames ``indices`` (N, K, S).

    This is the input format of the graph encoders, K samples a clip; for (N, S) indices the result is (N, M, S, ...).
    """
    clips, persons, frames = x.shape[:3]
    if indices.ndim == 2:
        return gather(x, indices[:, None])[:, 0]
    first = torch.arange(clips * persons, device=x.device).view(clips, 1, persons, 1) * frames
    rows = (first + indices[:, :, None]).flatten()
    return x.reshape(clips * persons * frames, -1).index_select(0, rows).view(
        clips, indices.shape[1], persons, indices.shape[2], *x.shape[3:])


def pad_frames(x: Tensor, lengths: Tensor, frames: int, loop: bool = False) -> Tensor:
    """Clips (N, M, T, ...) of ``lengths`` (N,) brought to S = ``frames``: after its end a clip is 0, or begins anew.

    Raises InputError for a clip longer than S.
    """
    _check(lengths, frames)
    if int(lengths.max()) > frames:
        raise InputError(f"a clip of {int(lengths.max())} frames cannot be padded to {frames}; sample it instead")
    padded = gather(x, wrap(torch.zeros_like(lengths), lengths, frames))
    if loop:
        return padded
    inside = torch.arange(frames, device=x.device) < lengths[:, None]
    return padded * inside.view(len(x), 1, frames, *[1] * (x.ndim - 3))


def pad_persons(x: Tensor, persons: int, loop: bool = False) -> Tensor:
    """Clips (N, M, T, ...) with the first ``persons`` persons; absent ones are 0, or repeat those present (``loop``).

    The reference has the option ``loop`` too, but its condition never holds, and it pads with 0.
    """
    present = x.shape[1]
    if loop:
        return x[:, torch.arange(persons, device=x.device) % present]
    if present >= persons:
        return x[:, :persons]
    padded = x.new_zeros(len(x), persons, *x.shape[2:])
    padded[:, :present] = x
    return padded


def _check(lengths: Tensor, frames: int) -> None:
    if frames < 1:
        raise InputError(f"frames={frames}: a sample has at least one frame")
    if lengths.numel() == 0 or lengths.is_floating_point() or lengths.ndim != 1:
        raise InputError(f"lengths must be (N,) whole numbers, not {lengths.dtype} {tuple(lengths.shape)}")
    if int(lengths.min()) < 1:
        raise InputError("a clip without frames cannot be sampled; drop it")
