"""The pose shard as bytes: quantised joints and one video's block.

A shard is a deterministic POSIX ustar tar. Each block, which is one video, is two members: ``KEY.json`` (a
``Document``) and ``KEY.pose.npy``, a one-dimensional array of one record per person and frame with the fields
``xy`` (V, 2) uint16 and ``score`` (V,) uint8. A track of M persons and F frames is M * F consecutive records, all
frames of the first person first. Plain ``webdataset`` reads a shard; ``numpy.load`` reads a pose member.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from skelcore import layouts, ustar
from skelcore.errors import InputError
from skelcore.layouts import Layout
from skelcore.sequence import PoseSequence

SCHEMA = 1
# Joints may leave the frame by a quarter of it; xy codes 0..65535 span LOW..LOW + SPAN of the width and the height.
LOW, SPAN, TOP = -0.25, 1.5, 65535
_KEY = re.compile(r"[A-Za-z0-9_-]{1,90}")  # 90 and ".pose.npy" fit the 100 characters of a ustar name
_JSON, _POSE = ".json", ".pose.npy"
_NUMBERS = 2**24  # float32, in which the index keeps quality, holds whole numbers exactly up to here
# numpy reads an npy header as Python source.
_BAD_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Block:
    """All tracks of one video.

    ``key`` names it ([A-Za-z0-9_-], at most 90 characters); ``sequences`` share layout, fps and size, and their
    ``meta["start"]`` is the time of the first frame in seconds; ``quality`` holds one dict of numbers a sequence;
    ``source`` is free (url, licence, ...) but for ``label`` and ``split``, which are strings when given;
    ``provenance`` names what made the poses (model and config hashes).
    """

    key: str
    sequences: list[PoseSequence]
    quality: list[dict[str, Any]]
    source: dict[str, Any]
    provenance: dict[str, Any]


class Track(BaseModel):
    """One track in ``KEY.json``: records ``offset`` to ``offset + persons * frames`` of the pose member."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offset: NonNegativeInt
    frames: PositiveInt
    persons: PositiveInt
    start: FiniteFloat = Field(description="seconds from the video's beginning to the first frame")
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat] | None = Field(
        description="x1 y1 x2 y2 around the seen joints over all frames, in pixels")
    quality: dict[str, Any]
    sha: str = Field(pattern="^[0-9a-f]{64}$", description="sha256 of the records")


class Document(BaseModel):
    """What ``KEY.json`` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int
    layout: str
    fps: PositiveFloat | None
    size: tuple[PositiveInt, PositiveInt] | None = Field(description="height and width of the frame in pixels")
    tracks: list[Track] = Field(min_length=1)
    source: dict[str, Any]
    provenance: dict[str, Any]


class Entry(NamedTuple):
    """A block found in a tar; offsets and sizes are bytes, ``pose_offset`` that of the first record."""

    key: str
    document: Document
    json_offset: int
    json_size: int
    records: np.ndarray
    pose_offset: int


def record_type(joints: int) -> np.dtype:
    """One person in one frame: 5 bytes a joint, packed."""
    return np.dtype([("xy", "<u2", (joints, 2)), ("score", "u1", (joints,))])


def extent(size: tuple[int, int] | None) -> np.ndarray:
    """Width and height (2,) that a fraction of the frame is multiplied with; 1 for normalised coordinates."""
    return np.array([1, 1] if size is None else [size[1], size[0]], np.float32)


def quantise(keypoints: np.ndarray, scores: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Records (...) of keypoints (..., V, 2) and scores (..., V); a joint beyond the margin becomes missing.

    A clipped coordinate would be false data, and a seen joint must not turn missing by rounding: positive scores
    become at least 1 / 255.
    """
    fraction = keypoints.astype(np.float64) / extent(size)
    inside = ((fraction >= LOW) & (fraction <= LOW + SPAN)).all(-1) & (scores > 0)
    records = np.zeros(keypoints.shape[:-2], record_type(keypoints.shape[-2]))
    records["xy"] = np.where(inside[..., None], np.rint((fraction - LOW) * (TOP / SPAN)), 0)
    records["score"] = np.where(inside, np.maximum(np.rint(scores * 255), 1), 0)
    return records


