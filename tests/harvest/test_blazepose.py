"""The embedded pose model against MediaPipe's own pipeline, naive loops and geometry."""

import json
import pickle
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

from harvest.estimators import People, build, regions
from harvest.estimators import blazepose as module
from harvest.estimators.blazepose import BlazePose, anchors, decode, distinct, read_outputs_only, refine, weighted_nms
from skelcore.errors import InputError
from skelcore.layouts import get
from skelcore.mannequin import perform
from tests.paths import DATA, need

REFERENCES = json.loads((Path(__file__).parent / "blazepose_reference.json").read_text())["references"]


@pytest.fixture(scope="module")
def pose() -> BlazePose:
    return BlazePose("mediapipe33")


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return data.astronaut()


def image_of(reference: dict) -> np.ndarray:
    if "mannequin" in reference:
        performance = perform(*reference["mannequin"], seconds=2, fps=10, size=480)
        return next(islice(performance.render(), reference["frame"], None))
    if "video" not in reference:
        return data.astronaut()
    with av.open(str(need(DATA / reference["video"]))) as video:
        return next(islice(video.decode(video=0), reference["frame"], None)).to_ndarray(format="rgb24")


def look(pose: BlazePose, image: np.ndarray):
    return pose.estimate(image[None], pose.detect(image[None]))[0]


def turned(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), matrix


# --- against MediaPipe


@pytest.mark.parametrize("reference", REFERENCES,
                         ids=lambda r: Path(r.get("video", r.get("mannequin", ["astronaut"])[0])).stem)
def test_landmarks_agree_with_mediapipe(pose, reference):
    expected, visibility = np.array(reference["landmarks"]), np.array(reference["visibility"])
    found = look(pose, image_of(reference))
    extent = np.ptp(expected, axis=0).max()  # of the person, who may be lying down
    errors = np.linalg.norm(found.keypoints - expected, axis=-1) / extent
    best = errors.max(1).argmin()
    assert errors[best].max() < 0.02
    assert np.median(errors[best]) < 0.002
    # The score is the lesser of visibility and presence, so it may fall short of visibility but not surpass it.
    assert (found.scores[best] <= visibility + 0.02).all()
    seen = (visibility > 0.9) & (expected > 0).all(1)
    assert np.median(visibility[seen] - found.scores[best][seen]) < 0.05
    assert found.presence[best] > 0.9


def test_dropping_outputs_changes_no_number(pose, astronaut):
    whole = module.weights.load(module.weights.LANDMARKS)
    square = pose.detect(astronaut[None])[0].regions[0]
    crop = regions.crop(astronaut, square, 256, cv2.BORDER_REPLICATE)
    every, read = module.Network(whole, 0, 1)(crop), pose._landmarks(crop)
    for full, part in zip([every[0], every[1], every[3]], read, strict=True):
        np.testing.assert_allclose(part, full, rtol=1e-5, atol=1e-5)


def test_another_landmark_model_is_refused():
    with pytest.raises(ValueError, match="five outputs"):
        read_outputs_only(b"TFL3" + bytes(1000))


# --- people in pictures


def test_two_people_side_by_side(pose, astronaut):
    small = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    pair = np.full((420, 700, 3), 128, np.uint8)
    pair[100:356, 40:296], pair[100:356, 400:656] = small, small[:, ::-1]
    found = look(pose, pair)
    assert len(found) == 2
    face = np.array(REFERENCES[0]["landmarks"])[:11] / 2
    mirrored = face[get("mediapipe33").mirror[:11]] * [-1, 1] + [255, 0]
    left, right = found.keypoints[found.keypoints[:, 0, 0].argsort(), :11]
    assert np.linalg.norm(left - face - (40, 100), axis=-1).max() < 8
    assert np.linalg.norm(right - mirrored - (400, 100), axis=-1).max() < 8


def test_two_whole_people_side_by_side(pose):
    reference = REFERENCES[1]
    one, expected = image_of(reference), np.array(reference["landmarks"])
    found = look(pose, np.concatenate([one, one[:, ::-1]], 1))
    assert len(found) == 2
    width, height = one.shape[1], np.ptp(expected[:, 1])
    mirrored = expected[get("mediapipe33").mirror] * [-1, 1] + [2 * width - 1, 0]
    left, right = found.keypoints[found.keypoints[:, 0, 0].argsort()]
    assert np.median(np.linalg.norm(left - expected, axis=-1)) < 0.02 * height
    assert np.median(np.linalg.norm(right - mirrored, axis=-1)) < 0.02 * height


