"""Plain lines where there is no terminal: count, rate since the last line, ETA, figures."""

import pytest

from skelcore import progress
from skelcore.progress import Progress


def test_lines_give_the_recent_rate_and_the_time_left(monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 100.0, 100.0, 101.0, 110.0, 110.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress(total=40, unit="videos", done=10, every_seconds=10) as bar:
        bar.update(10)                       # a slow start: 100 s
        bar.update(1, loss=0.123456)         # too soon for a line
        bar.update(9, loss=0.123456, frames=3)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "20/40 videos (0.1 videos/s, ETA 200 s)"
    assert second == "30/40 videos (1 videos/s, ETA 10 s, loss 0.1235, frames 3)"


def test_the_last_unit_always_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(total=2, unit="clips") as bar:
        bar.update()
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("2/2 clips")


def test_a_silent_one_counts_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, "steps", silent=True, every_seconds=0) as progress:
        progress.update(2)
    assert progress.count == 2 and capsys.readouterr().err == ""
