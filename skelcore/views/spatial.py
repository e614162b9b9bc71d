"""Mirror and affine maps about the centre of the clip."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from skelcore.layouts import Layout
from skelcore.views.draws import uniform


def swap_sides(points: Tensor, scores: Tensor, layout: Layout, which: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange left and right joints of points (N, C, M, T, V) in the clips where ``which`` (N,) is true."""
    other = torch.from_numpy(layout.mirror).to(points.device)
    points = torch.where(which[:, None, None, None, None], points.index_select(-1, other), points)
    return points, torch.where(which[:, None, None, None], scores.index_select(-1, other), scores)


def mirrors(which: Tensor, channels: int) -> Tensor:
    """Maps (N, C, C) that negate x in the clips where ``which`` (N,) is true."""
    signs = torch.ones(len(which), channels, device=which.device)
    signs[:, 0] -= 2.0 * which
    return torch.diag_embed(signs)


def affine(points: Tensor, maps: Tensor, centre: Tensor) -> Tensor:
    """Each clip (N, C, M, T, V) mapped by its matrix (N, C, C) about its ``centre`` (N, C), in the clips' dtype."""
    maps = maps.to(points.dtype)
    with torch.autocast(points.device.type, enabled=False):
        offset = centre[..., None] - maps @ centre[..., None]
        return torch.baddbmm(offset, maps, points.flatten(2)).view_as(points)


def flatten_axis(points: Tensor, centre: Tensor, which: Tensor, generator: Generator) -> Tensor:
    """One axis of the clips (N, C, M, T, V) where ``which`` (N,) is true set to its ``centre`` (N, C) throughout.

    The axis mask of AimCLR (Guo et al., AAAI 2022), about the body instead of the picture's corner; each clip draws
    its axis.
    """
    clips, channels = centre.shape
    axis = uniform((clips,), 0, channels, generator).long().clamp(max=channels - 1)
    flat = which[:, None] & (torch.arange(channels, device=axis.device) == axis[:, None])
    return torch.where(flat[:, :, None, None, None], centre[:, :, None, None, None], points)


def random_maps(clips: int, channels: int, rotation: float, scale: float, stretch: float, squeeze: float, shear: float,
                generator: Generator) -> Tensor:
    """Random maps (N, C, C): rotation after shear after scaling.

    ``rotation`` in degrees, each way: in the plane for C = 2, about every axis for C = 3. ``scale`` is the same for
    all axes, ``stretch`` differs per axis (factors exp(+-s)). For C = 2, ``squeeze`` narrows x by up to that fraction,
    as a turn of the body away from the camera does. ``shear`` bounds the entries off the diagonal.
    """
    logs = uniform((clips, 1), -scale, scale, generator) + uniform((clips, channels), -stretch, stretch, generator)
    if channels == 2:
        logs[:, 0] += (1 - uniform((clips,), 0, squeeze, generator)).log()
    eye = torch.eye(channels, device=generator.device)
    slant = eye + uniform((clips, channels, channels), -shear, shear, generator) * (1 - eye)
    limit, planes = math.radians(rotation), [(0, 1)] if channels == 2 else [(0, 1), (0, 2), (1, 2)]
    angles = torch.stack([uniform((clips,), -limit, limit, generator) for _ in planes], 1)
    with torch.autocast(slant.device.type, enabled=False):
        return rotations(angles, planes, channels) @ slant @ torch.diag_embed(logs.exp())


def rotations(angles: Tensor, planes: list[tuple[int, int]], channels: int) -> Tensor:
    """Rotations (N, C, C) by ``angles`` (N, P) in radians in P planes, one after the other, first axis to second."""
    eye = torch.eye(channels, dtype=angles.dtype, device=angles.device)
    total = eye.expand(len(angles), -1, -1)
    for angle, (one, other) in zip(angles.unbind(1), planes, strict=True):
        turn = eye.repeat(len(angles), 1, 1)
        turn[:, one, one] = turn[:, other, other] = angle.cos()
        turn[:, one, other], turn[:, other, one] = -angle.sin(), angle.sin()
        with torch.autocast(angles.device.type, enabled=False):
            total = turn @ total
    return total
