"""A worker: fetches a few sources ahead in threads while it estimates another; what it downloads never leaves it."""

from __future__ import annotations

import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue

from harvest import estimators, fetch, scratch, video
from harvest.config import Harvest
from harvest.fetch import Fetched
from harvest.sources import Source
from harvest.video import Outcome

Landed = tuple[int, Outcome | None]


class Worker:
    """Takes orders of (index, source), says which files have landed, and estimates one of them at a time.

    Each method may run in a thread of its own. Raises InputError for an estimator that cannot be built.
    """

    def __init__(self, config: Harvest) -> None:
        scratch.sweep()
        self._config = config
        self._estimator = estimators.build(config.estimator, config.layout)
        self._fetchers = ThreadPoolExecutor(config.fetch.ahead + 1, "fetch")
        self._landed: SimpleQueue[Landed] = SimpleQueue()
        self._files: dict[int, tuple[Source, Fetched, ExitStack]] = {}

    def feed(self, index: int, source: Source) -> None:
        """Begin to fetch a source; returns at once."""
        self._fetchers.submit(self._fetch, index, source)

    def landed(self) -> list[Landed]:
        """Wait for fetches to end: the index of each, and what went wrong or None for a file to be estimated."""
        found = [self._landed.get()]
        try:
            while True:
                found.append(self._landed.get_nowait())
        except Empty:
            return found

    def estimate(self, index: int) -> tuple[Outcome, int]:
        """What a source whose file has landed gives, and the bytes that this process then holds in memory."""
        source, file, folder = self._files.pop(index)
        with folder:
            outcome = video.estimate(source, file, self._config, self._estimator)
        return outcome, resident_bytes()

    def _fetch(self, index: int, source: Source) -> None:
        folder = ExitStack()
        try:
            # What lies on this machine needs no folder, nor does it leave one behind.
            place = Path(folder.enter_context(scratch.folder())) if source.is_url else Path()
            self._files[index] = source, fetch.fetch(source, place, self._config), folder
            self._landed.put((index, None))
        except Exception as error:
            folder.close()
            self._landed.put((index, video.failed(error)))


def resident_bytes() -> int:
    """Memory of this process: what it holds, or where the system does not tell, the most that it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
