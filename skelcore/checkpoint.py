"""Checkpoints: written whole or not at all, and read without running anything."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skelcore import encoders, foreign
from skelcore.brief import brief
from skelcore.encoders import Encoder
from skelcore.errors import InputError, RunError
from skelcore.files import atomic
from skelcore.foreign import ImportReport, to_pyskl
from skelcore.layouts import Layout

__all__ = ["ImportReport", "load", "load_encoder", "load_pyskl", "save", "save_encoder", "to_pyskl"]

_SPEC = {"name": str, "layout": str, "in_channels": int, "width": int}
_MAX_LETTERS, _MAX_SIZE = 64, 10_000  # what a spec's words and numbers can make us print and allocate
_BEGINNINGS = (b"PK\x03\x04", b"\x80")  # of the zip archives and, from torch before 1.6, pickles of torch.save
_PLAIN = (Tensor, str, bytes, bool, int, float, type(None))


def save(path: str | Path, contents: Mapping[str, Any]) -> None:
    """Write ``contents`` (tensors and plain containers) so that ``path`` is at all times absent, old or complete.

    Raises TypeError for an object that ``load`` would refuse, RunError when the disk does.
    """
    _check_plain(contents, "checkpoint")
    try:
        with atomic(path) as file:
            torch.save(dict(contents), file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError, while handling the OSError
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise RunError(f"{path}: cannot write the checkpoint: {_one_line(reason)}") from error


def load(path: str | Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU; nothing in the file is executed.

    ``stand_ins`` are harmless classes, each with the global that it takes the place of when a file asks for it.

    Raises InputError for a file that is missing, damaged, no checkpoint, or holds anything but tensors and plain
    containers.
    """
    path = Path(path)
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "no such file"
        raise InputError(f"checkpoint={path}: {wrong}")
    try:
        with path.open("rb") as file:
            if not file.read(4).startswith(_BEGINNINGS):
                raise InputError(f"checkpoint={path}: not a checkpoint, but a file of another kind")
        _verify_checksums(path)
        # torch warns of what else it finds in a file that it then refuses.
        with torch.serialization.safe_globals(list(stand_ins)), warnings.catch_warnings(action="ignore"):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
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
                         "weights of other repositories go through `skelshot import-weights`")
    if set(spec) != set(_SPEC) or not all(_is_sane(spec[key], kind) for key, kind in _SPEC.items()):
        raise InputError(f"checkpoint={path}: `spec` must hold {', '.join(_SPEC)}: names, and numbers from 1 to "
                         f"{_MAX_SIZE}; got {brief(spec)}")
    wanted = layout.name if isinstance(layout, Layout) else layout
    for field, expected in (("name", name), ("layout", wanted)):
        if expected is not None and spec[field] != expected:
            kind = "encoder" if field == "name" else field
            raise InputError(f"checkpoint={path}: is for {kind} {spec[field]!r}, but {expected!r} is wanted")
    arguments = {**spec, "layout": layout if isinstance(layout, Layout) else spec["layout"]}
    with torch.device("meta"):  # nothing large is allocated for weights that do not fit
        _check_fit(encoders.build(**arguments), weights, str(path))
    encoder = encoders.build(**arguments)
    encoder.load_state_dict(weights)
    return encoder.eval(), {key: value for key, value in contents.items() if key != "encoder"}


def load_pyskl(encoder: Encoder, source: str | Path | Mapping[str, Any]) -> ImportReport:
    """Copy weights of PYSKL, MMAction2 or an original repository (a file, or its state dict) into ``encoder``.

    The classification head is left aside. Raises InputError, and leaves the encoder as it was, for a missing or unknown
    key or a shape that differs.
    """
    encoder.pyskl_keys()  # an encoder that the reference lacks is the first thing to say
    contents, where = (source, "state dict") if isinstance(source, Mapping) else (
        load(source, foreign.STAND_INS), str(source))
    return foreign.fill(encoder, foreign.parse(contents, where))


def _is_sane(value: object, kind: type) -> bool:
    """Whether a value of a spec is of that type and of no absurd size."""
    return type(value) is kind and (len(value) <= _MAX_LETTERS if isinstance(value, str) else
                                    isinstance(value, int) and 1 <= value <= _MAX_SIZE)


def _check_fit(encoder: Encoder, weights: Mapping[Any, Any], where: str) -> None:
    """Raise InputError unless keys and shapes of ``weights`` are the encoder's."""
    own = encoder.state_dict()
    wrong = [key for key in weights if not isinstance(key, str)] or sorted(set(own).symmetric_difference(weights))
    if wrong:
        raise InputError(f"checkpoint={where}: {len(wrong)} keys are not those of {encoder.name}, such as "
                         f"{brief(wrong[0])}")
    for key, value in weights.items():
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != tuple(own[key].shape):
            raise InputError(f"checkpoint={where}: {key} is {brief(shape)}, but {encoder.name} for layout "
                             f"{encoder.layout.name} has {tuple(own[key].shape)}")
        if not foreign.is_dense(value):
            raise InputError(f"checkpoint={where}: {key} is no dense tensor of numbers")


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
    """torch.save stores a checksum of every tensor, but torch.load does not look at it.

    It compresses nothing, so that no honest file unpacks to more than its size.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if (any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
                    or sum(entry.file_size for entry in entries) > path.stat().st_size):
                raise zipfile.BadZipFile("it is compressed, which torch.save does not do")
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
