"""Source: a checkpoint's encoder, and a store's clips as it wants them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import torch

from adapt import features
from adapt.features import Clips
from skelcore import checkpoint
from skelcore.encoders import Encoder
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.store import Store


@dataclass(frozen=True)
class Source:
    """A frozen encoder and the clips that it is to encode; ``note`` tells of a conversion of their layout.

    ``meta`` holds what else its checkpoint says, ``sha256`` the hash of the checkpoint's file.
    """

    path: str
    encoder: Encoder
    meta: dict[str, Any]
    sha256: str
    clips: Clips
    note: str

    def of(self, store: Store) -> Source:
        """The same encoder on the clips of another store of the same layout and channels."""
        return replace(self, clips=replace(self.clips, store=store))


def load(path: str, store: Store, *, frames: int | None = None, persons: int | None = None, map_layout: bool = False,
         batch_size: int = 128, workers: int = 0, device: torch.device | str = "cpu") -> Source:
    """Open a checkpoint for the clips of ``store``; ``frames`` and ``persons`` are by default its own.

    Raises InputError for what is no checkpoint of an encoder, or of one that does not fit the clips.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"checkpoint={path}: no such file; pretrain/run.py writes one, checkpoint=null does without")
    encoder, meta = checkpoint.load_encoder(file)
    note = _check_layout(path, store.layout, encoder.layout, map_layout)
    fill = meta.get("fill", 0.0)
    if not (_positive(meta.get("frames")) and _positive(meta.get("persons", 1)) and isinstance(meta.get("stream"), str)
            and _fraction(fill)):
        raise InputError(f"checkpoint={path}: must hold `frames` and `persons` (positive numbers), `stream` (its name) "
                         f"and `fill` (a score below 1, or nothing), got {meta.get('frames')!r}, "
                         f"{meta.get('persons', 1)!r}, {meta.get('stream')!r} and {fill!r}")
    _check_channels(path, encoder, meta, store)
    clips = Clips(store, frames or meta["frames"], persons or meta.get("persons", 1), encoder.layout, meta["stream"],
                  fill, batch_size, workers, device)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Source(path, features.freeze(encoder).to(device), meta, digest, clips, note)


def _check_channels(path: str, encoder: Encoder, meta: dict[str, Any], store: Store) -> None:
    try:
        accepted = encoder.accepts(store.channels, meta["stream"])
    except InputError as error:
        raise InputError(f"checkpoint={path}: {error}") from None
    # Imported weights may read coordinates alone; 3 channels are then not x, y and a score.
    coordinates = meta.get("coordinates", store.channels)
    accepted = accepted or ("coordinates" in meta and encoder.in_channels == coordinates)
    if not accepted or coordinates != store.channels:
        raise InputError(f"checkpoint={path}: its encoder reads {encoder.in_channels} channels, which the data's "
                         f"{store.channels}D poses do not give; use a checkpoint pretrained on such data"
                         + (", or project=true" if store.channels == 3 else ""))


def _check_layout(path: str, data: Layout, wanted: Layout, map_layout: bool) -> str:
    """What to tell the user about a conversion, if there is one."""
    if data == wanted:
        return ""
    if not map_layout:
        raise InputError(f"checkpoint={path} was pretrained on layout {wanted.name}, but the data has layout "
                         f"{data.name}; map_layout=true converts the data")
    absent = [joint for joint, row in zip(wanted.joints, data.matrix_to(wanted), strict=True) if not row.any()]
    if len(absent) == len(wanted):
        raise InputError(f"checkpoint={path}: the data's layout {data.name} gives no joint of its layout {wanted.name}")
    return (f"note: the data's layout {data.name} is mapped to the checkpoint's {wanted.name}; "
            f"joints it cannot give: {', '.join(absent) or 'none'}")


def _fraction(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < 1


def _positive(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and value >= 1
