"""Features on disk, computed once for the same checkpoint, clips and settings."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from skelcore.files import atomic


def cached(folder: Path, key: Mapping[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array under the hash of ``key``, or ``compute()``, stored for the next time.

    The file carries the array's own sha256; a file that is damaged or of another key is computed anew and replaced,
    and a line on standard error says so.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = folder / f"{name[:32]}.npz"
    if path.exists():
        try:
            return _read(path, name)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
            print(f"warning: {path}: damaged feature cache ({error}); computing the features again", file=sys.stderr)
    features = np.ascontiguousarray(compute(), np.float32)
    with atomic(path) as file:
        np.savez(file, features=features, key=np.array(name), sha256=np.array(_digest(features)))
    return features


def _read(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as stored:
        features, key, checksum = stored["features"], str(stored["key"]), str(stored["sha256"])
    if key != name or checksum != _digest(features):
        raise ValueError("its checksum does not fit")
    return features


def _digest(features: np.ndarray) -> str:
    return hashlib.sha256(repr((features.shape, features.dtype.str)).encode() + features.tobytes()).hexdigest()
