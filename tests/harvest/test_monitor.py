import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harvest.ledger import Entry
from harvest.monitor import Monitor, resident_bytes

OK = Entry("a", "ok", tracks=2, frames=300, seconds=36.0)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def scalars(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(point.step, pytest.approx(point.value)) for point in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}


def test_figures_reach_tensorboard_at_most_every_so_often(tmp_path):
    clock = Clock()
    with Monitor(tmp_path / "board", total=10, done=4, every_seconds=10, clock=clock) as monitor:
        monitor.state(3, 5, ["slow.example"])
        assert not (tmp_path / "board").exists()
        for clock.now in (1.0, 2.0, 12.0):  # the third is due
            monitor.settled(OK)
        clock.now = 14.0
        monitor.settled(Entry("b", "failed", "gone", host="x"))
        clock.now = 16.0
    found = scalars(tmp_path / "board")
    assert found["harvest/videos"] == [(7, 3), (8, 4)]
    assert found["harvest/hours"] == [(7, 0.03), (8, 0.03)]
    assert found["harvest/people"] == [(7, 6), (8, 6)]
    assert found["harvest/frames_per_second"] == [(7, 900 / 12), (8, 0)]
    assert found["harvest/workers"][0] == (7, 3) and found["harvest/fetching"][0] == (7, 5)
    assert found["harvest/paused_hosts"][0] == (7, 1)
    assert found["failures/gone"] == [(8, 1)]
    assert found["harvest/driver_megabytes"][0][1].expected > 1


def test_a_run_that_settles_nothing_leaves_no_file(tmp_path):
    clock = Clock()
    with Monitor(tmp_path / "board", total=3, clock=clock) as monitor:
        clock.now = 100.0
        monitor.state(1, 1, [])
    assert not (tmp_path / "board").exists()


def test_two_runs_make_one_line(tmp_path):
    for done in (0, 1):
        with Monitor(tmp_path, total=2, done=done) as monitor:
            monitor.settled(OK)
    assert [step for step, _ in scalars(tmp_path)["harvest/videos"]] == [1, 2]


def test_the_line_tells_of_failures_and_of_hosts_that_are_left_alone(tmp_path, capsys):
    with Monitor(tmp_path, total=9, every_seconds=0) as monitor:
        for reason in ("gone", "gone", "server", "network", "live"):
            monitor.settled(Entry("b", "failed", reason))
        monitor.settled(OK)
        monitor.state(1, 0, ["a.example", "b\x1b[2J.example", "c.example"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("6/9 videos (") and "ETA" in last
    assert "people 2" in last and "frames/s" in last and "hours 0.01" in last
    assert "failed gone 2 server 1 network 1" in last and "live" not in last
    assert "paused a.example b [2J.example and 1 more" in last


def test_a_finished_harvest_says_so_once(tmp_path, capsys):
    with Monitor(tmp_path, total=1, every_seconds=1000) as monitor:
        monitor.settled(OK)
        for _ in range(3):
            monitor.state(0, 0, [])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rates_are_those_of_the_run(tmp_path):
    clock = Clock()
    with Monitor(tmp_path, total=2, clock=clock) as monitor:
        monitor.settled(OK)
        clock.now = 4.0
        assert monitor.run() == {"videos": 1, "frames": 300, "seconds": 4.0, "videos_per_second": 0.25,
                                 "frames_per_second": 75.0, "hours_of_video_per_hour": 9.0}


def test_the_driver_need_not_load_torch(tmp_path):
    code = ("import sys\nfrom pathlib import Path\nfrom harvest.ledger import Entry\n"
            "from harvest.monitor import Monitor\n"
            "with Monitor(Path(sys.argv[1]), 1) as monitor: monitor.settled(Entry('a', 'ok'))\n"
            "assert list(Path(sys.argv[1]).iterdir()) and not {'torch', 'tensorflow'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_memory_is_told_in_bytes():
    assert 1e6 < resident_bytes() < 1e12
