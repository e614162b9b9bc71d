"""What a PYSKL record must be: ids, shapes, sizes, labels and splits, checked before anything believes them.

Every function raises InputError that names the file (``path``), the record and the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from skelcore.errors import InputError
from skelcore.layouts import LAYOUTS, Layout
from skelcore.layouts import get as get_layout

# What a shape says about the layout: the (V, C) for which the field uses only one.
_BY_SHAPE = {(17, 2): "coco17", (18, 2): "openpose18", (13, 2): "penn13", (15, 2): "jhmdb15", (25, 3): "ntu25",
             (20, 3): "kinect20", (33, 2): "mediapipe33", (33, 3): "mediapipe33", (21, 2): "hand21", (21, 3): "hand21"}


def ids(records: Sequence[Mapping[str, Any]], path: str) -> list[str]:
    """The id of every record; no two are equal."""
    # As in the reference reader, the first record decides which key is the id.
    key = "filename" if "filename" in records[0] else "frame_dir"
    names = []
    for position, record in enumerate(records):
        name = record.get(key)
        if not isinstance(name, str):
            raise InputError(f"{path}: record {position} has no {key!r}")
        names.append(name)
    check_unique(names, path)
    return names


def check_unique(names: Sequence[str], path: str) -> None:
    """Refuse a repeated id."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path}: two records have the id {name!r}")
        seen.add(name)


def check_splits(splits: Mapping[str, Any], names: Sequence[str], skipped: Mapping[str, str],
                 path: str) -> dict[str, list[str]]:
    """The splits without the skipped records, when every id in them has a record."""
    known, checked = {*names, *skipped}, {}
    for split, members in splits.items():
        if not isinstance(split, str) or not isinstance(members, (list, tuple, set, frozenset, np.ndarray)):
            raise InputError(f"{path}: 'split' must map names to lists of ids")
        unordered = isinstance(members, (set, frozenset))
        listed = [str(name) for name in (sorted(members, key=str) if unordered else members)]
        missing = next((name for name in listed if name not in known), None)
        if missing is not None:
            raise InputError(f"{path}: split {split!r} names {missing!r}, which has no record")
        checked[str(split)] = [name for name in dict.fromkeys(listed) if name not in skipped]
    return checked


def shape(record: Mapping[str, Any], name: str, path: str) -> tuple[int, int, int, int]:
    """M, T, V, C of a record, once its arrays are found to be what they should be."""
    keypoints, scores = record.get("keypoint"), record.get("keypoint_score")
    if keypoints is None and ("valid" in record or "raw_file" in record):
        raise InputError(f"{path}: record {name!r} has no keypoints, only a reference to a file of them; "
                         "make arrays of these with skelcore.kinetics.decompress")
    if not isinstance(keypoints, np.ndarray) or keypoints.ndim != 4 or keypoints.dtype.kind not in "fiu":
        raise InputError(f"{path}: record {name!r}: 'keypoint' must be a numeric array (M, T, V, C)")
    if keypoints.shape[3] not in (2, 3):
        raise InputError(f"{path}: record {name!r}: 'keypoint' must have 2 or 3 coordinates, not {keypoints.shape[3]}")
    if scores is not None and (not isinstance(scores, np.ndarray) or scores.shape != keypoints.shape[:3]
                               or scores.dtype.kind not in "fiub"):
        raise InputError(f"{path}: record {name!r}: 'keypoint_score' must be a numeric array {keypoints.shape[:3]}")
    size(record, f"{path}: record {name!r}")
    fps = record.get("fps")
    if fps is not None and not (isinstance(fps, (int, float, np.number)) and 0 < fps < 1e4):
        raise InputError(f"{path}: record {name!r}: 'fps' must be a positive number")
    return cast(tuple[int, int, int, int], keypoints.shape)


def size(record: Mapping[str, Any], where: str = "") -> tuple[int, int] | None:
    """Height and width of the frame in pixels, where the record has them."""
    shape = record.get("img_shape")
    if shape is None:
        return None
    if not (isinstance(shape, (tuple, list, np.ndarray)) and len(shape) == 2
            and all(isinstance(n, (int, np.integer)) and n > 0 for n in shape)):
        raise InputError(f"{where}: 'img_shape' must be (height, width) in pixels")
    return int(shape[0]), int(shape[1])


def label(record: Mapping[str, Any], name: str, path: str) -> int:
    """The class number, -1 for none."""
    number = record.get("label")
    if number is None:
        return -1
    if isinstance(number, np.ndarray) and number.size == 1:
        number = number.reshape(()).item()
    if not isinstance(number, (int, np.integer)) or not -1 <= number < 1 << 31:
        raise InputError(f"{path}: record {name!r}: 'label' must be one class number")
    return int(number)


def layout(records: Sequence[Mapping[str, Any]], names: Sequence[str], path: str,
           named: str | Layout | None) -> Layout:
    """The layout named, or the one that the joints tell, when it fits every record."""
    joints, channels = records[0]["keypoint"].shape[2:]
    for record, name in zip(records, names, strict=True):
        if record["keypoint"].shape[2:] != (joints, channels):
            raise InputError(f"{path}: record {name!r} has {record['keypoint'].shape[2]} joints of "
                             f"{record['keypoint'].shape[3]} coordinates, record {names[0]!r} {joints} of {channels}")
    if named is None:
        named = _BY_SHAPE.get((joints, channels))
        if named is None:
            raise InputError(f"{path}: {joints} joints of {channels} coordinates do not tell the layout; give layout=, "
                             f"one of {', '.join(LAYOUTS)}")
    try:
        found = get_layout(named)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if len(found) != joints:
        raise InputError(f"{path}: {joints} joints, but layout {found.name} has {len(found)}")
    return found
