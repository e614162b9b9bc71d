"""Procedural clips: pure functions of a seed, with a body that keeps its bones, and more varied than the mannequin."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.spatial.distance import cdist

from skelcore import procedural, store
from skelcore.batches import ClipDataset
from skelcore.body import Body
from skelcore.dice import Dice
from skelcore.errors import InputError
from skelcore.improvise import improvise
from skelcore.layouts import get
from skelcore.mannequin import ACTIONS
from skelcore.motions import Style, move
from skelcore.postures import CHANNELS, POSTURES, table
from skelcore.procedural import Scene
from skelcore.puppet import BODY, LIMBS
from skelcore.scene import Camera
from skelcore.track import KEYS, Track

COCO = get("coco17")
RIGID = [COCO.index(a, b) for a, b in
         (("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"), ("left_hip", "left_knee"),
          ("left_knee", "left_ankle"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"),
          ("right_hip", "right_knee"), ("right_knee", "right_ankle"), ("left_hip", "right_hip"), ("nose", "left_eye"),
          ("left_ear", "right_ear"))]


@cache
def joints() -> np.ndarray:
    """Joints (17, N, T, 3) of 256 clips, 30 a second for two seconds."""
    dice = Dice([(0, i) for i in range(256)])
    return improvise(dice, np.full(256, 2.0)).joints(np.tile(np.arange(60) / 30, (256, 1)))


def test_a_clip_depends_on_nothing_but_seed_and_position() -> None:
    clips = procedural.read("procedural:1000?seed=7")
    order = np.array([5, 900, 17, 5, *range(70, 140)])
    together, scores = clips.clips(order, 24)
    for row in (0, 1, 3, 40, 73):
        alone, alone_scores = clips.clips(order[row:row + 1], 24)
        np.testing.assert_array_equal(alone[0], together[row])
        np.testing.assert_array_equal(alone_scores[0], scores[row])
    again = procedural.read("procedural:2000?seed=7").clips(order, 24)[0]
    np.testing.assert_array_equal(again, together)
    other = procedural.read("procedural:1000?seed=8").clips(order, 24)[0]
    assert all((a != b).any() for a, b in zip(other, together, strict=True))
    assert len({clip.tobytes() for clip in together}) == len(order) - 1


def test_an_item_is_the_same_motion_at_its_own_frames() -> None:
    clips = procedural.read("procedural:40")
    for index in (0, 11, -1):
        item = clips[index]
        assert 20 <= item.frames <= 150 and item.persons == 1 and item.fps and item.label is None
        keypoints, scores = clips.clips([index % 40], item.frames)
        np.testing.assert_array_equal(keypoints[0], item.keypoints)
        np.testing.assert_array_equal(scores[0], item.scores)
    with pytest.raises(IndexError):
        clips[40]


def test_it_is_a_store_that_data_sets_and_other_processes_read() -> None:
    clips = store.open_store("procedural:50?seed=2")
    copy = pickle.loads(pickle.dumps(clips))  # noqa: S301 (as a worker process gets it)
    batch = ClipDataset(copy, 16, layout="penn13").__getitems__([3, 49])
    direct = ClipDataset(clips, 16, layout="penn13").__getitems__([3, 49])
    np.testing.assert_array_equal(batch.keypoints, direct.keypoints)
    assert batch.keypoints.shape == (2, 1, 16, 13, 2) and batch.labels.tolist() == [-1, -1]
    assert len(set(clips.ids)) == len(set(clips.groups)) == len(clips) == 50
    assert len(set(store.group_codes(clips).tolist())) == 50
    assert clips.fingerprint == copy.fingerprint
    assert clips.fingerprint != procedural.read("procedural:50").fingerprint


def test_a_huge_store_costs_nothing() -> None:
    clips = procedural.read("procedural:999999999")
    assert clips.ids[-1] == "procedural-0/999999998" and len(pickle.dumps(clips)) < 1000
    assert np.isfinite(clips.clips([999999998], 8)[0]).all()


@pytest.mark.parametrize("uri", ["procedural:", "procedural:0", "procedural:-3", "procedural:5?seed=",
                                 "procedural:5?sed=1", "procedural:5?seed=1&seed=2",
                                 "procedural:1e4", "procedural:5 ", "procedural:٥"])
def test_other_uris_are_refused_in_a_line(uri: str) -> None:
    with pytest.raises(InputError, match="procedural:COUNT") as error:
        procedural.read(uri)
    assert "\n" not in str(error.value)


def test_bones_keep_their_lengths_and_joints_do_not_teleport() -> None:
    points = joints()
    assert points.dtype == np.float32 and np.isfinite(points).all()
    lengths = np.stack([np.linalg.norm(points[a] - points[b], axis=-1) for a, b in RIGID])
    assert (np.ptp(lengths, axis=-1) < 1e-3 * lengths.mean(-1)).all()
    np.testing.assert_allclose(lengths[:4], lengths[4:8], rtol=1e-3)
    steps = np.linalg.norm(np.diff(points, axis=2), axis=-1)
    trunk = np.linalg.norm(points[5:7].mean(0) - points[11:13].mean(0), axis=-1).mean()
    assert steps.max() < 2.5 * trunk  # in a thirtieth of a second
    assert np.quantile(steps, 0.99) < 0.4 * trunk


def test_scores_say_what_is_in_the_frame_and_in_sight() -> None:
    scene = Scene.draw(3, np.arange(200))
    keypoints, scores = scene.film(20)
    inside = scores > 0
    size = np.broadcast_to(scene.size[:, None, None, ::-1], keypoints.shape)[inside]
    assert (keypoints[inside] >= 0).all() and (keypoints[inside] <= size - 1).all()
    assert not keypoints[~inside].any()
    assert set(np.unique(scores).tolist()) == {0.0, 0.5, 1.0}
    assert 0.75 < inside.mean() < 0.99 and 0.01 < (scores == 0.5).mean() < 0.2
    assert np.median(inside.mean((1, 2))) == 1  # most clips show the whole person


def test_time_is_continuous() -> None:
    clips = procedural.read("procedural:100")
    fine, coarse = clips.clips(np.arange(100), 41), clips.clips(np.arange(100), 21)
    both = (fine[1][:, :, ::2] > 0) & (coarse[1] > 0)
    np.testing.assert_allclose(fine[0][:, :, ::2][both], coarse[0][both], atol=0.02)


def test_clips_vary_far_more_than_the_mannequins() -> None:
    keypoints, scores = procedural.read("procedural:800").clips(np.arange(800), 16)
    ours = normalised(keypoints[(scores > 0).mean((1, 2, 3)) > 0.98][:400, 0])
    theirs = normalised(np.stack([acted(i) for i in range(400)]))
    assert len(ours) == len(theirs)
    assert apart(ours) > 2 * apart(theirs)
    moving, acting = (clips - clips.mean(1, keepdims=True) for clips in (ours, theirs))
    assert directions(moving) > 1.4 * directions(acting)


def acted(index: int) -> np.ndarray:
    """Keypoints (16, 17, 2) of one of the mannequin's actions over three seconds, another person and take each."""
    rng, seconds = np.random.default_rng(index), np.linspace(0, 3, 16)
    body, style, camera = Body.draw(rng), Style.draw(rng), Camera.draw(rng, (320, 320), crowd=False)
    points = body.points(move(ACTIONS[index % len(ACTIONS)], seconds, style))[:, :17]
    return camera.project(points, camera.drift(seconds))[0]


