"""Annotation files of the field -> pose sequences: PYSKL pickles, and folders of NTU ``.skeleton`` files.

A PYSKL pickle is ``{"split": {name: [id]}, "annotations": [record]}``, a list of records, or one record; a record has
``frame_dir`` (or ``filename``), ``keypoint`` (M, T, V, C) and perhaps ``keypoint_score`` (M, T, V), ``label``,
``img_shape`` (height, width). Ours add two keys that other readers ignore: ``layout`` on top and ``fps`` in a record.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
import numpy as np

from skelcore import ntu, unpickle
from skelcore import records as checks
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, write_text
from skelcore.layouts import LAYOUTS, Layout
from skelcore.layouts import get as get_layout
from skelcore.progress import Progress
from skelcore.remote import missing, reaching
from skelcore.sequence import PoseSequence

_MAX_FLOAT16 = 65504


@dataclass(frozen=True)
class Annotations:
    """A store over records kept as they were read, float16 for the published files; see ``skelcore.store.Store``.

    ``skipped`` gives the reason for every record that holds no pose; those are in no split.
    """

    records: Sequence[Mapping[str, Any]]
    layout: Layout
    channels: int
    ids: Sequence[str]
    labels: np.ndarray
    classes: Sequence[str]
    splits: dict[str, list[str]]
    fingerprint: str
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> Sequence[str]:
        return self.ids

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> PoseSequence:
        record = self.records[index]
        keypoints = np.asarray(record["keypoint"], np.float32)
        scores = record.get("keypoint_score")
        if scores is None:
            scores = np.any(keypoints != 0, -1)  # the field pads missing joints and persons with zeros
        label, fps = int(self.labels[index]), record.get("fps")
        return PoseSequence(keypoints, np.asarray(scores, np.float32), self.layout, size=checks.size(record),
                            fps=None if fps is None else float(fps), id=self.ids[index],
                            label=label if label >= 0 else None)


def read(path: str | Path, layout: str | Layout | None = None) -> Annotations:
    """Open a PYSKL pickle (a path or any fsspec URL), or a local folder of NTU ``.skeleton`` files.

    The layout is ``layout``, else what the file says, else what the number of joints and coordinates tells. Class
    names come from ``<stem>_classes.json`` (a list of names) beside the file where there is one, else they are numbers.
    Raises InputError that names the file and the record for anything that cannot be believed.
    """
    path = str(path)
    if Path(path).is_dir():
        return _read_ntu(Path(path), layout)
    with _opened(path) as file:
        content = unpickle.load(cast(BinaryIO, file), path)
        while file.read(1 << 20):  # what follows the pickle is part of the fingerprint
            pass
        fingerprint = file.sha256.hexdigest()
    records, splits, stated = _take_apart(content, path)
    ids = checks.ids(records, path)
    skipped = {name: "no person or no frame" for name, record in zip(ids, records, strict=True)
               if 0 in checks.shape(record, name, path)[:2]}
    keep = [i for i, name in enumerate(ids) if name not in skipped]
    if not keep:
        raise InputError(f"{path}: no record holds a pose")
    records, ids = [records[i] for i in keep], [ids[i] for i in keep]
    splits = checks.check_splits(splits, ids, skipped, path)
    found = checks.layout(records, ids, path, layout or stated)
    labels = np.array([checks.label(record, name, path) for record, name in zip(records, ids, strict=True)], np.int64)
    channels = records[0]["keypoint"].shape[3]
    return Annotations(records, found, channels, ids, labels, _classes(path, labels), splits, fingerprint, skipped)


def write_pyskl(path: str | Path, sequences: Sequence[PoseSequence], splits: Mapping[str, Sequence[str]],
                classes: Sequence[str] | None = None) -> None:
    """Write sequences as a PYSKL pickle, and class names as ``<stem>_classes.json`` beside it.

    Coordinates become float16, which is 0.25 px at 512 px and 1 px at 2048 px. As everywhere in the field, 3D records
    have no scores, so a joint of theirs is missing where its coordinates are all 0. Raises InputError for mixed
    layouts, repeated ids, split ids without a sequence, and coordinates beyond float16.
    """
    path, sequences = Path(path), list(sequences)
    if not sequences:
        raise InputError(f"{path}: no sequences to write")
    ids, where = [sequence.id for sequence in sequences], str(path)
    checks.check_unique(ids, where)
    layout, channels = sequences[0].layout, sequences[0].keypoints.shape[-1]
    for sequence in sequences:
        if sequence.layout != layout or sequence.keypoints.shape[-1] != channels:
            raise InputError(f"{path}: sequence {sequence.id!r} is {sequence.layout.name} with "
                             f"{sequence.keypoints.shape[-1]} coordinates, others are {layout.name} with {channels}")
    annotations = [_record(sequence, where) for sequence in sequences]
    split = checks.check_splits(splits, ids, {}, where)
    if classes is not None:
        write_text(_classes_path(where), json.dumps(list(classes)))
    with atomic(path) as file:
        pickle.dump({"split": split, "annotations": annotations, "layout": layout.name}, file, protocol=4)


def _read_ntu(folder: Path, layout: str | Layout | None) -> Annotations:
    if layout is not None and get_layout(layout) != LAYOUTS["ntu25"]:
        raise InputError(f"{folder}: .skeleton files are in layout ntu25, not {get_layout(layout).name}")
    files = sorted(folder.glob("*.skeleton"))
    if not files:
        raise InputError(f"{folder}: a folder without .skeleton files")
    names = {file.stem: ntu.parse_name(file.stem) for file in files}
    records: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    sha256 = hashlib.sha256()
    with Progress(len(files), "files") as progress:
        for file in files:
            content = file.read_bytes()
            sha256.update(f"{file.name} {len(content)}\n".encode() + content)
            keypoints = ntu.read_keypoints(content.decode("utf-8", "replace"), str(file))
            if keypoints is None:
                skipped[file.stem] = "no body in any frame, or noise only"
            else:
                records[file.stem] = {"keypoint": keypoints.astype(np.float16), "fps": ntu.FPS}
            progress.update()
    if not records:
        raise InputError(f"{folder}: no file holds a body")
    ids = list(records)
    labels = np.array([names[name].action for name in ids], np.int64)
    classes = [f"A{action + 1:03d}" for action in range(60 if labels.max() < 60 else max(120, labels.max() + 1))]
    return Annotations(list(records.values()), LAYOUTS["ntu25"], 3, ids, labels, classes, ntu.splits(ids),
                       sha256.hexdigest(), skipped)


class _HashedFile:
    """A file that hashes what is read from it in passing, so that a large one is read once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data

    def readline(self) -> bytes:
        line = self._file.readline()
        self.sha256.update(line)
        return line

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)


