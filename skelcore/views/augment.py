"""The reference's augmentation of coordinates: random scale, rotation and noise, for clips (N, M, T, V, C).

Each random function draws numbers and hands them to a deterministic one, so that numbers drawn elsewhere do the same.
The result has the wider dtype of clip and numbers.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from skelcore.errors import InputError
from skelcore.views.crop import extent
from skelcore.views.draws import uniform
from skelcore.views.spatial import rotations


def random_scale(keypoints: Tensor, generator: Generator, limit: float = 0.2) -> Tensor:
    """Clips stretched along each axis by its own factor, uniform in 1 +- ``limit``."""
    return scale(keypoints, uniform((len(keypoints), keypoints.shape[-1]), 1 - limit, 1 + limit, generator))


def random_rotation(keypoints: Tensor, generator: Generator, limit: float = 0.3, compat: bool = False) -> Tensor:
    """Clips rotated about the origin by angles uniform within ``limit`` radians each way: one in 2D, three in 3D.

    With ``compat`` the 2D angle is uniform from -limit to 1, as in the reference, whose call lacks the upper bound.
    """
    count = {2: 1, 3: 3}.get(keypoints.shape[-1], 0)
    upper = 1.0 if compat and count == 1 else limit
    return rotate(keypoints, uniform((len(keypoints), count), -limit, upper, generator))


def random_jitter(keypoints: Tensor, scores: Tensor, generator: Generator, sigma: float = 0.01) -> Tensor:
    """Joints displaced by ``sigma`` times the diagonal of their person's box in that frame, in random directions.

    Directions are uniform on the sphere; the reference's lean to the corners of a cube.
    """
    device = keypoints.device
    amount = torch.randn(scores.shape, generator=generator, device=device) * sigma
    return jitter(keypoints, scores, amount, torch.randn(keypoints.shape, generator=generator, device=device))


def scale(keypoints: Tensor, factors: Tensor) -> Tensor:
    """Clips times ``factors`` (N, C)."""
    return keypoints * factors[:, None, None, None]


def rotate(keypoints: Tensor, angles: Tensor) -> Tensor:
    """Clips rotated about the origin by ``angles`` in radians: (N, 1) in 2D, (N, 3) about x, then y, then z in 3D.

    The signs are the reference's: counterclockwise in 2D, clockwise (seen from the axis' tip) in 3D. Raises InputError
    for another number of angles.
    """
    channels = keypoints.shape[-1]
    if (channels, angles.shape[1]) not in ((2, 1), (3, 3)):
        raise InputError(f"rotate: {angles.shape[1]} angles for {channels} coordinates")
    planes = [(0, 1)] if channels == 2 else [(2, 1), (0, 2), (1, 0)]
    return turn(keypoints, rotations(angles, planes, channels))


def turn(keypoints: Tensor, matrices: Tensor) -> Tensor:
    """Clips with every point multiplied by its clip's matrix (N, C, C); under autocast, too, in the tensors' dtypes."""
    dtype = torch.promote_types(keypoints.dtype, matrices.dtype)
    with torch.autocast(keypoints.device.type, enabled=False):
        return torch.einsum("nmtvc,ndc->nmtvd", keypoints.to(dtype), matrices.to(dtype))


def jitter(keypoints: Tensor, scores: Tensor, amount: Tensor, direction: Tensor, compat: bool = False) -> Tensor:
    """Clips displaced along ``direction`` (N, M, T, V, C), of any length, by ``amount`` (N, M, T, V) box diagonals.

    A person's box in a frame holds its valid joints, and missing ones stay 0; with ``compat`` it holds all joints,
    missing ones move as well, nothing moves where the box begins at the origin, and the box is measured in the clip's
    own dtype, as in the reference.
    """
    seen = torch.ones_like(scores, dtype=torch.bool)[..., None] if compat else (scores > 0)[..., None]
    # In float16, as the reference measures it, the square of a box of 256 pixels overflows.
    points = keypoints if compat else keypoints.to(torch.promote_types(keypoints.dtype, torch.float32))
    low, high = extent(points, seen, (3,))
    used = low.square().sum(-1, keepdim=True) > 1e-4 if compat else seen.any(3, keepdim=True)
    diagonal = (high - low).square().sum(-1, keepdim=True).sqrt().where(used, 0)
    moved = points + torch.nn.functional.normalize(direction, dim=-1) * (amount[..., None] * diagonal) * seen
    return moved.to(torch.promote_types(keypoints.dtype, torch.promote_types(amount.dtype, direction.dtype)))
