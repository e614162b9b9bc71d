"""Heatmaps of joints and limbs, rendered in batches on the device and never stored.

Duan et al., "Revisiting Skeleton-based Action Recognition", CVPR 2022 (PoseConv3D), section 3.1. A joint is drawn as a
limb from itself to itself. A map is zero but for the surroundings of its limb, so only those pixels are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.crop import extent

FAINT = 1e-3  # the reference draws nothing for scores below

Pairs = Sequence[tuple[int, int]]


def channels(layout: Layout, stream: str = "joint") -> int:
    """Number K of heatmaps of a stream: ``joint`` one a joint, ``bone`` one a limb, ``joint_bone`` all of these.

    Raises InputError for another stream.
    """
    return len(_pairs(layout, stream))


@torch.no_grad()
def render(keypoints: Tensor, scores: Tensor, layout: Layout, stream: str = "joint", size: int = 56,
           dtype: torch.dtype | None = None) -> Tensor:
    """Heatmaps (N, K, T, size, size) of clips (N, M, T, V, 2) in any unit, in the square around each clip's persons.

    Raises InputError for an unknown stream, another layout's joints, and whatever ``limbs`` refuses.
    """
    if keypoints.shape[-2] != len(layout):
        raise InputError(f"heatmaps: {keypoints.shape[-2]} joints given, but layout {layout.name} has {len(layout)}")
    return limbs(fit(keypoints, scores, size), scores, _pairs(layout, stream), size, dtype=dtype)


def fit(keypoints: Tensor, scores: Tensor, size: int, padding: float = 0.25) -> Tensor:
    """Clips (N, M, T, V, 2) in any unit -> pixels of a map where the square around each clip's persons is [0, size).

    The square has the centre and the longer side of the box around all joints with a score above 0, and is larger by
    the fraction ``padding``. The reference also rounds it to whole pixels of the video, which has no meaning in other
    units. A clip without extent comes to lie in the middle of the map; missing joints are 0. The result is float32 at
    least. Raises InputError for shapes that do not match and values that are not finite.
    """
    _check(keypoints, scores)
    valid = (scores > 0)[..., None]
    keypoints = keypoints.to(torch.promote_types(keypoints.dtype, torch.float32))
    low, high = extent(keypoints, valid)
    side = (high - low).amax(-1, keepdim=True) * (1 + padding)
    scale = torch.where(side > 0, size / side, 0.0)
    return torch.where(valid, (keypoints - (low + high) / 2) * scale + size / 2, 0.0)


def joints(points: Tensor, scores: Tensor, size: int | tuple[int, int], sigma: float = 0.6, weigh: bool = True,
           dtype: torch.dtype | None = None) -> Tensor:
    """Gaussians (N, V, T, H, W) at ``points`` (N, M, T, V, 2) in pixels of the map, the highest of all persons.

    exp(-d^2 / 2 sigma^2) of the distance d to the point, times its score if ``weigh``, in the whole pixels within
    3 ``sigma`` of it on either axis, else 0. The rest is as in ``limbs``.
    """
    return limbs(points, scores, [(joint, joint) for joint in range(points.shape[-2])], size, sigma, weigh, dtype)


@torch.no_grad()
def limbs(points: Tensor, scores: Tensor, pairs: Pairs, size: int | tuple[int, int], sigma: float = 0.6,
          weigh: bool = True, dtype: torch.dtype | None = None) -> Tensor:
    """Gaussians (N, K, T, H, W) of the distance to the segment between the joints of each of the K ``pairs``.

    The score of a limb is the lower one of its joints; it is drawn in the box that encloses it and is 3 ``sigma``
    larger on every side. A limb shorter than a pixel is drawn as its first joint. ``size`` is the side of the maps or
    their (height, width). They are computed in float32 and kept in ``dtype`` (None: float32), without a gradient.
    Raises InputError for shapes that do not match, values that are not finite, and a size, a sigma or pairs of nothing.
    """
    _check(points, scores)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1 or not sigma > 0 or not pairs:
        raise InputError(f"heatmaps: size {size} must be at least a pixel, sigma {sigma} above 0, and limbs at least "
                         f"one, got {len(pairs)}")
    one, other = torch.tensor(pairs, device=points.device).T
    # Coordinates (M, 2, N, K, T) and scores (M, N, K, T): long rows, in the order of the maps in memory.
    place = points.permute(1, 4, 0, 3, 2).to(torch.promote_types(points.dtype, torch.float32))
    value = scores.permute(1, 0, 3, 2).float()
    start, end = place.index_select(3, one), place.index_select(3, other)
    first = value.index_select(2, one)
    value = torch.minimum(first, value.index_select(2, other))
    short = (end - start).square().sum(1) < 1
    value = torch.where(short & (value >= FAINT), first, value)
    end = torch.where(short[:, None], start, end)

    maps = _zeros((*value.shape[1:], height, width), dtype or torch.float32, value.device)
    pixels = maps.view(-1)
    # The values of so few windows stay in the cache of a core; a GPU would idle with them.
    chunk = 2048 if maps.device.type == "cpu" else 1 << 18
    for person in range(len(value)):
        windows = _windows(start[person].flatten(1), end[person].flatten(1), value[person].flatten(), height, width,
                           sigma, weigh)
        for origin, rows in zip(*(each.split(chunk, -1) for each in windows), strict=True):
            where, heat = _heat(origin, rows, width, _side(sigma))
            heat = heat.to(maps.dtype)
            if person:
                heat = torch.maximum(heat, pixels.index_select(0, where))
            pixels.index_copy_(0, where, heat)
    return maps


def mirror(heatmaps: Tensor, layout: Layout, stream: str = "joint") -> Tensor:
    """Heatmaps (N, K, T, H, W) as of mirrored clips: x reversed, left and right channels exchanged.

    Raises InputError for an unknown stream, another number of channels, and a limb whose mirror image is no limb.
    """
    pairs = _pairs(layout, stream)
    if heatmaps.shape[1] != len(pairs):
        raise InputError(f"heatmaps: {heatmaps.shape[1]} given, but stream {stream} of layout {layout.name} has "
                         f"{len(pairs)}")
    channel = {frozenset(pair): i for i, pair in enumerate(pairs)}
    images = [frozenset(layout.mirror[list(pair)].tolist()) for pair in pairs]
    for pair, image in zip(pairs, images, strict=True):
        if image not in channel:
            raise InputError(f"layout {layout.name}: limb {pair} has no mirror image; add {tuple(sorted(image))} to "
                             "its limbs")
    return heatmaps.flip(-1).index_select(1, torch.tensor([channel[image] for image in images],
                                                          device=heatmaps.device))


def _pairs(layout: Layout, stream: str) -> Pairs:
    of_joints = tuple((joint, joint) for joint in range(len(layout)))
    streams = {"joint": of_joints, "bone": layout.limbs, "joint_bone": of_joints + layout.limbs}
    if stream not in streams:
        raise InputError(f"stream={stream}: heatmaps show {', '.join(streams)}")
    return streams[stream]


def _check(points: Tensor, scores: Tensor) -> None:
    if points.ndim != 5 or points.shape[-1] != 2 or points.shape[:4] != scores.shape or not points.numel():
        raise InputError(f"heatmaps: keypoints {tuple(points.shape)} and scores {tuple(scores.shape)} must be "
                         "(N, M, T, V, 2) and (N, M, T, V), not empty")
    if not (torch.isfinite(points).all() and torch.isfinite(scores).all()):
        raise InputError("heatmaps: keypoints or scores hold NaN or infinity; give missing joints score 0 at (0, 0)")


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # NumPy asks for huge pages, which the system hands out as zeros. torch.zeros takes small pages and clears them
    # once more, which lasts longer than all the drawing.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)


def _side(sigma: float) -> int:
    """Side of the windows: a joint's box has at most as many pixels."""
    return int(6 * sigma) + 2


