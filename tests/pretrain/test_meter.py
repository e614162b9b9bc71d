"""The meter against a clock that moves only when told."""

from collections.abc import Iterator

import pytest
import torch

from pretrain import meter
from pretrain.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, count: int, seconds: float) -> Iterator[int]:
        for i in range(count):
            self.now += seconds
            yield i


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(meter, "time", clock)
    return clock


def test_shares_and_rate_are_of_the_time_since_the_last_read(clock: Clock) -> None:
    one = Meter(torch.device("cpu"))
    shown = []
    for i in one.waited(clock.slow(4, 1.0)):
        with one.viewing():
            clock.now += 2
        clock.now += 5 if i < 2 else 13
        one.count(8)
        if i % 2:
            shown.append(one.read())
    first, second = shown
    assert first["speed/clips_per_second"] == pytest.approx(16 / 16)
    assert (first["speed/waiting_share"], first["speed/views_share"]) == pytest.approx((2 / 16, 4 / 16))
    assert second["speed/clips_per_second"] == pytest.approx(16 / 32)
    assert (second["speed/waiting_share"], second["speed/views_share"]) == pytest.approx((2 / 32, 4 / 32))
    assert (one.clips, one.seconds) == (32, pytest.approx(48))


def test_what_happens_between_two_epochs_does_not_count(clock: Clock) -> None:
    one = Meter(torch.device("cpu"))
    for _ in range(2):
        for _ in one.waited(clock.slow(1, 1.0)):
            clock.now += 3
            one.count(2)
        clock.now += 1000
    shown = one.read()
    assert shown["speed/clips_per_second"] == pytest.approx(4 / 8) and one.seconds == pytest.approx(8)
    assert shown["speed/waiting_share"] == pytest.approx(2 / 8)


def test_a_resumed_run_goes_on_with_the_totals_but_not_with_their_rate(clock: Clock) -> None:
    one = Meter(torch.device("cpu"))
    one.clips, one.seconds = 1000, 10.0
    for _ in one.waited(clock.slow(1, 1.0)):
        clock.now += 1
        one.count(3)
        assert (one.clips, one.seconds) == (1003, pytest.approx(12))  # as a checkpoint of this step would have it
    assert one.read()["speed/clips_per_second"] == pytest.approx(1.5)


def test_a_loop_that_breaks_off_stops_the_clock(clock: Clock) -> None:
    one = Meter(torch.device("cpu"))
    batches = one.waited(clock.slow(5, 1.0))
    next(batches)
    clock.now += 1
    batches.close()
    clock.now += 50
    assert one.read()["speed/waiting_share"] == pytest.approx(0.5) and one.seconds == pytest.approx(2)


def test_memory_is_the_largest_that_the_process_took() -> None:
    held = b"x" * (300 << 20)
    assert len(held) / (1 << 30) < Meter(torch.device("cpu")).read()["memory/process_gib"] < 100
