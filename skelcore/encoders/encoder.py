"""Encoder: what every encoder of skeleton clips offers, whatever its paper and its kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from skelcore.errors import InputError
from skelcore.layouts import Layout

# Where papers start parameters at zero: this much more, and gradients reach what is behind them in the first step.
NEAR_ZERO = 1e-6


class Encoder(nn.Module, ABC):
    """Base of all encoders; ``JointEncoder`` and ``HeatmapEncoder`` add what their kind of input needs.

    ``dim`` is the width D of the features, ``WIDTH`` the channels of the published size, ``spec`` the plain values
    from which ``encoders.build`` makes its like.
    """

    name: str
    WIDTH: int = 64
    dim: int

    def __init__(self, layout: Layout, in_channels: int, width: int) -> None:
        super().__init__()
        self.layout, self.in_channels, self.width = layout, in_channels, width

    @property
    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "layout": self.layout.name, "in_channels": self.in_channels, "width": self.width}

    @classmethod
    @abstractmethod
    def channels(cls, layout: Layout, coordinates: int = 2, stream: str = "joint") -> int:
        """``in_channels`` for clips of ``coordinates`` (2 or 3) dimensions read as ``stream``."""

    def accepts(self, coordinates: int, stream: str) -> bool:
        """Whether this encoder's ``in_channels`` fit ``stream`` of clips of that many dimensions.

        Raises InputError for a stream or dimensions that no encoder of this kind reads.
        """
        return self.in_channels == self.channels(self.layout, coordinates, stream)

    @abstractmethod
    def inputs(self, keypoints: Tensor, scores: Tensor, stream: str = "joint") -> tuple[Tensor, Tensor | None]:
        """``x`` and ``valid`` of ``forward`` for clips (N, M, T, V, 2 or 3) in any unit with scores (N, M, T, V)."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Feature maps before any pooling."""

    @abstractmethod
    def timeline(self, x: Tensor, valid: Tensor | None = None, compat: bool = False) -> Tensor:
        """Features (N, D, T') averaged over all but time; the arguments are those of ``forward``."""

    def forward(self, x: Tensor, valid: Tensor | None = None, compat: bool = False) -> Tensor:
        """Pooled features (N, D), the mean of ``timeline`` over time."""
        return self.timeline(x, valid, compat).mean(-1)

    def pyskl_keys(self) -> dict[str, list[str]]:
        """For every key of the state dict, the reference's keys that make it up, concatenated along axis 0.

        Raises InputError for an encoder that the reference does not have.
        """
        raise InputError(f"encoder {self.name}: there are no PYSKL weights of it")

    def pyskl_rows(self, key: str) -> list[int] | None:
        """Rows of each of the reference's tensors that make up ``key``; None where all have the same."""
        return None
