"""Encoder: what every skeleton encoder offers, whatever its paper."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from skelcore.errors import InputError
from skelcore.layouts import Layout


class Encoder(nn.Module, ABC):
    """Base of the encoders that read joints: ``features`` from a subclass, pooling and input checks from here.

    ``dim`` is the width D of the features, ``spec`` the plain values from which ``encoders.build`` makes its like.
    """

    name: str
    dim: int

    def __init__(self, layout: Layout, in_channels: int, width: int) -> None:
        super().__init__()
        self.layout, self.in_channels, self.width = layout, in_channels, width

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "layout": self.layout.name, "in_channels": self.in_channels, "width": self.width}

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Feature maps (N, M, D, T', V) of ``x`` (N, M, T, V, C)."""

    @abstractmethod
    def pyskl_keys(self) -> dict[str, list[str]]:
        """For every key of the state dict, the reference's keys that make it up, concatenated along axis 0."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Pooled features (N, D) of ``x`` (N, M, T, V, C): the mean over frames and joints, then over persons.

        With ``valid`` (N, M) bool only those persons are computed and averaged (a clip with none has zeros, a batch
        with none raises InputError); without it all M count, as in the reference.
        """
        if valid is None:
            return self.features(x).mean((-2, -1)).mean(1)
        if valid.shape != x.shape[:2]:
            raise InputError(f"valid {tuple(valid.shape)} does not match the clips' {tuple(x.shape[:2])} (N, M)")
        if not valid.any():
            raise InputError("no clip of this batch has a valid person: filter such clips out first")
        pooled = self.features(x[valid][:, None]).mean((-2, -1)).squeeze(1)
        clips = valid.nonzero()[:, 0]
        total = pooled.new_zeros(len(x), self.dim).index_add(0, clips, pooled)
        return total / valid.sum(1, keepdim=True).clamp(min=1)

    def check(self, x: Tensor) -> None:
        """Raise InputError unless ``x`` is (N, M, T, V, C) of this layout, not empty, and finite."""
        wanted = (len(self.layout), self.in_channels)
        if x.ndim != 5 or tuple(x.shape[3:]) != wanted:
            raise InputError(f"{self.name} for layout {self.layout.name} takes (N, M, T, {wanted[0]}, {wanted[1]}), "
                             f"got {tuple(x.shape)}")
        if x.numel() == 0:
            raise InputError(f"{self.name}: empty input {tuple(x.shape)}; every clip needs a person and a frame")
        if self.training and x.shape[0] * x.shape[1] * x.shape[2] == 1:
            raise InputError(f"{self.name}: one frame of one person is too little to train batch norm on")
        # A graph capture cannot branch on values.
        if not torch.compiler.is_compiling() and not torch.isfinite(x).all():
            raise InputError(f"{self.name}: the input holds NaN or infinity; missing joints must be 0")
