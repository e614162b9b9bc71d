import numpy as np
import pytest

from harvest import gates
from harvest.config import Gates
from skelcore import layouts
from skelcore.sequence import PoseSequence
from tests.harvest.fakes import LAYOUT, TEMPLATE

GATES = Gates.model_validate({})
SIZE = (240, 320)


def walker(frames=30, scale=150.0, seed=0):
    """A clean track (frames, 17, 2) of a person who sways and swings its limbs, and its scores."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, 17)
    t = np.arange(frames)[:, None] / 15
    swing = 0.06 * np.stack([np.sin(3 * t + phase), np.cos(2 * t + phase)], -1)
    return np.array([100, 40]) + scale * (TEMPLATE * [0.4, 1] + swing), np.full((frames, 17), 0.9)


def numbers(keypoints, scores, size=SIZE, fps=15.0, layout=LAYOUT, **extra):
    return gates.measure(PoseSequence(keypoints[None], scores[None], layout, size, fps), **extra)


def test_a_clean_track_passes_and_is_measured_right():
    found = numbers(*walker())
    assert gates.judge(found, GATES) is None
    assert found["seconds"] == 2 and found["frames"] == 30 and found["observed"] == 1 and found["complete"] == 1
    assert found["score"] == pytest.approx(0.9) and found["outside"] == 0
    assert found["height"] == pytest.approx(found["pixels"] / 240, abs=1e-3)


def shorten(k, s):
    return k[:4], s[:4]


def dim(k, s):
    return k, s * 0.4


def hide_legs(k, s):
    s = s.copy()
    s[:, LAYOUT.index("left_knee", "right_knee", "left_ankle", "right_ankle")] = 0
    return k, np.where(s > 0, 1.0, 0.0)


def blink(k, s):
    return k, s * (np.arange(len(s)) % 2 == 0)[:, None]


def shrink(k, s):
    return 100 + (k - 100) * 0.15, s


def shift(k, s):
    return k + np.array([190, 0]), s


def freeze(k, s):
    return np.repeat(k[:1], len(k), 0), s


@pytest.mark.parametrize(("fault", "reason"), [
    (shorten, "too_short"), (dim, "low_score"), (hide_legs, "few_joints"), (blink, "gaps"), (shrink, "small"),
    (shift, "truncated"), (freeze, "frozen"),
])
@pytest.mark.parametrize("seed", range(3))
def test_each_fault_is_named(fault, reason, seed):
    assert gates.judge(numbers(*fault(*walker(seed=seed))), GATES) == reason


@pytest.mark.parametrize("extra", [{"presence": 0.5}, {"detected": 0.1, "presence": 0.95}])
def test_a_person_nobody_confirms_is_hallucinated(extra):
    assert gates.judge(numbers(*walker(), **extra), GATES) == "hallucinated"


def test_a_sure_model_needs_no_detector():
    assert gates.judge(numbers(*walker(), detected=0.0, presence=0.999), GATES) is None


def test_thresholds_decide():
    found = numbers(*hide_legs(*walker()))
    assert gates.judge(found, Gates.model_validate({"min_complete": 0.0})) is None


def test_five_frames_in_a_second_are_enough():
    assert gates.judge(numbers(*(x[:15:3] for x in walker()), fps=5.0), GATES) is None


def test_a_lying_person_is_not_small():
    keypoints, scores = walker()
    assert gates.judge(numbers(keypoints[..., ::-1] * [0.9, 1.0], scores), GATES) is None


def test_jitter_is_the_second_difference():
    rng = np.random.default_rng(0)
    keypoints, scores = walker(300)
    found = numbers(keypoints + rng.normal(0, 3, keypoints.shape), scores)
    # Three independent draws weighted 1, -2, 1: variance 6 s^2 an axis; the median of a Rayleigh is 1.177 s.
    assert found["jitter"] * found["pixels"] == pytest.approx(1.177 * 3 * 6**0.5, rel=0.05)
    assert found["jitter"] > 5 * numbers(keypoints, scores)["jitter"]


def test_nothing_seen_gives_numbers_not_errors():
    found = numbers(np.zeros((3, 17, 2)), np.zeros((3, 17)))
    assert all(np.isfinite(list(found.values()))) and gates.judge(found, GATES) == "too_short"


def test_hands_are_judged_by_all_their_joints():
    assert gates.body_joints(layouts.get("hand21")) == list(range(21))
    assert LAYOUT.joints[gates.body_joints(LAYOUT)[0]] == "left_shoulder"
    assert len(gates.body_joints(LAYOUT)) == 12