def _windows(start: Tensor, end: Tensor, value: Tensor, height: int, width: int, sigma: float,
             weigh: bool) -> tuple[Tensor, Tensor]:
    """Windows that tile the boxes of one person's visible segments (2, L), which lie in L maps after one another.

    Returns where the maps of the windows begin (P,), and rows (10, P): left and top of the window, right and bottom of
    the box, start and direction of the segment, its length, and the logarithm of its peak. Length and direction are
    scaled so that a Gaussian is exp(-distance^2).
    """
    reach, side, unit = 3 * sigma, _side(sigma), 1 / (math.sqrt(2) * sigma)
    last = torch.tensor([[width - 1], [height - 1]], device=start.device)
    # Both ends of a box are rounded towards zero, as in the reference; coordinates in float64 are rounded as such.
    low = torch.minimum(start, end).sub_(reach).trunc_().clamp_(min=0)
    high = torch.minimum(torch.maximum(start, end).add_(reach).trunc_(), last)
    shown = ((value >= FAINT) & (low <= high).all(0)).nonzero()[:, 0]
    start, end, low, high, value = (each.index_select(-1, shown).float() for each in (start, end, low, high, value))

    length = torch.hypot(*(end - start))
    direction = (end - start) * torch.where(length > 0, unit / length, 0.0)
    direction[0] += torch.where(length > 0, 0.0, unit)  # a joint has none; any will do
    peak = value.log() if weigh else torch.zeros_like(value)

    columns, lines = torch.floor((high - low) / side) + 1
    count = (columns * lines).long()
    owner = torch.repeat_interleave(count)
    before = (count.cumsum(0) - count).index_select(0, owner)
    number = (torch.arange(len(owner), device=start.device) - before).float()  # of the window in its box
    rows = torch.cat([low, high, start, direction, (length * unit)[None], peak[None]]).index_select(1, owner)
    columns = columns.index_select(0, owner)
    line = torch.floor(number / columns)
    rows[:2] += torch.stack([number - line * columns, line]) * side
    return (shown * (height * width)).index_select(0, owner), rows


def _heat(origin: Tensor, rows: Tensor, width: int, side: int) -> tuple[Tensor, Tensor]:
    """Places and values of all pixels of the windows that ``_windows`` describes."""
    left, top, right, bottom, start_x, start_y, direction_x, direction_y, length, peak = rows
    steps = torch.arange(side, dtype=rows.dtype, device=rows.device)[:, None]
    # Beyond the box its last pixel is repeated: it is written twice, with the same value.
    x, y = torch.minimum(left + steps, right), torch.minimum(top + steps, bottom)
    where = x.long() + (origin + y.long() * width)[:, None]
    x, y = x - start_x, y - start_y
    along = x * direction_x + (y * direction_y)[:, None]
    beside = x * direction_y - (y * direction_x)[:, None]
    beyond = along - torch.minimum(along.clamp(min=0), length)
    heat = torch.addcmul(peak, beside, beside, value=-1).addcmul_(beyond, beyond, value=-1).exp_()
    return where.view(-1), heat.view(-1)
