"""Meter: how fast the loop goes, and what it waits for."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
_GIB = 1 << 30


class Meter:
    """Clips a second and shares of the time since the last ``read``.

    The clock runs while batches are iterated over by ``waited``: what is done between two epochs does not count.
    ``clips`` and ``seconds`` are totals, which a checkpoint may carry on. A GPU is never waited for step by step: read
    after something that did, such as taking the loss.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.clips, self.seconds = 0, 0.0
        self._started: float | None = None  # of the stretch of time that is not in ``seconds`` yet
        self._used, self._passed, self._waited, self._viewed = 0, 0.0, 0.0, 0.0  # since the last read
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def waited(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches; the time that each one takes to come is time spent waiting for data."""
        self._started = before = time.perf_counter()
        try:
            for batch in batches:
                self._waited += time.perf_counter() - before
                yield batch
                before = time.perf_counter()
        finally:
            self._tick()
            self._started = None

    @contextmanager
    def viewing(self) -> Iterator[None]:
        """Time spent in the block is spent in making views; on a GPU it is the GPU's time."""
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._marks.append((start, end))
        else:
            before = time.perf_counter()
            yield
            self._viewed += time.perf_counter() - before

    def count(self, clips: int) -> None:
        """Add clips that a step has used, over all processes."""
        self._tick()
        self.clips += clips
        self._used += clips

    def read(self) -> dict[str, float]:
        """Rate and shares since the last time, the process's largest memory so far, and the GPU's since then."""
        self._tick()
        for start, end in self._marks:
            end.synchronize()
            self._viewed += start.elapsed_time(end) / 1000
        passed = max(self._passed, 1e-9)
        shown = {"speed/clips_per_second": self._used / passed,
                 "speed/waiting_share": self._waited / passed, "speed/views_share": self._viewed / passed,
                 "memory/process_gib": _peak_bytes() / _GIB}
        if self.device.type == "cuda":
            shown["memory/gpu_gib"] = torch.cuda.max_memory_allocated(self.device) / _GIB
            torch.cuda.reset_peak_memory_stats(self.device)
        self._used, self._passed, self._waited, self._viewed = 0, 0.0, 0.0, 0.0
        self._marks.clear()
        return shown

    def _tick(self) -> None:
        if self._started is not None:
            now = time.perf_counter()
            self.seconds += now - self._started
            self._passed += now - self._started
            self._started = now


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
