"""Statistics against naive loops, and what they do not depend on."""

import numpy as np
import pytest

from adapt import features
from adapt.kinematics import FREQUENCIES, statistics
from skelcore import annotations
from tests.adapt import clips as made


@pytest.fixture
def store(tmp_path):
    return annotations.read(made.write(tmp_path / "clips.pkl"))


def clips_of(store):
    return features.Clips(store, 16, 1, store.layout, batch_size=5)


def test_blocks_equal_naive_loops(store):
    clips = clips_of(store)
    directions, spectrum, speed = statistics(clips)
    points = features.coordinates(clips, fill=True)[:, :16 * len(store.layout) * 2].reshape(len(store), 16, -1, 2)
    clip, count = points[3], len(store.layout)
    for number, (outer, inner) in enumerate(store.layout.bones):
        bone = clip[5, outer] - clip[5, inner]
        found = directions[3].reshape(16, -1, 2)[5, number]
        np.testing.assert_allclose(found, bone / max(np.linalg.norm(bone), 1e-12), atol=1e-4)
    pose = clip - clip.mean(1, keepdims=True)
    wave = [sum(pose[t, 2, 0] * np.exp(-2j * np.pi * f * t / 16) for t in range(16)) for f in range(9)]
    np.testing.assert_allclose(spectrum[3].reshape(9, count, 2)[:FREQUENCIES, 2, 0], np.sqrt(np.abs(wave)), atol=1e-2)
    steps = [np.linalg.norm(clip[t + 1, 4] - clip[t, 4]) for t in range(15)]
    np.testing.assert_allclose(speed[3, 4], np.sqrt(np.mean(steps)), rtol=1e-3)


def test_place_and_size_do_not_matter(store):
    class Moved(type(store)):
        def __getitem__(self, index):
            clip = super().__getitem__(index)
            return type(clip)(2 * clip.keypoints + 50, clip.scores, clip.layout, id=clip.id, label=clip.label)

    for one, other in zip(statistics(clips_of(store)), statistics(clips_of(Moved(**vars(store)))), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-2)
