import numpy as np
import pytest

from skelcore.identity import identity


def at(*xs):
    """Boxes (1, T, 4) of one person at these places, None where it is absent."""
    return np.array([[[np.nan] * 4 if x is None else [x, 0, x + 10, 20] for x in xs]])


def both(*rows):
    return np.concatenate(rows)


def test_by_hand():
    # The first person changes track after three of five frames; the second has one throughout but for a miss.
    truth = both(at(0, 0, 0, 0, 0), at(50, 50, 50, 50, 50))
    found = both(at(0, 0, 0, None, None), at(None, None, None, 0, 0), at(50, 50, None, 50, 50))
    result = identity(truth, found)
    # 3 + 4 frames serve; 10 true boxes and 9 found ones.
    assert result.idf1 == pytest.approx(2 * 7 / 19) and result.switches == 1


def test_an_exchange_is_two_switches():
    truth = both(at(0, 0, 0, 0), at(50, 50, 50, 50))
    found = both(at(0, 0, 50, 50), at(50, 50, 0, 0))
    assert identity(truth, found).switches == 2 and identity(truth, found).idf1 == pytest.approx(0.5)


def test_a_person_keeps_a_track_that_still_fits():
    # The other track fits better in the second frame, which is no reason to change.
    truth, found = at(0, 0, 0), both(at(2, 2, 2), at(None, 0, None))
    assert identity(truth, found).switches == 0


def test_perfect_nothing_and_ghosts():
    truth = both(at(0, 3, 6), at(50, None, 50))
    assert identity(truth, truth[::-1]).idf1 == 1
    nothing = np.zeros((0, 3, 4))
    assert identity(truth, nothing).idf1 == 0 and identity(nothing, nothing).idf1 == 1
    assert identity(nothing, truth).idf1 == 0
    assert identity(at(0, 0), at(6, 6)).idf1 == 0  # an IoU of a quarter is no match


def test_who_is_hardly_in_view_is_neither_right_nor_wrong():
    truth, aside = at(0, 0, None, None), at(None, None, 0, 0)
    assert identity(truth, at(0, 0, 0, 0)).idf1 == pytest.approx(2 * 2 / 6)
    assert identity(truth, at(0, 0, 0, 0), aside=aside).idf1 == 1
    # One who is nowhere near is wrong all the same, and so is a second one on a person of the truth.
    assert identity(truth, at(0, 0, 0, 90), aside=aside).idf1 == pytest.approx(2 * 2 / 5)
    twice = both(at(0, 0, 0, 0), at(0, 0, None, None))
    assert identity(truth, twice, aside=at(0, 0, 0, 0)).idf1 == pytest.approx(2 * 2 / 6)
