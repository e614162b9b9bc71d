"""Progress: a bar with rate and ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Counts units of work and shows rate, ETA and a few named figures."""

    def __init__(self, total: int, unit: str, done: int = 0, every_seconds: float = 10.0,
                 silent: bool = False) -> None:
        self.total, self.unit, self.count = total, unit, done
        self._every, self._last, self._counted = every_seconds, time.monotonic(), done
        self._silent = silent
        bar = sys.stderr.isatty() and not silent
        self._bar = tqdm(total=total, initial=done, unit=unit, dynamic_ncols=True) if bar else None

    def update(self, count: int = 1, **figures: str | float) -> None:
        """Advance by ``count`` units, 0 to show new figures only, and show ``figures`` beside the rate."""
        self.count += count
        shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(count)
            if not count:
                self._bar.refresh()
        elif not self._silent and (time.monotonic() - self._last >= self._every or self.count == self.total):
            # The rate since the last line: what came first (starting processes, say) would spoil it for long.
            now = time.monotonic()
            rate = (self.count - self._counted) / max(now - self._last, 1e-9)
            self._last, self._counted = now, self.count
            left = (self.total - self.count) / rate if rate > 0 else float("inf")
            extra = "".join(f", {name} {value}" for name, value in shown.items())
            print(f"{self.count}/{self.total} {self.unit} ({rate:.3g} {self.unit}/s, ETA {_span(left)}{extra})",
                  file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()


def _span(seconds: float) -> str:
    """A time as people say it: seconds, or from an hour on hours and minutes."""
    if not 3600 <= seconds < float("inf"):
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"
