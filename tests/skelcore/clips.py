"""Random clips and generators for the tests of views."""

import numpy as np
import torch

from skelcore import layouts


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def clips(count=6, persons=2, frames=16, layout=None, channels=2, missing=0.2, seed=0):
    """Keypoints in pixels (N, M, T, V, C), 0 where missing, and scores; coco17 unless another layout is given."""
    numbers = np.random.default_rng(seed)
    scores = numbers.uniform(0.1, 1, (count, persons, frames, len(layout or layouts.get("coco17"))))
    scores[numbers.random(scores.shape) < missing] = 0
    keypoints = numbers.normal(300, 80, (*scores.shape, channels)) * (scores > 0)[..., None]
    return torch.from_numpy(keypoints).float(), torch.from_numpy(scores).float()