def normalised(keypoints: np.ndarray) -> np.ndarray:
    """Poses (N, T, V, 2) about their own middle, in units of their spread over the clip."""
    centred = keypoints - keypoints.mean(2, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).sum(-1).mean((1, 2)))[:, None, None, None])


def apart(clips: np.ndarray) -> float:
    """Median distance of a clip from its nearest neighbour."""
    flat = clips.reshape(len(clips), -1)
    distance = cdist(flat, flat) / np.sqrt(flat.shape[1])
    np.fill_diagonal(distance, np.inf)
    return float(np.median(distance.min(1)))


def directions(clips: np.ndarray) -> int:
    """Along how many principal axes clips differ by more than a tenth in all."""
    flat = clips.reshape(len(clips), -1)
    return int((np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2 / len(flat) > 0.01).sum())


def test_tracks_pass_their_keys_as_pchip_does() -> None:
    dice = Dice([(4, i) for i in range(30)])
    track = Track.draw(dice, dice.normal(1, KEYS, 3), np.zeros(30), np.full(30, 0.4))
    seconds = np.tile(np.linspace(0, 5, 200), (30, 1))
    found = track.curves(seconds)
    for clip in range(30):
        used = track.count[clip]
        keys, times = track.keys[clip, :used], track.times[clip, :used]
        at_keys = track.curves(np.tile(times / 0.4, (30, 1)))[:, clip].T
        np.testing.assert_allclose(at_keys, keys, atol=1e-4)
        low, high = keys.min(0)[:, None], keys.max(0)[:, None]
        assert (found[:, clip] > low - 1e-4).all() and (found[:, clip] < high + 1e-4).all()
    # With evenly spaced keys the harmonic mean is Pchip's own; three cycles leave its boundary rule outside.
    even = replace(track, times=np.tile(np.arange(KEYS) / KEYS, (30, 1)), count=np.full(30, KEYS))
    for clip in range(30):
        thrice = PchipInterpolator(np.arange(3 * KEYS) / KEYS, np.tile(even.keys[clip], (3, 1)), axis=0)
        expected = thrice(1 + (0.4 * seconds[clip]) % 1).T
        np.testing.assert_allclose(even.curves(seconds)[:, clip], expected, atol=1e-4)


def test_dice_are_fair_and_each_clip_has_its_own() -> None:
    dice = Dice([(1, i) for i in range(2000)])
    assert abs(dice.chance(0.3, 50).mean() - 0.3) < 0.01
    picks = dice.choice([1, 0, 3], 50)
    np.testing.assert_allclose(np.bincount(picks.ravel()) / picks.size, [0.25, 0, 0.75], atol=0.01)
    normal = dice.normal(2, 50)
    assert abs(normal.std() - 2) < 0.05 and np.abs(normal).max() < 6.01
    assert abs(np.corrcoef(normal[0], normal[1])[0, 1]) < 0.5
    few = Dice([(1, 5)])
    few.chance(0.3, 50), few.choice([1, 0, 3], 50)
    np.testing.assert_array_equal(few.normal(2, 50)[0], normal[5])


def test_postures_name_channels_and_each_other() -> None:
    known = {*BODY, *LIMBS, *CHANNELS}
    for name, posture in POSTURES.items():
        assert set(posture.values) <= known, name
        assert posture.into and set(posture.into) <= set(POSTURES), name
    assert table().shape == (len(POSTURES), len(CHANNELS)) and np.isfinite(table()).all()