@pytest.mark.parametrize("image", [
    np.zeros((240, 320, 3), np.uint8),
    np.full((360, 640, 3), 255, np.uint8),
    np.random.default_rng(0).integers(0, 256, (360, 640, 3), dtype=np.uint8),
    cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8), (0, 0), 9),
    np.zeros((1, 1, 3), np.uint8),
], ids=["black", "white", "noise", "clouds", "one pixel"])
def test_nobody_in_an_empty_picture(pose, image):
    people = pose.detect(image[None])[0]
    assert len(people) == 0
    poses = pose.estimate(image[None], [people])[0]
    assert poses.keypoints.shape == (0, 33, 2) and len(poses.people) == 0


def test_a_region_without_a_person_gives_no_pose(pose):
    sky = np.full((360, 640, 3), 200, np.uint8)
    square = np.array([[320, 180, 300, 0]], np.float32)
    people = People(regions.boxes(square, 360, 640), np.ones(1, np.float32), square)
    assert len(pose.estimate(sky[None], [people])[0]) == 0


def test_tiles_find_people_whom_the_whole_frame_shows_too_small(astronaut):
    frame = np.full((240, 1200, 3), 90, np.uint8)
    frame[100:220, 1000:1120] = cv2.resize(astronaut, (120, 120), interpolation=cv2.INTER_AREA)
    assert len(BlazePose(tiles=False).detect(frame[None])[0]) == 0
    found = look(BlazePose(tiles=True), frame)
    assert len(found) == 1
    nose = found.keypoints[0, get("coco17").index("nose")[0]]
    assert np.hypot(*(nose - [1000 + 0.435 * 120, 100 + 0.25 * 120])) < 6


def test_the_same_person_asked_for_twice_comes_once(pose, astronaut):
    people = pose.detect(astronaut[None])[0]
    shifted = people.regions + np.array([[12, -9, 20, 0.05]], np.float32)
    twice = People(np.repeat(people.boxes, 2, 0), np.ones(2, np.float32), np.concatenate([people.regions, shifted]))
    assert len(pose.estimate(astronaut[None], [twice])[0]) == 1


def test_people_for_the_next_frame_hold_the_same_person(pose, astronaut):
    first = look(pose, astronaut)
    second = pose.estimate(astronaut[None], [first.people])[0]
    assert len(second) == 1
    upper = slice(0, 13)
    assert np.linalg.norm(second.keypoints - first.keypoints, axis=-1)[0, upper].max() < 0.05 * 512


def test_boxes_without_regions_are_taken_as_upright(pose, astronaut):
    given_region = look(pose, astronaut)
    people = People(np.array([[-340, 20, 660, 1020]], np.float32), np.ones(1, np.float32))
    found = pose.estimate(astronaut[None], [people])[0]
    errors = np.linalg.norm(found.keypoints - given_region.keypoints, axis=-1)[0, :11]
    assert errors.max() < 0.05 * 512


# --- symmetries


@pytest.mark.parametrize("degrees", [30, -30, 100])
def test_turning_the_picture_turns_the_joints(pose, astronaut, degrees):
    straight, people = look(pose, astronaut), pose.detect(astronaut[None])[0]
    margin = 256
    image, matrix = turned(cv2.copyMakeBorder(astronaut, *[margin] * 4, cv2.BORDER_REPLICATE), degrees)
    expected = (straight.keypoints[0] + margin) @ matrix[:, :2].T + matrix[:, 2]
    square = people.regions.copy()
    square[:, :2] = (square[:, :2] + margin) @ matrix[:, :2].T + matrix[:, 2]
    square[:, 3] -= np.deg2rad(degrees)
    # The landmark model sees the same crop again; the shoulders are half outside the picture.
    same = pose.estimate(image[None], [People(people.boxes, people.scores, square)])[0]
    errors = np.linalg.norm(same.keypoints[0] - expected, axis=-1)
    assert errors[:11].max() < 3 and errors[11:13].max() < 12
    # The detector notices the turn by itself.
    found = pose.detect(image[None])[0]
    assert len(found) == 1
    assert np.abs(np.angle(np.exp(1j * (found.regions[0, 3] - square[0, 3])))) < 0.15
    errors = np.linalg.norm(look(pose, image).keypoints[0] - expected, axis=-1)
    assert errors[:11].max() < 12


def test_a_mirrored_picture_has_mirrored_joints(pose, astronaut):
    straight, mirrored = look(pose, astronaut), look(pose, np.ascontiguousarray(astronaut[:, ::-1]))
    expected = straight.keypoints[0, get("mediapipe33").mirror]
    expected[:, 0] = 511 - expected[:, 0]
    errors = np.linalg.norm(mirrored.keypoints[0] - expected, axis=-1)
    assert errors[:13].max() < 0.05 * 512
    # The test would notice left and right left as they were.
    assert np.linalg.norm(mirrored.keypoints[0] - expected[get("mediapipe33").mirror], axis=-1)[11] > 0.2 * 512


