"""Checkpoints: written whole or not at all, read without running anything, and PYSKL's weights."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skelcore import encoders
from skelcore.encoders import Encoder
from skelcore.errors import InputError, RunError
from skelcore.files import atomic
from skelcore.layouts import Layout

_SPEC = {"name": str, "layout": str, "in_channels": int, "width": int}
_PLAIN = (Tensor, str, bytes, bool, int, float, type(None))


@dataclass(frozen=True)
class ImportReport:
    """What became of a foreign checkpoint's keys, in its own naming.

    ``unused`` are keys of its classification head; ``missing`` are batch-norm counters that old files lack.
    """

    matched: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return (f"{len(self.matched)} keys matched, {len(self.unused)} unused ({', '.join(self.unused) or 'none'}), "
                f"{len(self.missing)} missing ({', '.join(self.missing) or 'none'})")


def save(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write ``contents`` (tensors and plain containers) so that ``path`` is at all times absent, old or complete.

    Raises TypeError for an object that ``load`` would refuse, RunError when the disk does.
    """
    _check_plain(contents, "checkpoint")
    try:
        with atomic(path) as file:
            torch.save(dict(contents), file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise RunError(f"{path}: cannot write the checkpoint: {_one_line(error)}") from error


def load(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU; nothing in the file is executed.

    Raises InputError for a file that is missing, damaged, no checkpoint, or holds anything but tensors and plain
    containers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"checkpoint={path}: no such file")
    try:
        _verify_checksums(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text goes on to advise switching the protection off.
        asked = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        raise InputError(f"checkpoint={path}: refused, not a checkpoint of tensors and plain values only"
                         + (f": it asks for {asked[1]}, which could run code" if asked else "")) from None
    except OSError as error:
        raise InputError(f"checkpoint={path}: cannot be read: {error.strerror or _one_line(error)}") from None
    except Exception as error:  # torch's reader meets damage with many kinds of error
        reason = type(error).__name__ if "weights_only" in str(error) else _one_line(error)
        raise InputError(f"checkpoint={path}: damaged or not a checkpoint ({reason})") from None
    if not isinstance(contents, dict) or not all(isinstance(key, str) for key in contents):
        raise InputError(f"checkpoint={path}: holds no dictionary of named values, so it is no checkpoint")
    return contents


def save_encoder(path: str | Path, encoder: Encoder, frames: int, stream: str, **extra: Any) -> None:
    """Write an encoder with what ``load_encoder`` needs to rebuild it; ``extra`` values go beside it."""
    save(path, {"encoder": encoder.state_dict(), "spec": encoder.spec, "frames": frames, "stream": stream, **extra})


def load_encoder(path: str | Path, name: str | None = None,
                 layout: str | Layout | None = None) -> tuple[Encoder, dict[str, Any]]:
    """Rebuild the encoder of a checkpoint; returns it, in eval mode, with the other contents.

    ``name`` and ``layout`` are what the caller expects (a Layout is needed for a user-defined one). Raises InputError
    for a file that is none of ours, for another encoder or layout than expected, and for weights that do not fit.
    """
    contents = load(path)
    spec, weights = contents.get("spec"), contents.get("encoder")
    if not isinstance(spec, dict) or not isinstance(weights, dict):
        raise InputError(f"checkpoint={path}: no `spec` and `encoder` in it, so no checkpoint of pretrain; "
                         "PYSKL weights go through load_pyskl")
    if set(spec) != set(_SPEC) or any(type(spec[key]) is not kind for key, kind in _SPEC.items()):
        raise InputError(f"checkpoint={path}: `spec` must hold {', '.join(_SPEC)}, got {spec}")
    wanted = layout.name if isinstance(layout, Layout) else layout
    for field, expected in (("name", name), ("layout", wanted)):
        if expected is not None and spec[field] != expected:
            kind = "encoder" if field == "name" else field
            raise InputError(f"checkpoint={path}: is for {kind} {spec[field]!r}, but {expected!r} is wanted")
    encoder = encoders.build(**{**spec, "layout": layout if isinstance(layout, Layout) else spec["layout"]})
    _fill(encoder, weights, str(path))
    return encoder.eval(), {key: value for key, value in contents.items() if key != "encoder"}


def load_pyskl(encoder: Encoder, source: str | Path | Mapping[str, Any]) -> ImportReport:
    """Copy PYSKL weights (a file, or its state dict) into ``encoder``; its head is left aside.

    Raises InputError, and leaves the encoder as it was, for a missing or foreign backbone key or a shape that differs.
    """
    where = "state dict" if isinstance(source, Mapping) else str(source)
    contents = source if isinstance(source, Mapping) else load(source)
    state = contents.get("state_dict", contents)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"checkpoint={where}: holds no state dict of tensors")
    backbone = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    mapping = encoder.pyskl_keys()
    known = {key for keys in mapping.values() for key in keys}
    # Files of torch before 0.4.1 lack these counters, which no output depends on.
    absent = known.difference(backbone)
    missing = sorted(key for key in absent if not key.endswith("num_batches_tracked"))
    foreign = sorted(set(backbone).difference(known))
    if missing or foreign:
        detail = [f"{len(keys)} keys {what}, such as {keys[0]!r}"
                  for keys, what in ((missing, "are missing"), (foreign, "are unknown")) if keys]
        raise InputError(f"checkpoint={where}: not the weights of {encoder.name}: {' and '.join(detail)}")
    own = encoder.state_dict()
    weights = {key: _join(own[key], [backbone[part] for part in parts if part in backbone], parts, where)
               for key, parts in mapping.items()}
    encoder.load_state_dict(weights)
    return ImportReport(tuple(f"backbone.{key}" for key in backbone),
                        tuple(key for key in state if not key.startswith("backbone.")),
                        tuple(f"backbone.{key}" for key in sorted(absent)))


def to_pyskl(encoder: Encoder, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The encoder's state dict in PYSKL's naming, or ``values`` (such as gradients) keyed like it.

    Raises InputError for an encoder that PYSKL does not have.
    """
    named: dict[str, Tensor] = {}
    mapping = encoder.pyskl_keys()
    for key, value in (encoder.state_dict() if values is None else values).items():
        parts = mapping[key]
        rows = encoder.pyskl_rows(key) or len(value) // len(parts) if value.ndim else 0
        pieces = value.split(rows) if value.ndim and len(parts) > 1 else [value] * len(parts)
        named |= {f"backbone.{part}": piece.clone() for part, piece in zip(parts, pieces, strict=True)}
    return named


def _join(target: Tensor, parts: list[Tensor], keys: list[str], where: str) -> Tensor:
    """The parts of one of our tensors put together; batch-norm counters, equal in all parts, are taken once."""
    if not target.ndim:
        return parts[0] if parts else target
    try:
        joined = torch.cat(parts)
    except (RuntimeError, TypeError):
        joined = parts[0][:0]
    if joined.shape != target.shape:
        shapes = ", ".join(f"backbone.{key} {tuple(part.shape)}" for key, part in zip(keys, parts, strict=True))
        raise InputError(f"checkpoint={where}: {shapes}: does not fit the encoder's {tuple(target.shape)} "
                         "(another layout, width or number of input channels?)")
    return joined


def _fill(encoder: Encoder, weights: Mapping[str, Any], where: str) -> None:
    own = encoder.state_dict()
    wrong = sorted(set(own).symmetric_difference(weights))
    if wrong:
        raise InputError(f"checkpoint={where}: {len(wrong)} keys are not those of {encoder.name}, such as {wrong[0]!r}")
    for key, value in weights.items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != tuple(own[key].shape):
            raise InputError(f"checkpoint={where}: {key} is {shape}, but {encoder.name} for layout "
                             f"{encoder.layout.name} has {tuple(own[key].shape)}")
    encoder.load_state_dict(dict(weights))


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(inner, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple | set):
        for index, inner in enumerate(value):
            _check_plain(inner, f"{where}[{index}]")
    elif not isinstance(value, _PLAIN) or type(value).__module__ == "numpy":
        raise TypeError(f"{where}: {type(value).__name__} cannot go into a checkpoint; tensors and plain values can")


def _verify_checksums(path: Path) -> None:
    """torch.save stores a checksum of every tensor, but torch.load does not look at it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
