"""JointEncoder: encoders that read joints, person by person."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from skelcore.encoders.encoder import Encoder
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views.features import STREAMS
from skelcore.views.features import features as stream_features
from skelcore.views.normalise import normalise


class JointEncoder(Encoder):
    """Encoder of ``x`` (N, M, T, V, C): a subclass gives ``maps`` of persons, this the batching, pooling and checks."""

    @classmethod
    def channels(cls, layout: Layout, coordinates: int = 2, stream: str = "joint") -> int:
        if coordinates not in (2, 3):
            raise InputError(f"encoder {cls.name} reads 2D or 3D poses, not {coordinates}D ones")
        if stream not in STREAMS:
            raise InputError(f"stream={stream}: encoder {cls.name} reads one of {', '.join(STREAMS)}")
        return coordinates + 1

    def inputs(self, keypoints: Tensor, scores: Tensor, stream: str = "joint") -> tuple[Tensor, Tensor | None]:
        """Centred and scaled coordinates and their score; a clip without anybody counts as one missing person."""
        x = stream_features(normalise(keypoints, scores), scores, self.layout, stream)
        x = x[..., : self.in_channels]  # PYSKL's 3D weights read no score
        if keypoints.shape[1] == 1:
            return x, None
        valid = (scores > 0).any(-1).any(-1)
        valid[:, 0] |= ~valid.any(1)
        return x, valid

    @abstractmethod
    def maps(self, x: Tensor, slot: Tensor) -> Tensor:
        """Feature maps (P, D, T', V) of persons (P, T, V, C); ``slot`` (P,) is each one's position in its clip."""

    def features(self, x: Tensor) -> Tensor:
        """Feature maps (N, M, D, T', V) of ``x`` (N, M, T, V, C)."""
        self.check(x)
        self.check_finite(x)
        clips, persons = x.shape[:2]
        slot = torch.arange(persons, device=x.device).repeat(clips)
        return self.maps(x.flatten(0, 1), slot).unflatten(0, (clips, persons))

    def timeline(self, x: Tensor, valid: Tensor | None = None, compat: bool = False) -> Tensor:
        """Features (N, D, T') of ``x`` (N, M, T, V, C): the mean over joints, then over persons.

        With ``valid`` (N, M) bool only those persons are computed and averaged (a clip with none has zeros, a batch
        with none raises InputError); without it all M are. ``compat`` averages all M whatever ``valid`` says, as the
        reference does with the zeros that pad a clip to M persons.
        """
        if valid is None or compat:
            return self.features(x).mean(-1).mean(1)
        self.check(x)
        if valid.shape != x.shape[:2] or valid.dtype != torch.bool:
            raise InputError(f"valid {tuple(valid.shape)} of {valid.dtype} must be of bool and match the clips' "
                             f"{tuple(x.shape[:2])} (N, M)")
        clips, slot = valid.nonzero(as_tuple=True)
        if not len(clips):
            raise InputError("no clip of this batch has a valid person: filter such clips out first")
        persons = x[clips, slot]
        self.check_finite(persons)
        each = self.maps(persons, slot).mean(-1)
        total = each.new_zeros(len(x), *each.shape[1:]).index_add(0, clips, each)
        return total / valid.sum(1).clamp(min=1)[:, None, None]

    def check(self, x: Tensor) -> None:
        """Raise InputError unless ``x`` is (N, M, T, V, C) of this layout and not empty."""
        wanted = (len(self.layout), self.in_channels)
        if x.ndim != 5 or tuple(x.shape[3:]) != wanted:
            raise InputError(f"{self.name} for layout {self.layout.name} takes (N, M, T, {wanted[0]}, {wanted[1]}), "
                             f"got {tuple(x.shape)}")
        if x.numel() == 0:
            raise InputError(f"{self.name}: empty input {tuple(x.shape)}; every clip needs a person and a frame")

    def check_finite(self, x: Tensor) -> None:
        """Raise InputError for NaN or infinity, unless a graph is captured, which cannot branch on values."""
        if not torch.compiler.is_compiling() and not torch.isfinite(x).all():
            raise InputError(f"{self.name}: the input holds NaN or infinity; missing joints must be 0")
