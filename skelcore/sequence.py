"""PoseSequence: the one sample type."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from skelcore.errors import InputError
from skelcore.layouts import Layout


@dataclass(frozen=True, eq=False)
class PoseSequence:
    """The poses of M persons over T frames.

    ``keypoints`` (M, T, V, C) float32, C = 2 (pixels, or normalised when ``size`` is None) or 3 (metres);
    ``scores`` (M, T, V) float32 in [0, 1], 0 = missing (the coordinates of a missing joint mean nothing and are 0);
    ``size`` (height, width) of the frame in pixels; ``label`` an index into the class names of the store it came from.
    Raises InputError when shapes, ranges or layout disagree.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    layout: Layout
    size: tuple[int, int] | None = None
    fps: float | None = None
    id: str = ""
    label: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        keypoints, scores = np.asarray(self.keypoints, np.float32), np.asarray(self.scores, np.float32)
        if keypoints.ndim != 4 or keypoints.shape[-1] not in (2, 3):
            raise InputError(f"sequence {self.id!r}: keypoints must be (M, T, V, 2 or 3), got {keypoints.shape}")
        if keypoints.shape[2] != len(self.layout):
            raise InputError(f"sequence {self.id!r}: {keypoints.shape[2]} joints, but layout {self.layout.name} "
                             f"has {len(self.layout)}")
        if scores.shape != keypoints.shape[:3]:
            raise InputError(f"sequence {self.id!r}: scores {scores.shape} do not match keypoints {keypoints.shape}")
        finite = np.isfinite(keypoints).all(-1) & np.isfinite(scores)
        scores = np.where(finite, np.clip(scores, 0, 1), 0)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "keypoints", np.where((scores > 0)[..., None], keypoints, 0))

    @property
    def persons(self) -> int:
        return self.keypoints.shape[0]

    @property
    def frames(self) -> int:
        return self.keypoints.shape[1]

    def to_layout(self, target: Layout) -> PoseSequence:
        """The same poses in another layout; a joint averaged from several has their lowest score."""
        if target == self.layout:
            return self
        weights = self.layout.matrix_to(target)
        keypoints = np.einsum("wv,mtvc->mtwc", weights, self.keypoints)
        used = weights > 0
        scores = np.where(used, self.scores[:, :, None], 1).min(-1) * used.any(-1)
        return replace(self, keypoints=keypoints, scores=scores, layout=target)