def test_frames_of_a_batch_do_not_touch_each_other(pose, astronaut):
    frames = np.stack([astronaut, np.zeros_like(astronaut), astronaut[:, ::-1]])
    people = pose.detect(frames)
    together = pose.estimate(frames, people)
    assert [len(found) for found in together] == [1, 0, 1]
    for frame, found in zip(frames, together, strict=True):
        np.testing.assert_array_equal(found.keypoints, look(pose, frame).keypoints)


# --- the object


def test_coco17_takes_the_joints_of_the_same_name(pose, astronaut):
    coco, full = look(BlazePose("coco17"), astronaut), look(pose, astronaut)
    for i, joint in enumerate(get("coco17").joints):
        j = get("mediapipe33").joints.index(joint)
        np.testing.assert_array_equal(coco.keypoints[0, i], full.keypoints[0, j])
        assert coco.scores[0, i] == full.scores[0, j]


def test_the_object_travels_to_another_process(pose, astronaut):
    copy = pickle.loads(pickle.dumps(pose))  # noqa: S301 (our own bytes)
    assert len(pickle.dumps(pose)) < 1000
    assert copy.provenance == pose.provenance
    np.testing.assert_array_equal(look(copy, astronaut).keypoints, look(pose, astronaut).keypoints)


def test_bad_input_is_named(pose, astronaut):
    with pytest.raises(InputError, match="layout=ntu25"):
        build("blazepose", "ntu25")
    with pytest.raises(InputError, match="uint8"):
        pose.detect(astronaut[None].astype(np.float32))
    with pytest.raises(InputError, match="uint8"):
        pose.detect(astronaut)
    with pytest.raises(InputError, match="one a frame"):
        pose.estimate(astronaut[None], [])


# --- the parts


def test_anchors_lie_on_the_five_grids():
    points = anchors()
    assert points.shape == (2254, 2)
    naive = [((x + 0.5) / n, (y + 0.5) / n)
             for stride, layers in ((8, 1), (16, 1), (32, 3))
             for n in [224 // stride] for y in range(n) for x in range(n) for _ in range(2 * layers)]
    np.testing.assert_allclose(points, naive, atol=1e-7)


def test_decode_against_a_loop():
    rng = np.random.default_rng(0)
    values, centres = rng.normal(0, 50, (7, 12)).astype(np.float32), rng.random((7, 2)).astype(np.float32)
    for raw, (ax, ay), got in zip(values, centres, decode(values, centres), strict=True):
        x, y, w, h = raw[0] / 224 + ax, raw[1] / 224 + ay, raw[2] / 224, raw[3] / 224
        keypoints = [raw[k] / 224 + (ax, ay)[k % 2] for k in range(4, 12)]
        np.testing.assert_allclose(got, [x - w / 2, y - h / 2, x + w / 2, y + h / 2, *keypoints], atol=1e-5)


def naive_iou(a, b) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if across <= 0 or down <= 0:
        return 0.0
    return across * down / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down)


def naive_nms(found, scores, threshold):
    rest = sorted(range(len(found)), key=lambda i: -scores[i])
    merged = []
    while rest:
        group = [i for i in rest if i == rest[0] or naive_iou(found[rest[0]], found[i]) > threshold]
        total = sum(scores[i] for i in group)
        merged.append((sum(scores[i] * found[i] for i in group) / total, scores[rest[0]]))
        rest = [i for i in rest if i not in group]
    return merged


@given(st.integers(0, 25), st.integers(0, 2**32 - 1))
def test_weighted_nms_against_a_loop(count, seed):
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2)) * 0.6
    high = low + 0.1 + rng.random((count, 2)) * 0.3
    found = np.concatenate([low, high, rng.random((count, 8))], 1).astype(np.float32)
    scores = (rng.permutation(count) + 1).astype(np.float32) / (count + 1)
    got, best = weighted_nms(found, scores, 0.3)
    expected = naive_nms(found.astype(np.float64), scores, 0.3)
    assert len(got) == len(best) == len(expected)
    for row, score, (mean, top) in zip(got, best, expected, strict=True):
        np.testing.assert_allclose(row, mean, atol=1e-5)
        assert score == np.float32(top)


def naive_refine(points, heatmaps):
    height, width, _ = heatmaps.shape
    moved = points.copy()
    for v, (x, y) in enumerate(points):
        column, row = int(x * width), int(y * height)
        if not (0 <= column < width and 0 <= row < height):
            continue
        total = top = across = down = 0.0
        for r in range(max(0, row - 4), min(height, row + 5)):
            for c in range(max(0, column - 4), min(width, column + 5)):
                weight = 1 / (1 + np.exp(-float(heatmaps[r, c, v])))
                total, across, down, top = total + weight, across + c * weight, down + r * weight, max(top, weight)
        if top >= 0.5:
            moved[v] = across / width / total, down / height / total
    return moved


