"""The monitor: a harvest's figures while it runs, on the progress line and on TensorBoard."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from harvest.ledger import Entry
from harvest.tally import Tally
from skelcore.page import printable
from skelcore.progress import Progress

_MOST_REASONS = 3
_MOST_HOSTS = 2


class Monitor:
    """Follows one run over a plan of ``total`` sources, ``done`` of which were settled before; figures are the run's.

    Every ``every_seconds`` it adds to an event file in ``folder``, which any TensorBoard reads: ``harvest/videos``,
    ``hours`` of video, ``people`` (tracks kept), ``frames_per_second`` since the figures before, ``workers``,
    ``fetching``, ``paused_hosts`` and ``driver_megabytes``, and ``failures/REASON``, against the number of settled
    sources. A run that settles nothing leaves no file.
    """

    def __init__(self, folder: Path, total: int, done: int = 0, every_seconds: float = 10.0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.tally = Tally()
        self._folder, self._every, self._clock = folder, every_seconds, clock
        self._progress = Progress(total, "videos", done, every_seconds)
        self._started = self._written = clock()
        self._written_frames = 0
        self._workers, self._fetching = 0, 0
        self._paused: Sequence[str] = ()
        self._board: Any = None

    def settled(self, entry: Entry) -> None:
        """A source has come to its end."""
        self.tally.add(entry)
        self._progress.update(1, **self._figures())
        self._write_if_due()

    def state(self, active_workers: int, fetching: int, paused_hosts: Sequence[str]) -> None:
        """What the driver is at: workers that estimate, sources being fetched, and hosts that are left alone."""
        self._workers, self._fetching, self._paused = active_workers, fetching, paused_hosts
        if self._progress.count < self._progress.total:
            # Where every host is paused nothing is settled for long, and the line must say so.
            self._progress.update(0, **self._figures())
        self._write_if_due()

    def run(self) -> dict[str, float]:
        """The rates of the run so far."""
        seconds = max(self._clock() - self._started, 1e-9)
        return {"videos": self.tally.settled, "frames": self.tally.frames, "seconds": round(seconds, 1),
                "videos_per_second": round(self.tally.settled / seconds, 4),
                "frames_per_second": round(self.tally.frames / seconds, 2),
                "hours_of_video_per_hour": round(self.tally.seconds / seconds, 3)}

    def close(self) -> None:
        """Write the last figures."""
        self._progress.close()
        if self.tally.settled:
            self._write()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _figures(self) -> dict[str, str | float]:
        tally = self.tally
        figures: dict[str, str | float] = {
            "hours": tally.seconds / 3600, "people": tally.tracks,
            "frames/s": tally.frames / max(self._clock() - self._started, 1e-9)}
        if tally.failed:
            most = tally.failed.most_common(_MOST_REASONS)
            figures["failed"] = " ".join(f"{reason} {count}" for reason, count in most)
        if self._paused:
            named = printable(" ".join(self._paused[:_MOST_HOSTS]))
            figures["paused"] = f"{named} and {more} more" if (more := len(self._paused) - _MOST_HOSTS) > 0 else named
        return figures

    def _write_if_due(self) -> None:
        if self.tally.settled and self._clock() - self._written >= self._every:
            self._write()

    def _write(self) -> None:
        # Record by record, here: torch's writer would load torch into a process that has no other use for it, and the
        # thread of TensorBoard's would tell of a full disk in a traceback of its own.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._board is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            self._board = RecordWriter((self._folder / name).open("xb"))
            self._board.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in self._scalars().items()]
        event = Event(wall_time=time.time(), step=self._progress.count, summary=Summary(value=values))
        self._board.write(event.SerializeToString())
        self._board.flush()

    def _scalars(self) -> dict[str, float]:
        tally, now = self.tally, self._clock()
        rate = (tally.frames - self._written_frames) / max(now - self._written, 1e-9)
        self._written, self._written_frames = now, tally.frames
        return {"harvest/videos": tally.settled, "harvest/hours": tally.seconds / 3600, "harvest/people": tally.tracks,
                "harvest/frames_per_second": rate, "harvest/workers": self._workers,
                "harvest/fetching": self._fetching, "harvest/paused_hosts": len(self._paused),
                "harvest/driver_megabytes": resident_bytes() / 1e6,
                **{f"failures/{reason}": count for reason, count in tally.failed.items()}}

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
