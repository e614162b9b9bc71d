"""Encoders: skeleton clips -> features. One file a paper, one way to build them."""

from __future__ import annotations

from difflib import get_close_matches

from skelcore import layouts
from skelcore.encoders.calibrate import calibrate
from skelcore.encoders.encoder import Encoder
from skelcore.encoders.stgcnpp import STGCNpp
from skelcore.errors import InputError

__all__ = ["ENCODERS", "Encoder", "build", "calibrate"]

ENCODERS = {STGCNpp.name: STGCNpp}


def build(name: str, layout: str | layouts.Layout, in_channels: int = 3, width: int = 64) -> Encoder:
    """A freshly initialised encoder for clips (N, M, T, V, ``in_channels``) of ``layout``; ``width`` scales channels.

    Raises InputError for an unknown name or layout, or a width below 8.
    """
    if name not in ENCODERS:
        near = get_close_matches(name, ENCODERS, 1)
        raise InputError(f"unknown encoder {name!r}; {f'did you mean {near[0]}?' if near else 'known:'} "
                         f"{'' if near else ', '.join(ENCODERS)}".rstrip())
    if width < 8 or in_channels < 1:
        raise InputError(f"encoder {name}: width must be at least 8 and in_channels at least 1, "
                         f"got {width} and {in_channels}")
    return ENCODERS[name](layouts.get(layout), in_channels, width)
