"""Crop, resize and flip of 2D clips in pixels, as the heatmap encoders need them.

Boxes are (N, 4): left, top, right, bottom in pixels. Sizes are (N, 2): height, width. Where ``compat`` is true a joint
counts as missing by each coordinate that is 0, as in the reference, and not by its score.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.draws import uniform


def subject_box(keypoints: Tensor, scores: Tensor, compat: bool = False) -> Tensor:
    """The tight box of a clip's (N, M, T, V, 2) joints over persons and time; (inf, inf, -inf, -inf) for none."""
    return torch.cat(extent(keypoints, _seen(keypoints, scores, compat)), -1)[:, 0, 0, 0]


def extent(keypoints: Tensor, seen: Tensor, axes: tuple[int, ...] = (1, 2, 3)) -> tuple[Tensor, Tensor]:
    """Lowest and highest coordinates over ``axes``, kept with length 1, where ``seen``; inf and -inf if nowhere."""
    return (keypoints.masked_fill(~seen, math.inf).amin(axes, keepdim=True),
            keypoints.masked_fill(~seen, -math.inf).amax(axes, keepdim=True))


def compact_box(box: Tensor, sizes: Tensor, padding: float = 0.25, ratio: float | tuple[float, float] | None = None,
                outside: bool = True, least: float = 10.0) -> Tensor:
    """The box that an encoder looks at, on whole pixels, for the tight ``box`` of a subject (Duan et al. 2022).

    It is grown by ``padding`` about its middle; with ``ratio`` (or its bounds) the shorter side is stretched until
    height / width fits; cut at the image's edge unless ``outside``. The whole image where the subject is smaller than
    ``least`` pixels in either direction, or absent.
    """
    middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 * (1 + padding)
    if ratio is not None:
        low, high = (ratio, ratio) if isinstance(ratio, (int, float)) else ratio
        tall = torch.maximum(low * half[:, 0], half[:, 1])
        half = torch.stack([torch.maximum(tall / high, half[:, 0]), tall], 1)
    grown = torch.cat([middle - half, middle + half], 1)
    image = whole(sizes).to(grown.dtype)
    if not outside:
        grown = torch.cat([grown[:, :2].clamp(min=0), torch.minimum(grown[:, 2:], image[:, 2:])], 1)
    large = (box[:, 2:] - box[:, :2] >= least).all(1, keepdim=True)
    return torch.where(large, grown.trunc(), image).long()


def whole(sizes: Tensor) -> Tensor:
    """The boxes of whole images."""
    return torch.cat([torch.zeros_like(sizes), sizes.flip(1)], 1)


def centre_box(sizes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes of ``size`` (height, width) in the middle of images, on whole pixels."""
    wanted = torch.tensor(size, device=sizes.device).expand_as(sizes)
    start = (sizes - wanted).div(2, rounding_mode="floor")
    return torch.cat([start.flip(1), (start + wanted).flip(1)], 1)


def random_box(sizes: Tensor, generator: Generator, area: tuple[float, float] = (0.56, 1.0),
               aspect: tuple[float, float] = (3 / 4, 4 / 3), attempts: int = 10) -> Tensor:
    """Random boxes of a fraction ``area`` of the image, of width / height within ``aspect``, on whole pixels.

    Aspects are log-uniform (Inception, Szegedy et al. 2015). The first of ``attempts`` shapes that fits is taken, the
    largest square in the middle if none does.
    """
    clips = len(sizes)
    areas = uniform((clips, attempts), *area, generator)
    logs = uniform((clips, attempts), math.log(aspect[0]), math.log(aspect[1]), generator)
    shape, found = first_fitting(sizes, areas, logs.exp())
    room = sizes.flip(1) - shape
    start = torch.where(found[:, None], (uniform((clips, 2), 0, 1, generator) * (room + 1)).long(), room // 2)
    return torch.cat([start, start + shape], 1)


def first_fitting(sizes: Tensor, areas: Tensor, aspects: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height (N, 2) of the first candidate (N, A) that fits the image, and whether (N,) one does.

    If none does they are those of the largest square.
    """
    target = areas * sizes.prod(1, keepdim=True)
    shapes = torch.stack([(target * aspects).sqrt(), (target / aspects).sqrt()], 2).round().long()
    fits = (shapes <= sizes.flip(1)[:, None]).all(2)
    first = fits.int().argmax(1)[:, None, None].expand(-1, 1, 2)
    found = fits.any(1)
    return torch.where(found[:, None], shapes.gather(1, first)[:, 0], sizes.amin(1, keepdim=True)), found


def crop(keypoints: Tensor, scores: Tensor, boxes: Tensor, compat: bool = False) -> tuple[Tensor, Tensor]:
    """Clips (N, M, T, V, 2) as seen in their ``boxes``, and the sizes (N, 2) of these; missing joints stay where they
    are, at 0.
    """
    origin = boxes[:, None, None, None, :2].to(keypoints.dtype)
    moved = torch.where(_seen(keypoints, scores, compat), keypoints - origin, keypoints)
    return moved, (boxes[:, 2:] - boxes[:, :2]).flip(1)


def fraction(boxes: Tensor, sizes: Tensor, within: Tensor | None = None) -> Tensor:
    """Boxes in images of ``sizes`` as left, top, width, height in fractions, or in those of the image that these are
    ``within``; so a chain of crops can be repeated on the video.
    """
    extent = sizes.flip(1).double()
    inner = torch.cat([boxes[:, :2] / extent, (boxes[:, 2:] - boxes[:, :2]) / extent], 1)
    if within is None:
        return inner
    return torch.cat([within[:, :2] + within[:, 2:] * inner[:, :2], within[:, 2:] * inner[:, 2:]], 1)


def short_side(sizes: Tensor, length: int) -> Tensor:
    """Sizes (N, 2) in whole pixels after scaling so that the shorter side has ``length`` pixels."""
    factor = length / sizes.amin(1, keepdim=True).double()
    return (sizes * factor + 0.5).floor().to(sizes.dtype)


def resize(keypoints: Tensor, sizes: Tensor, target: Tensor | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Clips (N, M, T, V, 2) in images of ``sizes`` scaled to ``target``, (height, width) or (N, 2), and the new sizes.
    """
    new = target if isinstance(target, Tensor) else sizes.new_tensor(target).expand_as(sizes)
    factor = (new / sizes.double()).float().flip(1)[:, None, None, None]
    return keypoints * factor.to(keypoints.dtype), new


def flip(keypoints: Tensor, scores: Tensor, widths: Tensor, layout: Layout, which: Tensor,
         compat: bool = False) -> tuple[Tensor, Tensor]:
    """Mirror images of ``widths`` (N,) pixels and exchange left and right joints, where ``which`` (N,) is true.

    Raises InputError for the joints of another layout.
    """
    if scores.shape[-1] != len(layout):
        raise InputError(f"{scores.shape[-1]} joints given, but layout {layout.name} has {len(layout)}")
    x = keypoints[..., :1]
    mirrored = torch.where(_seen(keypoints, scores, compat)[..., :1], widths.view(-1, 1, 1, 1, 1) - x, x)
    other = torch.from_numpy(layout.mirror).to(keypoints.device)
    turned = torch.cat([mirrored.to(x.dtype), keypoints[..., 1:]], -1).index_select(3, other)
    which = which[:, None, None, None]
    return torch.where(which[..., None], turned, keypoints), torch.where(which, scores.index_select(3, other), scores)


def _seen(keypoints: Tensor, scores: Tensor, compat: bool) -> Tensor:
    return keypoints != 0 if compat else (scores > 0)[..., None]
