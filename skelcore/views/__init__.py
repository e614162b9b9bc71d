"""Views: random augmentation, normalisation and input streams of batches of clips, on their device.

Clips are keypoints (N, M, T, V, C) with scores (N, M, T, V); a missing joint has score 0 and coordinates 0, before
and after. Everything is tensor code over the whole batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from skelcore.config import Config
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.views import detector, noise, occlusion, smoothing, spatial, temporal
from skelcore.views.draws import chance, uniform
from skelcore.views.features import STREAMS, features
from skelcore.views.normalise import body_scale, centre, normalise

__all__ = ["STREAMS", "ViewConfig", "Views", "body_scale", "centre", "features", "normalise"]


class ViewConfig(Config):
    """How far views may depart from their clip; a strength of 0 switches its transform off."""

    crop_min: float = Field(0.5, gt=0, le=1, description="shortest stretch of time, as a fraction of the clip")
    crop_max: float = Field(1.0, gt=0, le=1, description="longest stretch of time")
    speed: float = Field(0.3, ge=0, lt=1, description="how far the speed varies within the stretch, as a fraction")
    reverse: float = Field(0.0, ge=0, le=1, description="probability of running backwards")
    smoothing: float = Field(0.0, ge=0, le=1, description="probability of smoothing over time")
    smoothing_width: float = Field(2.0, gt=0, le=100, description="largest standard deviation of its kernel, in frames")
    mirror: float = Field(0.5, ge=0, le=1, description="probability of exchanging left and right")
    affine: float = Field(1.0, ge=0, le=1, description="probability of the spatial map below")
    rotation: float = Field(15.0, ge=0, le=180, description="degrees each way, in the plane or about every axis (3D)")
    scale: float = Field(0.1, ge=0, le=1, description="log of the common scale factor, each way")
    stretch: float = Field(0.1, ge=0, le=1, description="log of the scale factor of each axis, each way")
    squeeze: float = Field(0.4, ge=0, lt=1, description="2D only: how far x may shrink, as when the body turns")
    shear: float = Field(0.15, ge=0, le=1, description="entries off the diagonal, each way")
    detector: float = Field(0.0, ge=0, le=1, description="probability of the errors and scores of a real detector, in "
                                                         "the frames of the clip before its crop in time")
    detector_model: Literal["blazepose", "movenet"] = Field(
        "blazepose", description="which detector; blazepose is fitted to errors against a known truth, movenet (whose "
                                 "truth is unknown) to fast errors only, with blazepose's share of slow ones")
    detector_floor: float = Field(0.0, ge=0, le=1, description="highest score below which its joints are missing")
    noise: float = Field(0.8, ge=0, le=1, description="probability of the displacements below")
    jitter: float = Field(0.03, ge=0, le=1, description="error drawn anew in every frame, in body scales")
    wander: float = Field(0.06, ge=0, le=1, description="slowly varying error of each joint, in body scales")
    drift: float = Field(0.3, ge=0, le=10, description="steady movement of the body during the clip, in body scales")
    axis_mask: float = Field(0.0, ge=0, le=1, description="probability that one axis of the coordinates is lost")
    joint_dropout: float = Field(0.2, ge=0, le=1, description="highest probability that a joint is missing throughout")
    part_mask: float = Field(0.2, ge=0, le=1, description="probability that an arm, a leg or the head is missing")
    limb_loss: float = Field(0.0, ge=0, le=1, description="probability that a given part is missing for a while")
    occluder: float = Field(0.0, ge=0, le=1, description="probability that a thing hides some of the body for a while")
    frame_dropout: float = Field(0.15, ge=0, le=1, description="longest stretch of missing frames, as a fraction")
    frame_spans: int = Field(2, ge=0, le=16, description="how many such stretches")

    @model_validator(mode="after")
    def _ordered(self) -> ViewConfig:
        if self.crop_min > self.crop_max:
            raise ValueError(f"crop_min {self.crop_min} exceeds crop_max {self.crop_max}")
        return self


class Views:
    """Random views of clips: detector errors, crop in time, smoothing, mirror, affine map, noise, occlusion, axis mask.

    They are applied in this order. The detector looks at the clip as it is loaded, so a crop in time and a change of
    speed stretch its errors with the movement.
    """

    def __init__(self, config: ViewConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(self, keypoints: Tensor, scores: Tensor, layout: Layout,
                 generator: Generator) -> tuple[Tensor, Tensor]:
        """One view of each clip (N, M, T, V, C), each from its own draw of ``generator``.

        The generator lives on the clips' device; its state and the shape determine every draw. They are computed in
        float32 at least, whatever the dtype. Whatever stands at a missing joint is ignored. Raises InputError for
        shapes that do not match, empty clips, and other than 2 or 3 coordinates.
        """
        if (keypoints.ndim != 5 or keypoints.shape[:4] != scores.shape or keypoints.shape[3] != len(layout)
                or keypoints.shape[4] not in (2, 3) or not keypoints.numel()):
            raise InputError(f"views: keypoints {tuple(keypoints.shape)} and scores {tuple(scores.shape)} must be "
                             f"(N, M, T, {len(layout)}, 2 or 3) and (N, M, T, {len(layout)}) for layout {layout.name}, "
                             "not empty")
        # Under autocast the matrix products below would round pixels to eight bits.
        with torch.autocast(keypoints.device.type, enabled=False):
            wide, certain = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (keypoints, scores))
            view, seen = self._view(wide, certain, layout, generator)
        return view.to(keypoints.dtype), seen.to(scores.dtype)

    def _view(self, keypoints: Tensor, scores: Tensor, layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
        clips, persons, frames = keypoints.shape[:3]
        # Inside, coordinates are planes (N, C, M, T, V): per-joint masks and per-clip maps then run over long rows.
        # A fill, not a product: 0 times NaN is NaN.
        missing = ~(scores > 0)
        points = keypoints.movedim(-1, 1).clone(memory_format=torch.contiguous_format)
        points, scores = points.masked_fill_(missing[:, None], 0), scores.masked_fill(missing, 0)
        points, scores = self._detect(points, scores, layout, generator)
        points, scores = temporal.resample(points, scores, self._times(clips, frames, generator))
        points = self._smooth(points, scores, generator)
        if self.config.mirror or self.config.affine:
            points, scores = self._map(points, scores, layout, generator)
        if self.config.noise:
            points = self._displace(points, scores, generator)
        scores = scores * self._kept(clips, persons, frames, layout, generator)
        if self.config.limb_loss:
            scores = scores * occlusion.limb_mask(clips, persons, frames, layout, self.config.limb_loss, generator)
        scores = self._hide(points, scores, generator)
        points = self._flatten(points, scores, generator)
        return (points * (scores > 0)[:, None]).movedim(1, -1), scores

    def _times(self, clips: int, frames: int, generator: Generator) -> Tensor:
        config = self.config
        return temporal.crop_times(clips, frames, config.crop_min, config.crop_max, config.speed, config.reverse,
                                   generator)

    def _smooth(self, points: Tensor, scores: Tensor, generator: Generator) -> Tensor:
        config = self.config
        if not config.smoothing:
            return points
        width = uniform((len(points),), 0, config.smoothing_width, generator)
        return smoothing.smooth(points, scores, width * chance(len(points), config.smoothing, generator))

    def _map(self, points: Tensor, scores: Tensor, layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
        config = self.config
        clips, channels = points.shape[:2]
        maps = spatial.random_maps(clips, channels, config.rotation, config.scale, config.stretch, config.squeeze,
                                   config.shear, generator)
        identity = torch.eye(channels, device=maps.device)
        maps = maps.where(chance(clips, config.affine, generator)[:, None, None], identity)
        flipped = chance(clips, config.mirror, generator)
        middle = centre(points.movedim(1, -1), scores)
        points, scores = spatial.swap_sides(points, scores, layout, flipped)
        return spatial.affine(points, maps @ spatial.mirrors(flipped, channels), middle), scores

    def _detect(self, points: Tensor, scores: Tensor, layout: Layout, generator: Generator) -> tuple[Tensor, Tensor]:
        config = self.config
        if not config.detector:
            return points, scores
        size = body_scale(points.movedim(1, -1), scores)
        which = chance(len(points), config.detector, generator)
        return detector.corrupt(points, scores, layout, detector.DETECTORS[config.detector_model], size, which,
                                config.detector_floor, generator)

    def _hide(self, points: Tensor, scores: Tensor, generator: Generator) -> Tensor:
        if not self.config.occluder:
            return scores
        clip = points.movedim(1, -1)
        return scores * occlusion.occluder_mask(points, centre(clip, scores), body_scale(clip, scores),
                                                self.config.occluder, generator)

    def _flatten(self, points: Tensor, scores: Tensor, generator: Generator) -> Tensor:
        if not self.config.axis_mask:
            return points
        which = chance(len(points), self.config.axis_mask, generator)
        # About the centre of what is still seen, so that the axis is 0 in the normalised view.
        return spatial.flatten_axis(points, centre(points.movedim(1, -1), scores), which, generator)

    def _displace(self, points: Tensor, scores: Tensor, generator: Generator) -> Tensor:
        config = self.config
        offset = noise.displacement(points.shape, config.jitter, config.wander, config.drift, generator)
        size = body_scale(points.movedim(1, -1), scores) * chance(len(points), config.noise, generator)
        return torch.addcmul(points, offset.to(points.dtype), size[:, None, None, None, None])

    def _kept(self, clips: int, persons: int, frames: int, layout: Layout, generator: Generator) -> Tensor:
        config = self.config
        kept = occlusion.joint_mask(clips, persons, len(layout), config.joint_dropout, generator)
        kept = kept & occlusion.part_mask(clips, persons, layout, config.part_mask, generator)
        return kept & occlusion.frame_mask(clips, frames, config.frame_dropout, config.frame_spans, generator)
