from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skelcore import annotations, ntu
from skelcore.errors import InputError
from tests.paths import DATA, PARITY, need


def text_of(frames: list[dict[int, np.ndarray]]) -> str:
    """A .skeleton file: for each frame the joints (25, 3) of each body id."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, joints in bodies.items():
            lines += [f"{body} 0 1 1 0 0 0 0.1 0.2 2", "25"]
            lines += [" ".join(map(repr, map(float, joint))) + " 1 2 3 4 0 0 0 1 2" for joint in joints]
    return "\n".join(lines) + "\n"


def body(rng: np.random.Generator, motion: float, width: float = 0.3) -> np.ndarray:
    """One upright frame of joints; more ``motion`` means more variance."""
    return rng.uniform(-1, 1, (25, 3)) * (width, 1, 0.1) * motion + (0, 0, 3)


def test_equal_to_the_reference_converter() -> None:
    expected = np.load(need(PARITY / "ntu_raw_expected.npz"))
    store = annotations.read(need(PARITY / "ntu_raw"))
    names = {key.split("/")[0] for key in expected}
    assert set(store.ids) | set(store.skipped) == names and len(store) == 5
    for position, name in enumerate(store.ids):
        keypoints = expected[f"{name}/keypoint"]
        assert store.records[position]["keypoint"].dtype == np.float16
        np.testing.assert_array_equal(store.records[position]["keypoint"], keypoints)
        np.testing.assert_array_equal(store[position].keypoints, keypoints.astype(np.float32))
        assert store.labels[position] == store[position].label == expected[f"{name}/label"]
    assert list(store.skipped) == [name for name in names if f"{name}/empty" in expected]
    assert "no body" in next(iter(store.skipped.values()))
    assert all(name not in ids for name in store.skipped for ids in store.splits.values())


def test_real_file() -> None:
    store = annotations.read(need(DATA / "ntu"))
    sequence = store[0]
    assert sequence.keypoints.shape == (1, 103, 25, 3) and sequence.fps == 30 and sequence.label == 0
    assert (sequence.scores == 1).all()
    # A standing adult: the head is above the feet, by 1.2 to 2 metres.
    head, foot = sequence.layout.index("head", "left_foot")
    height = sequence.keypoints[0, :, head, 1] - sequence.keypoints[0, :, foot, 1]
    assert ((height > 1.2) & (height < 2)).all()
    assert store.classes[0] == "A001" and len(store.classes) == 60


@pytest.mark.parametrize(("folder", "missing", "counts"), [
    ("ntu60", "samples_with_missing_skeletons.txt", {"xsub": (40091, 16487), "xview": (37646, 18932)}),
    ("ntu120", "NTU_RGBD120_samples_with_missing_skeletons.txt", {"xsub": (63026, 50919), "xset": (54468, 59477)}),
])
def test_splits_have_the_official_sizes(folder: str, missing: str, counts: dict[str, tuple[int, int]]) -> None:
    lists = need(DATA / "protocols" / folder)
    lost = set((lists / missing).read_text().split())
    names = [name for name in (lists / "skes_available_name.txt").read_text().split() if name not in lost]
    splits = ntu.splits(names)
    for rule, (train, val) in counts.items():
        assert (len(splits[f"{rule}_train"]), len(splits[f"{rule}_val"])) == (train, val)
        assert not set(splits[f"{rule}_train"]) & set(splits[f"{rule}_val"])


@pytest.mark.parametrize("name", ["S1C001P001R001A001", "S001C001P001R001A000", "S001C001P001R001A001x", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="SsssCcccPpppRrrrAaaa"):
        ntu.parse_name(name)


def test_name_is_taken_apart() -> None:
    assert ntu.parse_name("S017C003P008R002A060") == ntu.Name(17, 3, 8, 2, 59)


def test_frames_without_a_body_do_not_count_as_time() -> None:
    rng = np.random.default_rng(0)
    frames = [{1: body(rng, 1.0)} for _ in range(6)]
    with_gaps = [{}, *frames[:2], {}, {}, *frames[2:], {}]
    np.testing.assert_array_equal(ntu.read_keypoints(text_of(with_gaps), "x"), ntu.read_keypoints(text_of(frames), "x"))


def test_short_bodies_go_only_when_there_are_others() -> None:
    rng = np.random.default_rng(1)
    alone = ntu.read_keypoints(text_of([{1: body(rng, 1.0)} for _ in range(3)]), "x")
    assert alone is not None and alone.shape == (1, 3, 25, 3)
    for frames, persons in ((ntu.SHORTEST_BODY - 1, 1), (ntu.SHORTEST_BODY, 2)):
        both = [{1: body(rng, 1.0), **({2: body(rng, 0.8)} if t < frames else {})} for t in range(30)]
        tracks = ntu.read_keypoints(text_of(both), "x")
        assert tracks is not None and len(tracks) == persons
    short = text_of([{1: body(rng, 1.0), 2: body(rng, 1.0)} for _ in range(5)])
    assert ntu.read_keypoints(short, "x") is None


def test_wide_bodies_are_furniture() -> None:
    rng = np.random.default_rng(2)
    person = [body(rng, 0.5) for _ in range(40)]
    for wide_frames, persons in ((28, 1), (27, 2)):  # 28 / 40 is above the share, 27 / 40 below it
        sofa = [body(rng, 1.0, width=3.0 if t < wide_frames else 0.2) for t in range(40)]
        tracks = ntu.read_keypoints(text_of([{1: p, 2: s} for p, s in zip(person, sofa, strict=True)]), "x")
        assert tracks is not None and len(tracks) == persons
        mover = np.float32(person) if persons == 1 else tracks[0]
        np.testing.assert_array_equal(tracks[0], mover)
    # Both are wide: nothing is left, which is a reason and no crash.
    wide = text_of([{1: body(rng, 1.0, 3.0), 2: body(rng, 1.0, 3.0)} for _ in range(20)])
    assert ntu.read_keypoints(wide, "x") is None


def test_the_body_that_moves_more_comes_first_and_a_broken_track_is_joined() -> None:
    rng = np.random.default_rng(3)
    big, small, late = ([body(rng, size) for _ in range(40)] for size in (1.0, 0.5, 0.7))
    frames = [{5: small[t], **({6: big[t]} if t < 20 else {7: late[t]})} for t in range(40)]
    tracks = ntu.read_keypoints(text_of(frames), "x")
    assert tracks is not None
    np.testing.assert_array_equal(tracks[0], np.float32(big[:20] + late[20:]))
    np.testing.assert_array_equal(tracks[1], np.float32(small))


def test_a_first_track_that_starts_late_is_swapped() -> None:
    rng = np.random.default_rng(4)
    frames = [{1: body(rng, 0.5), **({2: body(rng, 1.0)} if t >= 10 else {})} for t in range(40)]
    tracks = ntu.read_keypoints(text_of(frames), "x")
    assert tracks is not None
    np.testing.assert_array_equal(tracks[0], np.float32([frame[1] for frame in frames]))
    assert (tracks[1, :10] == 0).all() and (tracks[1, 10:] != 0).any()


@pytest.mark.parametrize("spoil", [
    lambda text: text[:len(text) // 2],
    lambda text: text + "1\n",
    lambda text: text.replace("25\n", "24\n", 1),
    lambda text: "x" + text,
    lambda text: text.replace(" ", " nonsense", 60),
    lambda text: "",
])
def test_files_that_do_not_follow_the_format_are_named(tmp_path: Path, spoil) -> None:
    text = text_of([{1: body(np.random.default_rng(5), 1.0)} for _ in range(4)])
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_text(spoil(text))
    with pytest.raises(InputError, match=r"A001\.skeleton: not an NTU \.skeleton file"):
        annotations.read(tmp_path)


def test_folder_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without"):
        annotations.read(tmp_path)
    (tmp_path / "S001C001P001R001A001.skeleton").write_text("2\n0\n0\n")
    with pytest.raises(InputError, match="no file holds a body"):
        annotations.read(tmp_path)
    with pytest.raises(InputError, match="ntu25, not coco17"):
        annotations.read(tmp_path, "coco17")
    (tmp_path / "walk.skeleton").write_text("0\n")
    with pytest.raises(InputError, match="walk: an NTU sample is named"):
        annotations.read(tmp_path)


def test_fingerprint_follows_content_and_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    path = tmp_path / "S001C001P001R001A001.skeleton"
    path.write_text(text_of([{1: body(rng, 1.0)} for _ in range(2)]))
    first = annotations.read(tmp_path).fingerprint
    assert annotations.read(tmp_path).fingerprint == first
    path.rename(tmp_path / "S001C001P001R001A002.skeleton")
    assert annotations.read(tmp_path).fingerprint != first