def dequantise(records: np.ndarray, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (..., V, 2) and scores (..., V) float32 of records (...); missing joints are 0."""
    scale = extent(size)
    keypoints = records["xy"] * (scale * np.float32(SPAN / TOP)) + scale * np.float32(LOW)
    keypoints[records["score"] == 0] = 0
    return keypoints, records["score"] / np.float32(255)


def encode(block: Block) -> tuple[bytes, bytes]:
    """The bytes of ``KEY.json`` and ``KEY.pose.npy``; raises InputError for a block that the format cannot hold."""
    layout = _check(block)
    first = block.sequences[0]
    parts = [quantise(sequence.keypoints, sequence.scores, first.size).reshape(-1) for sequence in block.sequences]
    offsets = np.cumsum([0, *map(len, parts)])
    try:
        tracks = [
            Track(offset=int(offset), frames=sequence.frames, persons=sequence.persons,
                  start=float(sequence.meta.get("start", 0.0)), box=_box(records, first.size), quality=dict(quality),
                  sha=hashlib.sha256(records.tobytes()).hexdigest())
            for sequence, quality, records, offset in zip(block.sequences, block.quality, parts, offsets, strict=False)
        ]
        document = Document(schema_version=SCHEMA, layout=layout.name, fps=first.fps and float(first.fps),
                            size=first.size and (int(first.size[0]), int(first.size[1])), tracks=tracks,
                            source=block.source, provenance=block.provenance)
        text = json.dumps(document.model_dump(), sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    except ValidationError as error:
        raise InputError(f"block {block.key}: {one_line(error)}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"block {block.key}: quality, source or provenance is not plain JSON: {error}") from None
    pose = io.BytesIO()
    np.save(pose, np.concatenate(parts), allow_pickle=False)
    return text.encode(), pose.getvalue()


def decode(entry: Entry) -> Block:
    """The block of a tar entry, its joints dequantised."""
    document, layout = entry.document, layouts.get(entry.document.layout)
    told = [track.quality.get("track") for track in document.tracks]
    known = [each if isinstance(each, int | float) and 0 <= each < _NUMBERS else np.nan for each in told]
    numbers = track_numbers(np.array(known, np.float32), np.zeros(len(told), np.int64))
    sequences = []
    for number, track in zip(numbers.tolist(), document.tracks, strict=True):
        records = entry.records[track.offset:track.offset + track.persons * track.frames]
        keypoints, scores = dequantise(records.reshape(track.persons, track.frames), document.size)
        sequences.append(PoseSequence(keypoints, scores, layout, document.size, document.fps,
                                      f"{entry.key}/{number:04d}", meta={"start": track.start}))
    return Block(entry.key, sequences, [track.quality for track in document.tracks], document.source,
                 document.provenance)


def track_numbers(told: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Numbers (n,) int64 by which tracks of ``block`` (n,), which does not fall, are known in their videos.

    ``told`` (n,) is what their quality calls ``track``, NaN where it does not: it stays what it is when tracks come and
    go. Where it is not rising whole numbers throughout a block, positions in the block take its place.
    """
    good = (told >= 0) & (told < _NUMBERS) & (told == np.floor(told))
    good[1:] &= (np.diff(told) > 0) | (np.diff(block) > 0)
    bad = np.bincount(block, ~good) > 0
    position = np.arange(len(block)) - np.searchsorted(block, block)
    return np.where(bad[block], position, told).astype(np.int64)


def member_names(key: str) -> tuple[str, str]:
    return key + _JSON, key + _POSE


def walk(file: IO[bytes], name: str, limit: int) -> Iterator[Entry]:
    """The blocks of a tar of at most ``limit`` bytes, front to back; ``file`` need not seek.

    Raises InputError for a member that is not a regular file called KEY.json or KEY.pose.npy, for a truncated or
    damaged tar, and for documents and arrays that contradict the format.
    """
    pending: tuple[str, bytes, int] | None = None
    for member, offset, data in ustar.members(file, name, limit):
        stem, dot, extension = member.partition(".")
        if not _KEY.fullmatch(stem) or dot + extension not in (_JSON, _POSE):
            raise InputError(f"{name}: refused member {member!r}; a pose shard holds KEY.json and KEY.pose.npy only")
        if (pending is None) != (dot + extension == _JSON) or (pending is not None and pending[0] != stem):
            raise InputError(f"{name}: member {member!r} is not in a pair of KEY.json and KEY.pose.npy")
        if pending is None:
            pending = (stem, data, offset)
            continue
        document = parse(pending[1], f"{name}: {stem}.json")
        records, header = _load_pose(data, document, f"{name}: {member}")
        yield Entry(stem, document, pending[2], len(pending[1]), records, offset + header)
        pending = None
    if pending is not None:
        raise InputError(f"{name}: {pending[0]}.json has no {pending[0]}.pose.npy; the tar is truncated")


def parse(data: bytes, name: str) -> Document:
    """The document in the bytes of a ``KEY.json``; raises InputError where it departs from the schema."""
    fields = load_json(data, name)
    check_version(fields, name)
    try:
        document = Document.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{name}: {one_line(error)}") from None
    for field in ("label", "split"):
        if not isinstance(document.source.get(field, ""), str):
            raise InputError(f"{name}: source.{field} must be a string")
    layouts.get(document.layout)
    return document


def load_json(data: bytes, name: str) -> object:
    """What those bytes of JSON mean; raises InputError when they are not JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: not JSON ({error}); fetch or harvest the shard again") from None


def check_version(fields: object, name: str) -> None:
    """Raise InputError unless this release reads the schema version that a JSON object declares."""
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version != SCHEMA or isinstance(version, bool):
        raise InputError(f"{name}: schema_version is {version!r}, but this release reads {SCHEMA} only; "
                         "use the release that wrote it, or harvest again")


def one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _check(block: Block) -> Layout:
    name = f"block {block.key!r}"
    if not _KEY.fullmatch(block.key):
        raise InputError(f"{name}: a key is 1 to 90 characters of [A-Za-z0-9_-]")
    if not block.sequences or len(block.quality) != len(block.sequences):
        raise InputError(f"{name}: {len(block.sequences)} sequences and {len(block.quality)} quality dicts; "
                         "needed: at least one, and as many of both")
    first = block.sequences[0]
    for sequence in block.sequences:
        if (sequence.layout, sequence.fps, sequence.size) != (first.layout, first.fps, first.size):
            raise InputError(f"{name}: sequences differ in layout, fps or size")
        if sequence.keypoints.shape[-1] != 2 or 0 in sequence.scores.shape:
            raise InputError(f"{name}: keypoints {sequence.keypoints.shape}; shards hold at least one frame of "
                             "(persons, frames, joints, 2)")
    if layouts.LAYOUTS.get(first.layout.name) != first.layout:
        raise InputError(f"{name}: layout {first.layout.name!r} is not one of {', '.join(layouts.LAYOUTS)}")
    for field in ("label", "split"):
        if not isinstance(block.source.get(field, ""), str):
            raise InputError(f"{name}: source[{field!r}] must be a string")
    return first.layout


def _box(records: np.ndarray, size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
    keypoints, scores = dequantise(records, size)
    seen = keypoints[scores > 0].astype(np.float64)
    if not len(seen):
        return None
    x1, y1, x2, y2 = np.round([*seen.min(0), *seen.max(0)], 5 if size is None else 2).tolist()
    return x1, y1, x2, y2


def _plain(value: object) -> object:
    """Numpy scalars and arrays as JSON knows them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def _load_pose(data: bytes, document: Document, name: str) -> tuple[np.ndarray, int]:
    """The records of a pose member and the size of its npy header."""
    kind = record_type(len(layouts.get(document.layout)))
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"npy version {version}")
        shape, _, found = np.lib.format.read_array_header_1_0(file)
    except _BAD_HEADER as error:
        reason = ascii(" ".join(str(error).split())[:200])[1:-1] or type(error).__name__
        raise InputError(f"{name}: not a pose array: {reason}") from None
    header = file.tell()
    if found != kind or len(shape) != 1 or shape[0] * kind.itemsize != len(data) - header:
        raise InputError(f"{name}: holds {shape} records of {found}, but layout {document.layout} needs {kind}")
    for number, track in enumerate(document.tracks):
        if track.offset + track.persons * track.frames > shape[0]:
            raise InputError(f"{name}: track {number} reaches beyond the {shape[0]} records")
    return np.frombuffer(data, kind, offset=header), header
