"""Estimators side by side: the agreement against a loop, the table, the video, the words of refusals."""

import itertools
import re
from dataclasses import replace

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harvest import compare
from harvest.agreement import accuracy, agreement, encounter, present
from harvest.compare import Footage, mannequins, run
from harvest.estimators import build
from skelcore import layouts, mannequin
from skelcore.errors import RunError
from skelcore.pck import LIMBS
from skelcore.sequence import PoseSequence
from tests.harvest.fakes import Blobs, walk, write
from tests.harvest.opinion import MoveNet
from tests.paths import DATA, need

COCO = layouts.get("coco17")
JOINTS = COCO.index(*(f"{side}_{part}" for part in LIMBS for side in ("left", "right")))


class Shifted(Blobs):
    """Blobs whose left wrist lies elsewhere."""

    def estimate(self, frames, people):
        poses = super().estimate(frames, people)
        for each in poses:
            each.keypoints[:, COCO.joints.index("left_wrist"), 0] += 1000
        return poses


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video") / "two.mp4", walk(1.5, persons=2))


def footage(path) -> Footage:
    return Footage(path.name, [path])


def track(rng, start: int, frames: int) -> PoseSequence:
    place, shape = rng.uniform(0, 200, (1, 1, 1, 2)), rng.uniform(0, 30, (1, 1, 17, 2))
    points = place + shape + rng.normal(0, 3, (1, frames, 17, 2))
    scores = rng.uniform(0.2, 1, (1, frames, 17)) * (rng.random((1, frames, 1)) > 0.2)
    return PoseSequence(points.astype(np.float32), scores.astype(np.float32), COCO, (300, 300), 15.0, "x",
                        meta={"start": start / 15})


def naive(one, other, ours=0.3, theirs=0.3, whole=False) -> float:
    """One person after another, one joint after another; ``whole`` counts what the first lacks as wrong."""
    hits, count, expected = 0, 0, 0
    for tick in range(60):
        here, there = ([(each.keypoints[0, tick - s], each.scores[0, tick - s]) for each in sequences
                        if (s := round(each.meta["start"] * 15)) <= tick < s + each.frames
                        and each.scores[0, tick - s].any()] for sequences in (one, other))
        expected += sum(certain[k] > theirs for _, certain in there for k in JOINTS)
        pairs = []
        for (i, (a, sure)), (j, (b, certain)) in itertools.product(enumerate(here), enumerate(there)):
            index = dict(zip(COCO.joints, b, strict=True))
            torso = (np.linalg.norm(index["left_shoulder"] - index["right_hip"])
                     + np.linalg.norm(index["right_shoulder"] - index["left_hip"])) / 2
            apart = [np.linalg.norm(a[k] - b[k]) / torso for k in JOINTS if sure[k] > ours and certain[k] > theirs]
            if apart:
                pairs.append((np.mean(apart), i, j, apart))
        taken = set()
        for _, i, j, apart in sorted(pairs, key=lambda pair: pair[0]):
            if not {("a", i), ("b", j)} & taken:
                taken |= {("a", i), ("b", j)}
                hits, count = hits + sum(value <= 0.2 for value in apart), count + len(apart)
    count = expected if whole else count
    return hits / count if count else float("nan")


