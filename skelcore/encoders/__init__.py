"""Encoders: skeleton clips -> features. One file a paper, one way to build them."""

from __future__ import annotations

from difflib import get_close_matches

from skelcore import layouts
from skelcore.encoders.aagcn import AAGCN
from skelcore.encoders.c3d import C3DLight
from skelcore.encoders.calibrate import calibrate
from skelcore.encoders.ctrgcn import CTRGCN, CTRGCNOriginal
from skelcore.encoders.dgstgcn import DGSTGCN
from skelcore.encoders.encoder import Encoder
from skelcore.encoders.msg3d import MSG3D
from skelcore.encoders.posec3d import PoseC3D, PoseC3D346
from skelcore.encoders.potion import PoTion
from skelcore.encoders.stgcn import STGCN
from skelcore.encoders.stgcnpp import STGCNpp
from skelcore.encoders.transformer import SkeletonTransformer
from skelcore.encoders.x3d import X3DShallow
from skelcore.errors import InputError

__all__ = ["ENCODERS", "Encoder", "build", "calibrate", "channels"]

_CLASSES: tuple[type[Encoder], ...] = (
    STGCN,
    STGCNpp,
    AAGCN,
    CTRGCN,
    CTRGCNOriginal,
    MSG3D,
    DGSTGCN,
    SkeletonTransformer,
    PoseC3D,
    PoseC3D346,
    C3DLight,
    X3DShallow,
    PoTion,
)
ENCODERS = {encoder.name: encoder for encoder in _CLASSES}


def build(name: str, layout: str | layouts.Layout, in_channels: int | None = None, width: int | None = None) -> Encoder:
    """A freshly initialised encoder for clips of ``layout``; ``width`` scales its channels (None: as published).

    ``in_channels`` is C of the joints (N, M, T, V, C) or K of the heatmaps (N, K, T, H, W) that it reads; None is that
    of 2D poses with scores: 3, or one heatmap a joint. Raises InputError for an unknown name or layout, or a width
    below 8.
    """
    encoder, layout = _class(name), layouts.get(layout)
    in_channels = encoder.channels(layout) if in_channels is None else in_channels
    width = encoder.WIDTH if width is None else width
    if type(width) is not int or type(in_channels) is not int or width < 8 or in_channels < 1:
        raise InputError(f"encoder {name}: width must be a whole number from 8 and in_channels one from 1, "
                         f"got {width} and {in_channels}")
    return encoder(layout, in_channels, width)


def channels(name: str, layout: str | layouts.Layout, coordinates: int = 2, stream: str = "joint") -> int:
    """The ``in_channels`` with which the encoder of that name reads ``stream`` of 2D or 3D clips.

    Raises InputError for an unknown name, layout or stream, and for heatmaps of 3D poses.
    """
    return _class(name).channels(layouts.get(layout), coordinates, stream)


def _class(name: str) -> type[Encoder]:
    if name not in ENCODERS:
        near = get_close_matches(name, ENCODERS, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(ENCODERS)}"
        raise InputError(f"unknown encoder {name!r}; {hint}")
    return ENCODERS[name]
