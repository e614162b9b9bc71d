"""Frames of a video at a fixed rate, by presentation timestamp, in small chunks."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from harvest.reasons import VideoError

# Containers that point at other files or hosts.
_INDIRECT = {"hls", "dash", "concat", "imf", "sdp", "rtsp"}
_LONGEST_STILL = 10.0
_REORDER = 8
_MOST_BAD_PACKETS = 0.1
_WIDEST = 16384
# Seconds before a clip from which it is quicker to seek than to decode.
_WORTH_A_SEEK = 2.0


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames: ``frames`` (B, h, w, 3) uint8 RGB, the first of which is tick number ``first``.

    ``rate`` ticks a second; ``size`` (height, width) of the video as displayed; ``scale`` = ``size`` over (h, w).
    """

    frames: np.ndarray
    first: int
    rate: float
    size: tuple[int, int]
    scale: tuple[float, float]


class _Window(NamedTuple):
    """The seconds of the video that are wanted, and how many may be."""

    start: float
    end: float
    most: float


class _Shapes(NamedTuple):
    """(height, width) as displayed and as converted, both before rotation."""

    full: tuple[int, int]
    small: tuple[int, int]


def chunks(path: str | Path, fps: float, short_side: int = 720, max_seconds: float = float("inf"),
           length: int = 16, clip: tuple[float, float] | None = None) -> Iterator[Chunk]:
    """Decode ``path`` to ``fps`` frames a second, each tick showing the frame nearest to it in time.

    A video that is slower keeps its own rate: repeated frames would be invented observations. Rotation and
    non-square pixels are applied; frames whose short side exceeds ``short_side`` are scaled down to it. ``clip`` is
    the first second and the one before which to stop (inf: the end), counted from the first frame of the video; tick 0
    is then the clip's first, and ``max_seconds`` limits the clip. Raises VideoError (missing, unreadable, empty,
    corrupt, audio_only, too_long, invalid), ValueError for a clip that is no stretch of time.
    """
    start, end = (0.0, float("inf")) if clip is None else clip
    if not 0 <= start < end:
        raise ValueError(f"clip {start:g} to {end:g} s: it must begin at 0 or later and end after that")
    window = _Window(start, end, max_seconds)
    with _opened(Path(path)) as container:
        stream = _video_stream(container)
        declared = _declared_seconds(container, stream)
        if min(declared, end) - start > max_seconds:
            raise VideoError("too_long", f"{min(declared, end) - start:.0f} s, more than {max_seconds:g} s")
        stream.thread_count = 1
        rate = _rate(stream, fps)
        frames = _frames(container, stream, declared, start)
        yield from _batched(_ticks(frames, rate, window), rate, _shapes(stream, short_side), length)