@given(st.integers(0, 10 ** 6), st.integers(0, 3), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_agreement_is_that_of_a_loop(seed, left, right):
    rng = np.random.default_rng(seed)
    one = [track(rng, int(rng.integers(0, 10)), 8) for _ in range(left)]
    other = [track(rng, int(rng.integers(0, 10)), 8) for _ in range(right)] + one[:1]
    np.testing.assert_allclose(agreement(one, other), naive(one, other), atol=1e-6)
    np.testing.assert_allclose(accuracy(one, other), naive(one, other, 0, 0.5, True), atol=1e-6)
    if one:
        assert agreement(one[:1], one[:1]) == 1


def test_who_is_in_both_and_how_far_apart():
    rng = np.random.default_rng(0)
    one = track(rng, 3, 8)
    far, near = (replace(one, keypoints=one.keypoints + np.array(shift)) for shift in (5000, [3, 4]))
    frames, seen = len(present(one)), int((one.scores[0][:, JOINTS] > 0.3).sum())
    met = encounter([near, far], [one])
    assert (met.ours, met.theirs, met.shared, len(met.apart)) == (2 * frames, frames, frames, seen)
    torsos = [np.mean([np.linalg.norm(one.keypoints[0, t, a] - one.keypoints[0, t, b]) for a, b in ((5, 12), (6, 11))])
              for t in present(one)]
    np.testing.assert_allclose([met.apart.min(), met.apart.max()], [5 / max(torsos), 5 / min(torsos)], rtol=1e-4)
    apart = encounter([far], [one])
    assert (apart.ours, apart.theirs, apart.shared, len(apart.apart)) == (frames, frames, 0, 0)
    both = met + apart
    assert (both.ours, both.theirs, both.shared, len(both.apart)) == (3 * frames, 2 * frames, frames, seen)
    assert encounter([], []).shared == 0


def test_a_hidden_torso_is_no_yardstick():
    """A missing joint's place means nothing: with one diagonal left that is the torso, with none nobody is judged."""
    points = np.random.default_rng(2).uniform(0, 200, (1, 8, 17, 2))
    scores = np.ones((1, 8, 17))
    one = PoseSequence(points, scores.copy(), COCO, (300, 300), 15.0, "x", meta={"start": 0})
    scores[..., COCO.joints.index("left_shoulder")] = 0
    truth, whole = replace(one, scores=scores), one
    torso = np.linalg.norm(one.keypoints[0, :, 6] - one.keypoints[0, :, 11], axis=-1)
    for share, wanted in ((0.15, 1), (0.25, 0)):
        moved = replace(whole, keypoints=one.keypoints + (share * torso)[None, :, None, None] * [1, 0])
        assert accuracy([moved], [truth]) == wanted
    scores[..., COCO.joints.index("left_hip")] = 0
    assert np.isnan(accuracy([whole], [replace(one, scores=scores)]))


def test_a_joint_elsewhere_costs_its_share(video):
    same, shifted = (run(footage(video), "x", estimator, 15, 1) for estimator in (Blobs(), Shifted()))
    assert same.frames == 15 and len(same.sequences) == 2
    assert same.persons == pytest.approx(2, abs=0.3) and same.score == pytest.approx(0.9)
    assert agreement(same.sequences, shifted.sequences) == pytest.approx(11 / 12)
    assert np.isnan(agreement(same.sequences, []))


def test_the_truth_of_rendered_people(tmp_path):
    """A person lost costs all of its joints; of the truth itself nothing is wrong."""
    known = mannequins(tmp_path, 15, 0.5).truth
    assert accuracy(known, known) == 1
    seen = [(each.scores[0][:, JOINTS] > 0.5).sum() for each in known]
    assert accuracy(known[1:], known) == pytest.approx(1 - seen[0] / sum(seen))
    assert len({round(each.meta["start"], 3) for each in known}) == len(mannequin.ACTIONS)
    assert accuracy([], known) == 0 and np.isnan(accuracy(known, []))


def test_the_command_on_rendered_people(capsys):
    try:
        build("blazepose")
    except RunError as error:
        pytest.skip(f"pose model not at hand: {error}")
    assert compare.main(["mannequin", "--fps", "3"]) == 0
    found = re.search(r"^blazepose +\d+\.\d +\d\.\d\d +\d+ +0\.\d+ +(0\.\d+)$", capsys.readouterr().out, re.M)
    assert found and float(found[1]) > 0.6


def test_the_command_prints_a_table_and_draws(video, tmp_path, capsys):
    (tmp_path / "other.yaml").write_text("estimator: tests.harvest.test_compare:Shifted\n")
    output = tmp_path / "both.mp4"
    words = ["--with", "tests.harvest.fakes:Blobs", str(tmp_path / "other.yaml"), "--output", str(output)]
    assert compare.main([str(video), *words]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^two\.mp4, 2\d frames$", printed, re.M)
    assert re.search(r"^other +\d+\.\d +\d\.\d\d +2 +0\.900$", printed, re.M)
    assert re.search(r"^tests\.harvest\.fakes:Blobs +1\.000 +0\.917$", printed, re.M)
    with av.open(str(output)) as drawn:
        frames = [frame.to_ndarray(format="rgb24") for frame in drawn.decode(video=0)]
    assert 20 <= len(frames) <= 23 and frames[0].shape == (96, 320, 3)
    # The figures on white rectangles are in colour, in both halves.
    colour = np.ptp(frames[10].astype(int), axis=-1) > 60
    assert colour[:, :160].any() and colour[:, 160:].any()
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(("words", "status", "message"), [
    (["absent.mp4"], 2, "error: absent.mp4: no such video file"),
    (["VIDEO", "--with", "nothing"], 2, "error: estimator=nothing: unknown"),
    (["VIDEO", "--with", "absent.yaml"], 2, "error: absent.yaml: cannot read"),
    (["VIDEO", "--output", "a.avi"], 2, r"error: --output a.avi: must end in \.mp4"),
    (["VIDEO", "--fps", "0"], 2, "'0' is not a number above 0"),
    (["CORRUPT"], 1, "failed: corrupt"),
    ([], 2, "VIDEO"),
])
def test_bad_words(video, tmp_path, capsys, monkeypatch, words, status, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corrupt.mp4").write_bytes(b"no video")
    words = [{"VIDEO": str(video), "CORRUPT": str(tmp_path / "corrupt.mp4")}.get(word, word) for word in words]
    assert compare.main([*words, *([] if "--with" in words else ["--with", "tests.harvest.fakes:Blobs"])]) == status
    captured = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, captured)


def test_a_second_opinion_agrees_with_the_default():
    """BlazePose and MoveNet were trained apart and are told by different detectors."""
    video = need(DATA / "videos" / "stgcn_ta_chi.mp4")
    one, other = (run(footage(video), "x", estimator, 5, 1.6) for estimator in (build("blazepose"), MoveNet()))
    assert len(one.sequences) == len(other.sequences) == 1
    assert agreement(one.sequences, other.sequences) > 0.75