def _open(path: str) -> Any:
    files, inner = fsspec.core.url_to_fs(path)  # fsspec.open would take the ? of a query for a wildcard
    return files.open(inner, "rb")


@contextmanager
def _opened(path: str) -> Iterator[_HashedFile]:
    with reaching(path), _open(path) as file:
        yield _HashedFile(file)


def _take_apart(content: Any, path: str) -> tuple[list[dict[str, Any]], dict[str, Any], str | None]:
    """Records, splits and stated layout of the three forms of a file."""
    splits: Any = {}
    stated: Any = None
    if isinstance(content, dict) and "annotations" in content:
        splits, stated = content.get("split") or {}, content.get("layout")
        records = content["annotations"]
    else:
        records = [content] if isinstance(content, dict) else content
    if not isinstance(records, (list, tuple)) or not all(isinstance(record, dict) for record in records):
        raise InputError(f"{path}: expected {{'split', 'annotations'}}, a list of records, or one record")
    if not isinstance(splits, dict):
        raise InputError(f"{path}: 'split' must map names to lists of ids")
    if stated is not None and not isinstance(stated, str):
        raise InputError(f"{path}: 'layout' must be a name")
    if not records:
        raise InputError(f"{path}: no annotations")
    return list(records), splits, stated


def _classes_path(path: str) -> str:
    if "://" in path:  # what follows the path of a URL, such as a token, stays
        url = urlsplit(path)
        return url._replace(path=_classes_path(url.path)).geturl() if url.path else path
    stem = PurePosixPath(path).stem
    return path[:len(path) - len(PurePosixPath(path).name)] + f"{stem}_classes.json"


def _classes(path: str, labels: np.ndarray) -> list[str]:
    sidecar, count = _classes_path(path), int(labels.max()) + 1
    try:
        with _open(sidecar) as file:
            names = json.loads(file.read())
    except FileNotFoundError as error:
        # A bucket that does not list its files answers 403 for one that is absent.
        if missing(error) or getattr(error.__cause__, "status", None) == 403:
            return [str(i) for i in range(count)]
        raise RunError(f"{sidecar}: cannot be read: {' '.join(str(error.__cause__).split())}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{sidecar}: cannot be read as a JSON list of class names ({error})") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{sidecar}: must be a JSON list of class names")
    if len(names) < count:
        raise InputError(f"{sidecar}: {len(names)} class names, but {path} has label {count - 1}")
    return names


def _record(sequence: PoseSequence, path: str) -> dict[str, Any]:
    if np.abs(sequence.keypoints).max(initial=0) > _MAX_FLOAT16:
        raise InputError(f"{path}: sequence {sequence.id!r} has coordinates beyond float16")
    record: dict[str, Any] = {"frame_dir": sequence.id, "total_frames": sequence.frames,
                              "keypoint": sequence.keypoints.astype(np.float16)}
    if sequence.keypoints.shape[-1] == 2:
        record["keypoint_score"] = sequence.scores.astype(np.float16)
    if sequence.label is not None:
        record["label"] = int(sequence.label)
    if sequence.size is not None:
        record["img_shape"] = record["original_shape"] = (int(sequence.size[0]), int(sequence.size[1]))
    if sequence.fps is not None:
        record["fps"] = float(sequence.fps)
    return record
