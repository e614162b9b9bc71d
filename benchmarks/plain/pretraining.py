"""Pretraining as public skeleton code does it: what benchmarks/pretrain.py compares the loop with.

Views are made in numpy, one clip after the other, in a DataLoader's workers, of clips that lie in memory, resampled and
normalised beforehand; the encoder is plain modules. The masked decoder attends among all tokens of a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from plain import stgcnpp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from pretrain.decoder import by_person
from pretrain.heads import perceptron
from pretrain.objectives.masked_motion import MaskedMotion, MaskedMotionConfig
from pretrain.objectives.objective import Setting
from pretrain.objectives.vicreg import covariance_loss, invariance_loss, variance_loss
from skelcore.encoders.encoder import Encoder
from skelcore.encoders.transformer import PATCH, Block, SkeletonTransformer, keep
from skelcore.layouts import Layout

DECODER_DEPTH = 3  # of the smaller of two settings of MAMP's decoder; 5 in the other


def crop_resize(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stretch of at least half of the clip (C, T, V, M), as long as the clip again."""
    channels, frames, joints, persons = clip.shape
    length = math.ceil(frames * rng.uniform(0.5, 1))
    start = rng.integers(frames - length + 1)
    cropped = torch.from_numpy(clip[:, start : start + length]).permute(0, 2, 3, 1).reshape(1, -1, length, 1)
    resized = F.interpolate(cropped, (frames, 1), mode="bilinear", align_corners=False)
    return resized.view(channels, joints, persons, frames).permute(0, 3, 1, 2).contiguous().numpy()


def mapped(clip: np.ndarray, matrix: np.ndarray, product: Callable[..., np.ndarray]) -> np.ndarray:
    points = product(clip[:2].transpose(1, 2, 3, 0), matrix.T)
    return np.concatenate([points.transpose(3, 0, 1, 2), clip[2:]])


def shear(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    across, along = rng.uniform(-0.5, 0.5, 2)
    return mapped(clip, np.array([[1, across], [along, 1]]), np.dot)


def rotate(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = math.radians(rng.uniform(-30, 30))
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return mapped(clip, matrix, np.matmul)  # a product for each joint, as AimCLR and its forks have it


def flip(clip: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    flipped = clip[:, :, mirror].copy()
    flipped[0] = -flipped[0]
    return flipped


def noise(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = clip.copy()
    noisy[:2] += rng.normal(0, 0.01, noisy[:2].shape)
    return noisy


def blur(clip: np.ndarray, rng: np.random.Generator, taps: int = 15) -> np.ndarray:
    """The clip smoothed over time; the kernel sums to 1."""
    kernel = torch.from_numpy(np.exp(-((np.arange(taps) - taps // 2) ** 2) / (2 * rng.uniform(0.1, 2) ** 2)))
    weight = (kernel / kernel.sum()).repeat(len(clip), 1, 1, 1)
    x = torch.from_numpy(clip).double().permute(3, 0, 2, 1)
    return F.conv2d(x, weight, padding=(0, taps // 2), groups=len(clip)).permute(1, 3, 2, 0).numpy()


def mask_joints(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    masked = clip.copy()
    masked[:, :, rng.choice(clip.shape[2], rng.integers(5, 10), replace=False)] = 0
    return masked


class Feeder(Dataset[tuple[np.ndarray, np.ndarray]]):
    """Two views (C, T, V, M) of each clip of an array (n, C, T, V, M)."""

    def __init__(self, clips: np.ndarray, layout: Layout) -> None:
        self.clips, self.mirror = clips, np.array(layout.mirror)

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(torch.initial_seed())  # another one in every worker

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        clip = np.array(self.clips[index])
        return self.view(clip), self.view(clip)

    def view(self, clip: np.ndarray) -> np.ndarray:
        rng = self.rng
        clip = rotate(shear(crop_resize(clip, rng), rng), rng)
        if rng.random() < 0.5:
            clip = flip(clip, self.mirror)
        if rng.random() < 0.5:
            clip = noise(clip, rng)
        if rng.random() < 0.5:
            clip = blur(clip, rng)
        return mask_joints(clip, rng) if rng.random() < 0.5 else clip


class Recipe:
    """VICReg of the plain ST-GCN++; ``step`` trains it on two views (N, C, T, V, M) of each clip."""

    def __init__(self, layout: Layout, width: int, expander: int, device: str) -> None:
        self.encoder = stgcnpp.Plain(layout, width=width)
        self.model = nn.ModuleList([self.encoder, perceptron([4 * width, *3 * [expander]])]).to(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.05)
        self.device = device

    def step(self, views: list[Tensor]) -> None:
        encoder, expander = self.model
        first, second = (expander(encoder(view.float().to(self.device).permute(0, 4, 2, 3, 1)).mean((1, 3, 4)))
                         for view in views)
        loss = (25 * invariance_loss(first, second) + 12.5 * (variance_loss(first) + variance_loss(second))
                + covariance_loss(first) + covariance_loss(second))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()


class FullDecoder(nn.Module):
    """MAMP's decoder: mask tokens fill the sequence, all tokens attend to each other, all are predicted."""

    def __init__(self, tokens: int, width: int, outputs: int) -> None:
        super().__init__()
        self.embed, self.mask = nn.Linear(width, width), nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, max(1, width // 32)) for _ in range(DECODER_DEPTH)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, memory: Tensor, kept: Tensor) -> Tensor:
        seen = self.embed(memory)
        tokens = self.mask.to(seen.dtype).expand(len(memory), len(self.positions), -1)
        tokens = tokens.scatter(1, kept[..., None].expand_as(seen), seen) + self.positions
        predicted: Tensor = self.head(self.norm(self.blocks(tokens)))
        return predicted


class FullMaskedMotion(MaskedMotion):
    """Masked motion prediction with that decoder; of all hidden tokens, if ``asked`` is 1."""

    def __init__(self, encoder: Encoder, config: MaskedMotionConfig, setting: Setting) -> None:
        super().__init__(encoder, config, setting)
        assert isinstance(encoder, SkeletonTransformer)
        tokens = len(encoder.layout) * -(-setting.frames // PATCH)
        self.decoder = FullDecoder(tokens, encoder.dim, PATCH * (encoder.in_channels - 1))

    def _remember(self, x: Tensor, valid: Tensor, kept: Tensor) -> Tensor:
        return self.decoder(super()._remember(x, valid, kept), by_person(kept, valid))

    def _predict(self, memory: Tensor, x: Tensor, valid: Tensor, wanted: Tensor) -> Tensor:
        return keep(memory, by_person(wanted, valid)).unflatten(-1, (PATCH, -1))