def _opened(path: Path) -> av.container.InputContainer:
    if not path.is_file():
        raise VideoError("missing", f"{path.name} is not there")
    try:
        if path.stat().st_size == 0:
            raise VideoError("empty")
        container = av.open(str(path), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except PermissionError as error:
        raise VideoError("unreadable", _words(error)) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError("corrupt", f"cannot be opened: {_words(error)}") from None
    if _INDIRECT & set(container.format.name.split(",")):
        container.close()
        raise VideoError("invalid", f"a {container.format.name} playlist, not a video")
    return container


def _batched(ticks: Iterator[tuple[int, VideoFrame]], rate: float, shapes: _Shapes, length: int) -> Iterator[Chunk]:
    pictures: list[np.ndarray] = []
    last: tuple[VideoFrame, np.ndarray] | None = None
    turns: int | None = None
    first = 0
    for tick, frame in ticks:
        if turns is None:
            turns = round(frame.rotation / 90) % 4
        if last is None or last[0] is not frame:
            height, width = shapes.small
            # One thread: handing slices to a pool takes longer than the conversion when the cores are busy.
            picture = frame.reformat(width, height, format="rgb24", threads=1).to_ndarray()
            last = frame, np.rot90(picture, turns)
        pictures.append(last[1])
        if len(pictures) == length:
            yield _chunk(pictures, first, rate, shapes, turns)
            pictures, first = [], tick + 1
    if pictures and turns is not None:
        yield _chunk(pictures, first, rate, shapes, turns)


def _chunk(pictures: list[np.ndarray], first: int, rate: float, shapes: _Shapes, turns: int) -> Chunk:
    small, full = (shape[::-1] if turns % 2 else shape for shape in (shapes.small, shapes.full))
    return Chunk(np.stack(pictures), first, rate, full, (full[0] / small[0], full[1] / small[1]))


def _ticks(frames: Iterator[tuple[float, VideoFrame]], rate: float,
           window: _Window) -> Iterator[tuple[int, VideoFrame]]:
    """Pair each tick k / rate of the window with the frame nearest to it."""
    tick = 0
    previous: VideoFrame | None = None
    before = step = 0.0
    for time, frame in frames:
        time -= window.start
        if previous is not None:
            step = time - before
            while tick / rate < before + step / 2:
                if tick / rate >= window.end - window.start:
                    return
                yield tick, previous
                tick += 1
        if time > window.most:
            raise VideoError("too_long", f"more than {window.most:g} s")
        previous, before = frame, time
    if previous is None:
        raise VideoError("corrupt", "no frame could be decoded")
    if before + max(step, 0.5 / rate) <= 1e-6:
        raise VideoError("invalid", f"the clip starts at {window.start:g} s, and the video ends before that")
    while (tick == 0 or tick / rate < before + step / 2) and tick / rate < window.end - window.start:
        yield tick, previous
        tick += 1


def _frames(container: av.container.InputContainer, stream: VideoStream,
            declared: float, start: float) -> Iterator[tuple[float, VideoFrame]]:
    """Frames in order of presentation with the seconds since the video's first one, which never decrease.

    They begin with the first, or with a later one that is not after ``start``.

    The decoder's order is right, but containers without presentation times (AVI with B-frames) make it permute the
    stamps: these are sorted over a short window. A clock that leaps goes on at the usual pace. Raises VideoError
    where the frames end long before the ``declared`` seconds.
    """
    spacing = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    waiting: deque[VideoFrame] = deque()
    stamps: list[float] = []
    origin, decoded = _from(container, stream, start)
    newest, offset, last = -spacing, origin, 0.0
    # By the clock, leaps and all: a picture may stand still for long, so frames say little of how far a file goes.
    began, reached = origin, 0.0
    for frame in chain(decoded, [None] * _REORDER):
        if frame is not None:
            stamp = newest + spacing
            if frame.time is not None:
                if offset is None or (waiting and abs(frame.time - offset - newest) > _LONGEST_STILL):
                    offset = frame.time - stamp
                stamp = frame.time - offset
                began = frame.time if began is None else began
                reached = max(reached, frame.time - began + spacing)
            newest = max(newest, stamp)
            reached = max(reached, newest + spacing)
            waiting.append(frame)
            heapq.heappush(stamps, stamp)
        if waiting and (frame is None or len(waiting) > _REORDER):
            last = max(last, heapq.heappop(stamps))
            yield last, waiting.popleft()
    if reached < 0.5 * declared - 1:
        raise VideoError("corrupt", f"ends after {reached:.1f} of {declared:.1f} s")


def _from(container: av.container.InputContainer, stream: VideoStream,
          start: float) -> tuple[float | None, Iterator[VideoFrame | None]]:
    """The frames from a key frame before ``start`` and the clock's time of the video's first frame, if it seeks there.

    Otherwise all frames and None.
    """
    frames = _decoded(container, stream)
    if start < _WORTH_A_SEEK:
        return None, frames
    first = next(frames, None)
    if first is None or first.time is None or not stream.time_base:
        return None, chain([first] if first else [], frames)
    target = int((first.time + start) / stream.time_base)
    try:
        container.seek(target, stream=stream)
        frames = _decoded(container, stream)
        landed = next(frames, None)
        if landed is not None and landed.time is not None and landed.time <= first.time + start:
            return first.time, chain([landed], frames)
        container.seek(0)
    except av.error.FFmpegError:
        pass
    return None, _decoded(container, stream)


def _decoded(container: av.container.InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """What can be decoded, if that is most of the packets."""
    packets = bad = 0
    try:
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                bad += 1
                continue
            yield from frames
    except av.error.FFmpegError:
        bad += 1
    if bad > max(1, _MOST_BAD_PACKETS * packets):
        raise VideoError("corrupt", f"{bad} of {packets} packets cannot be decoded")


def _video_stream(container: av.container.InputContainer) -> VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or streams[0].codec_context is None:
        if container.streams.audio:
            raise VideoError("audio_only")
        raise VideoError("corrupt", "no video stream that can be decoded")
    return streams[0]


def _declared_seconds(container: av.container.InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else 0.0


def _rate(stream: VideoStream, fps: float) -> float:
    own = float(stream.average_rate or stream.guessed_rate or 0)
    return own if 1 <= own < fps else float(fps)


def _shapes(stream: VideoStream, short_side: int) -> _Shapes:
    aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    full = stream.height, max(1, round(stream.width * aspect))
    if min(full) < 1 or max(full) > _WIDEST:
        raise VideoError("corrupt", f"frames of {stream.width} x {stream.height} pixels")
    shrink = min(1.0, short_side / min(full))
    return _Shapes(full, (max(1, round(full[0] * shrink)), max(1, round(full[1] * shrink))))


def _words(error: Exception) -> str:
    """What a decoder says, without the path that it repeats."""
    return str(getattr(error, "strerror", None) or type(error).__name__)
