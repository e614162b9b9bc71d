"""A meter on one download: its size, its time and its pace."""

from __future__ import annotations

import time

from harvest.config import Harvest
from harvest.reasons import VideoError


class Meter:
    """Starts with the download; raises VideoError (``too_large``, ``slow``) as soon as a limit is passed."""

    def __init__(self, config: Harvest) -> None:
        self._limits, self._rate = config.limits, config.fetch.rate_bytes
        self._start = time.monotonic()

    def announced(self, size: int | None) -> None:
        """What a host says of the size, in bytes."""
        if size is not None and size > self._limits.max_bytes:
            raise VideoError("too_large", f"{size} bytes, more than {self._limits.max_bytes}")

    def received(self, size: int) -> None:
        """``size`` bytes have come so far; sleeps where that is ahead of ``fetch.rate_bytes``."""
        self.announced(size)
        self.tick()
        if self._rate is not None:
            ahead = size / self._rate - (time.monotonic() - self._start)
            time.sleep(max(0.0, min(ahead, self._limits.fetch_seconds)))

    def tick(self) -> None:
        """Time has passed."""
        if time.monotonic() - self._start > self._limits.fetch_seconds:
            raise VideoError("slow", f"not fetched within {self._limits.fetch_seconds:g} s")