def test_refinement_against_a_loop():
    rng = np.random.default_rng(3)
    points = rng.uniform(-0.2, 1.2, (39, 2)).astype(np.float32)
    heatmaps = rng.normal(-4, 2, (64, 64, 39)).astype(np.float32)
    moved = refine(points, heatmaps)
    np.testing.assert_allclose(moved, naive_refine(points, heatmaps), atol=1e-5)
    assert 0 < (moved != points).any(1).sum() < 39  # both branches were taken


def test_distinct_keeps_the_surer_of_two_alike():
    rng = np.random.default_rng(0)
    person, other = rng.random((33, 2)) * 100, rng.random((33, 2)) * 100 + 200
    points = np.stack([person, other, person + 2])
    assert distinct(points, np.full(3, 150.0), np.array([0.8, 0.9, 0.95])) == [1, 2]
    assert distinct(points, np.full(3, 150.0), np.array([0.96, 0.9, 0.95])) == [0, 1]
    assert distinct(points, np.full(3, 15.0), np.array([0.8, 0.9, 0.95])) == [0, 1, 2]


def test_a_lone_stray_limb_does_not_make_two_people():
    person = np.random.default_rng(0).random((33, 2)) * 100
    waving = person.copy()
    waving[[13, 15, 17, 19, 21]] += 60
    assert len(distinct(np.stack([person, waving]), np.full(2, 150.0), np.array([0.9, 0.8]))) == 1


coordinate = st.floats(-500, 1500)


@given(coordinate, coordinate, st.floats(-3, 3), st.floats(5, 900))
def test_a_region_is_turned_upright(x, y, angle, radius):
    centre = np.array([[x, y]])
    rim = centre + radius * np.array([[np.sin(angle), -np.cos(angle)]])
    square = regions.around(centre, rim)[0]
    assert square[2] == pytest.approx(2 * 1.25 * radius, rel=1e-4, abs=1e-3)
    assert square[3] == pytest.approx(angle, abs=1e-3)
    # In the crop the rim lies straight above the middle, as far as the margin allows.
    middle, above = regions.project(np.array([[0.5, 0.5], [0.5, 0.1]], np.float32), square)
    np.testing.assert_allclose(above, rim[0], atol=0.01 * radius)
    np.testing.assert_allclose(middle, centre[0], atol=0.05)


@pytest.mark.parametrize("square", [(100, 80, 120, 0), (90, 100, 150, 0.6), (110, 90, 90, -2.0)])
def test_a_point_survives_cropping_and_projecting(square):
    square, spot = np.array(square, np.float32), np.array([105.0, 92.0])
    y, x = np.mgrid[:180, :200]
    frame = np.repeat((255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 50))[..., None], 3, 2).astype(np.uint8)
    crop = regions.crop(frame, square, 256, cv2.BORDER_CONSTANT)[..., 0].astype(float)
    y, x = np.mgrid[:256, :256]
    seen = np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum() / 256
    np.testing.assert_allclose(regions.project(seen.astype(np.float32), square), spot, atol=0.5)


def test_the_whole_frame_is_letterboxed_with_black():
    frame = np.full((90, 160, 3), 200, np.uint8)
    image = regions.crop(frame, regions.whole(90, 160), 224, cv2.BORDER_CONSTANT)
    rows = image[:, 100].mean(1)
    assert (rows[:48] == 0).all() and (rows[178:] == 0).all() and (rows[52:172] == 200).all()


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_tiles_cover_an_oblong_frame(height, width):
    tiles = regions.tiles(height, width)
    long, short = max(height, width), min(height, width)
    if long < 1.1 * short - 1:
        assert tiles == []
    if tiles:
        along = sorted((tile[0] if width > height else tile[1]) for tile in tiles)
        edges = [0, *(a + short / 2 for a in along)]
        assert all(a - short / 2 <= edge + 0.1 * short + 1 for a, edge in zip(along, edges, strict=False))
        assert along[-1] + short / 2 == pytest.approx(long, rel=1e-4)
        assert all(tile[2] == short for tile in tiles)


def test_boxes_leave_the_margin_out_and_stay_in_the_frame():
    squares = np.array([[50, 60, 25, 0.3], [5, 5, 100, 0]], np.float32)
    np.testing.assert_allclose(regions.boxes(squares, 100, 200), [[40, 50, 60, 70], [0, 0, 45, 45]])
