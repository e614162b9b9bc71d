"""Crops and what is read from them: geometry, SimCC rows and heatmaps whose answers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest.estimators.topdown import Crops, heatmaps, simcc

SIZE = (256, 192)


@given(st.integers(0, 10 ** 6), st.booleans())
@settings(deadline=None, max_examples=40)
def test_points_of_a_crop_come_back(seed, udp):
    """The middle of what lies in a crop's pixel is, in the frame, where the crop took that pixel from."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-20, 60, (3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 90, (3, 2))], 1)
    crops = Crops.of(boxes, SIZE, udp=udp)
    np.testing.assert_allclose(crops.extent[:, 0] / crops.extent[:, 1], SIZE[1] / SIZE[0])
    assert (crops.extent >= 1.25 * (boxes[:, 2:] - boxes[:, :2]) - 1e-6).all()
    ends = np.array([[0, 0], SIZE[::-1]]) - (np.array([[0, 0], [1, 1]]) if udp else 0)
    for centre, extent in zip(crops.centre, crops.extent, strict=True):
        matrix = np.vstack([crops._matrix(centre, extent), [0, 0, 1]])
        back = (np.linalg.inv(matrix) @ np.c_[ends, [1, 1]].T).T[:, :2]
        np.testing.assert_allclose(back, [centre - extent / 2, centre + extent / 2], atol=1e-3)


def test_simcc_agrees_with_a_loop():
    rng = np.random.default_rng(3)
    x, y = rng.normal(0, 0.5, (4, 5, 192)), rng.normal(0, 0.5, (4, 5, 256))
    x[1, 2] = -1
    points, scores = simcc(x, y, (128, 96))
    for n in range(4):
        for v in range(5):
            assert points[n, v].tolist() == [x[n, v].argmax() / 2, y[n, v].argmax() / 2]
            assert scores[n, v] == np.clip(min(x[n, v].max(), y[n, v].max()), 0, 1)
    assert scores[1, 2] == 0


def blobs(points: np.ndarray, shape: tuple[int, int], sigma: float = 2.0) -> np.ndarray:
    y, x = np.mgrid[:shape[0], :shape[1]]
    return np.exp(-((x - points[:, 0, None, None]) ** 2 + (y - points[:, 1, None, None]) ** 2) / (2 * sigma ** 2))


@pytest.mark.parametrize(("how", "within"), [("quarter", 0.26), ("dark", 0.02), ("udp", 0.02)])
def test_heatmaps_give_back_where_their_gaussians_lie(how, within):
    rng = np.random.default_rng(5)
    cells = rng.uniform([8, 8], [39, 55], (2, 17, 2))
    maps = np.stack([0.8 * blobs(each, (64, 48)) for each in cells]).astype(np.float32)
    points, scores = heatmaps(maps, (256, 192), how)
    scale = np.array([192, 256]) / [47, 63] if how == "udp" else np.array([4, 4])
    assert (np.abs(points / scale - cells) < within).all()
    assert (scores > 0.75).all() and (scores <= 0.8).all()


@pytest.mark.parametrize("how", ["quarter", "dark", "udp"])
def test_heatmaps_at_the_border_and_without_a_peak(how):
    maps = np.zeros((1, 3, 16, 12), np.float32)
    maps[0, 0, 0, 0], maps[0, 1, 15, 11] = 1, 2
    points, scores = heatmaps(maps, (64, 48), how)
    assert np.isfinite(points).all() and (points > -8).all() and (points < 72).all()
    assert scores[0].tolist() == [1, 1, 0]
