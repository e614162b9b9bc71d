"""The random transforms of PYSKL with its own numbers: the same clip comes out for the same seed.

The reference draws from the two global generators; here both belong to ``Draws``, made from the seed that it would have
set, and the numbers, taken in its order, go to the functions of this package. Transforms without random numbers
have no place here: with ``compat`` where they have that switch, those functions do what the reference does. One clip at
a time (N = 1), on the host, since a shared stream of numbers has an order; for training take the batched ones.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from skelcore.views import augment, crop, sampling


@dataclass
class Draws:
    """The reference's two random generators, as ``np.random.seed(seed); random.seed(seed)`` leave them."""

    seed: int
    numpy: np.random.RandomState = field(init=False)
    python: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.numpy, self.python = np.random.RandomState(self.seed), random.Random(self.seed)


def sample(length: int, frames: int, draws: Draws, clips: int = 1, share: sampling.Share = sampling.WHOLE) -> Tensor:
    """Frames (1, clips, S) of UniformSampleFrames and UniformSampleDecode in training (``sampling.uniform_test`` in
    tests).
    """
    return torch.stack([sampling.drawn(length, frames, draws.numpy, share) for _ in range(clips)])[None]


def random_box(sizes: Tensor, draws: Draws, area: tuple[float, float] = (0.08, 1.0),
               aspect: tuple[float, float] = (3 / 4, 4 / 3), attempts: int = 10) -> Tensor:
    """The box (1, 4) of RandomResizedCrop in images of ``sizes`` (1, 2); it draws from both generators.

    The reference crops missing joints, too, which then no longer are at 0: give ``crop.crop`` scores of 1.
    """
    aspects = np.exp(draws.numpy.uniform(math.log(aspect[0]), math.log(aspect[1]), size=attempts))
    areas = draws.numpy.uniform(area[0], area[1], size=attempts)
    shape, found = crop.first_fitting(sizes, torch.from_numpy(areas)[None], torch.from_numpy(aspects)[None])
    room = sizes.flip(1) - shape
    start = room // 2
    if found:
        start = torch.tensor([[draws.python.randint(0, space) for space in room[0].tolist()]])
    return torch.cat([start, start + shape], 1)


def flips(draws: Draws, ratio: float = 0.5) -> Tensor:
    """Whether (1,) Flip mirrors the clip."""
    return torch.tensor([draws.numpy.rand() < ratio])


def random_scale(keypoints: Tensor, draws: Draws, limit: float = 0.2) -> Tensor:
    """RandomScale of a clip (1, M, T, V, C), in float64."""
    factors = 1 + draws.numpy.uniform(-1, 1, size=keypoints.shape[-1]) * limit
    return augment.scale(keypoints, torch.from_numpy(factors)[None])


def random_rotation(keypoints: Tensor, draws: Draws, limit: float = 0.3) -> Tensor:
    """RandomRot of a clip (1, M, T, V, C), in float64; one without anybody costs no numbers.

    In 2D the angle is uniform from -limit to 1, not to limit: a call without its upper bound.
    """
    if not keypoints.any():
        return keypoints
    upper, count = (limit, 3) if keypoints.shape[-1] == 3 else (1.0, 1)
    return augment.rotate(keypoints, torch.from_numpy(draws.numpy.uniform(-limit, upper, size=count))[None])


def random_jitter(keypoints: Tensor, draws: Draws, sigma: float = 0.01) -> Tensor:
    """RandomGaussianNoise of a clip (1, M, T, V, C) relative to every frame's box, in float64."""
    scores = torch.ones(keypoints.shape[:-1], dtype=torch.float64)
    amount = draws.numpy.randn(*keypoints.shape[:-1]) * sigma
    direction = draws.numpy.uniform(-1, 1, size=(keypoints.shape[-1], scores.numel())).T.reshape(keypoints.shape)
    return augment.jitter(keypoints, scores, torch.from_numpy(amount), torch.from_numpy(direction), compat=True)
