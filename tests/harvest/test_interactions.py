import numpy as np
import pytest

from harvest.interactions import groups
from harvest.track import Track
from tests.harvest.fakes import TEMPLATE

RATE = 15.0


def track(x, begin=0, end=60, height=120):
    """A person 40 wide and ``height`` high at ``x``, a number or one a tick."""
    found = Track()
    for tick in range(begin, end):
        place = x if np.isscalar(x) else x[tick]
        found.add(tick, np.array([place, 100]) + TEMPLATE * [40, height], np.full(17, 0.9), 1.0, None)
    return found


def shape(tracks, **options):
    return [tuple(tracks.index(each) for each in group) for group in groups(tracks, RATE, **options)]


def test_two_who_stand_close_are_one_sample():
    assert shape([track(50), track(100), track(300)]) == [(0, 1), (2,)]


def test_the_closest_are_paired_and_nobody_twice():
    # Two thirds of the time the first is with the second, who is always with the third.
    first = np.where(np.arange(60) < 40, 50.0, -200.0)
    assert shape([track(first), track(100), track(150)]) == [(0,), (1, 2)]


@pytest.mark.parametrize("other", [
    track(130),  # a third of a height away
    track(np.where(np.arange(60) < 29, 100.0, 300.0)),  # close for less than half of the time
    track(100, 35),  # there for less than half of the time
    track(100, 60, 120),  # after the first has gone
    track(55, height=50),  # not of the same size
])
def test_who_stays_apart(other):
    assert shape([track(50), other]) == [(0,), (1,)]


def test_a_meeting_of_a_moment_is_none():
    assert shape([track(50, 0, 8), track(100, 0, 8)]) == [(0,), (1,)]
    assert shape([track(50, 0, 10), track(100, 0, 10)]) == [(0, 1)]


def test_a_pair_is_in_order_of_birth():
    late, early = track(50, 10), track(100)
    assert groups([early, late], RATE) == [(early, late)]
    assert groups([], RATE) == []
