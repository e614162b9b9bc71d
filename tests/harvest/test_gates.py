import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gates as bench
from harvest import gates, quality
from harvest.config import Gates, Harvest
from harvest.estimators.config import OnnxConfig
from skelcore import annotations, config, layouts
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from tests.harvest.fakes import LAYOUT, TEMPLATE
from tests.paths import DATA, need

GATES = Gates().fitted("blazepose")
TOP_DOWN = {"name": "onnx", "detector": "d.onnx", "pose": "p.onnx"}
SIZE = (240, 320)


def walker(frames=30, scale=150.0, seed=0):
    """A clean track (frames, 17, 2) of a person who sways and swings its limbs, and its scores."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, 17)
    t = np.arange(frames)[:, None] / 15
    swing = 0.06 * np.stack([np.sin(3 * t + phase), np.cos(2 * t + phase)], -1)
    return np.array([100, 40]) + scale * (TEMPLATE * [0.4, 1] + swing), np.full((frames, 17), 0.9)


def numbers(keypoints, scores, size=SIZE, fps=15.0, layout=LAYOUT, **extra):
    return quality.measure(PoseSequence(keypoints[None], scores[None], layout, size, fps), **extra)


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
    assert quality.body_joints(layouts.get("hand21")) == list(range(21))
    assert LAYOUT.joints[quality.body_joints(LAYOUT)[0]] == "left_shoulder"
    assert len(quality.body_joints(LAYOUT)) == 12


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["coco17", "penn13", "kinect20", "hand21"]), st.integers(1, 25),
       st.floats(0, 0.7), st.booleans())
def test_numbers_are_those_of_a_plain_loop(seed, layout, frames, missing, sized):
    rng = np.random.default_rng(seed)
    shape = (1, frames, len(layouts.get(layout)))
    keypoints = rng.normal(100, 40, (1, 1, shape[2], 2)) + rng.normal(0, rng.uniform(0, 60), (*shape, 2)).cumsum(1)
    scores = rng.uniform(0, 1, shape) * (rng.random(shape) >= missing) * (rng.random(shape[:2]) >= missing)[..., None]
    sequence = PoseSequence(keypoints, scores, layouts.get(layout), SIZE if sized else None, 15.0)
    found, expected = quality.measure(sequence), bench.plain(sequence)
    newer = {"full_frame", "teleport", "flip", "limb_drift", "limb_ratio"}
    assert newer & found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=2e-4), name


def test_a_pair_is_as_good_as_the_worse_of_the_two():
    calm, wild = walker(), (walker(seed=1)[0] + np.random.default_rng(0).normal(0, 15, (30, 17, 2)), walker()[1] * 0.8)
    pair = PoseSequence(*(np.stack(x) for x in zip(calm, wild, strict=True)), LAYOUT, SIZE, 15.0)
    both, one, other = quality.measure(pair, crowd=2), numbers(*calm, crowd=2), numbers(*wild, crowd=2)
    assert both["jitter"] == other["jitter"] > one["jitter"] and both["score"] == other["score"] < one["score"]
    assert both.keys() == one.keys() and all(both[name] in (one[name], other[name]) for name in both)


def test_what_a_layout_cannot_tell_is_absent_and_passes():
    hand = np.tile(np.random.default_rng(0).uniform(20, 200, (1, 21, 2)), (30, 1, 1)) + np.arange(30)[:, None, None]
    found = numbers(hand, np.full((30, 21), 0.9), layout=layouts.get("hand21"))
    assert {"teleport", "full_frame", "jitter"} <= found.keys()
    assert not {"flip", "limb_drift", "limb_ratio", "crowd"} & found.keys()
    assert gates.judge(found, GATES) is None


def test_numbers_that_an_older_shard_lacks_pass():
    found = numbers(*walker())
    older = {name: found[name] for name in ("seconds", "frames", "observed", "presence", "detected", "score")}
    assert gates.judge(older, GATES) is None and gates.judge({}, GATES) is None
    assert gates.judge(dict.fromkeys(found, float("nan")), GATES) is None


@pytest.mark.parametrize("name", ["default", "strict"])
def test_planted_faults_are_found_and_named(name):
    """As in the benchmark, on fewer tracks: what is severe is found, and what is named has that fault."""
    found = bench.verdicts(26, 7, bench.PRESETS[name])
    clean = found["clean"][0]
    assert clean[None] >= 25, clean
    for gate in bench.FAULTS:
        mild, _, severe = bench.recalls(found, gate)
        assert severe >= 0.8, (gate, found[gate][2])
        assert bench.precision(found, gate) >= 0.85, gate
        assert name == "strict" or mild <= 0.75, f"{gate} takes trifles for faults"


def test_every_gate_is_planted_but_the_one_that_is_no_number():
    assert set(gates.REASONS) == {*bench.FAULTS, "duplicate"}


@pytest.mark.parametrize("seed", range(4))
def test_an_honest_track_passes_at_any_rate(seed):
    """What moves fast moves far from one frame to the next when there are few of them."""
    track = bench.clean(2 * seed + 1, seconds=4)
    for step in (1, 2, 4, 6):
        thinned = replace(track, keypoints=track.keypoints[:, ::step], scores=track.scores[:, ::step],
                          fps=track.fps / step)
        assert gates.judge(quality.measure(thinned), GATES) is None, step


def test_a_jump_is_judged_by_the_time_between_two_frames():
    jump = numbers(*walker()) | {"teleport": 0.6, "jitter": 0.3}
    for rate, reason in ((30, "teleport"), (15, "teleport"), (5, None)):
        assert gates.judge(jump | {"seconds": 30 / rate, "frames": 30.0, "observed": 1.0}, GATES) == reason


@pytest.mark.parametrize("name", ["penn", "pushfit_movenet"])
def test_honest_tracks_of_the_web_pass_the_newer_gates(name):
    store = annotations.read(need(DATA / "poses" / f"{name}.pkl"))
    tracks = [replace(store[i], fps=30.0, size=store[i].size or (1080, 1920)) for i in range(0, len(store), 3)]
    judged, lost = bench.losses(tracks, GATES)
    assert judged > 80 and all(count <= 0.02 * judged for count in lost.values()), (judged, lost)


def quantities():
    unit, size = st.floats(0, 1), st.floats(0, 5)
    bounded = ("observed", "presence", "detected", "score", "complete", "outside", "flip", "full_frame")
    free = ("seconds", "height", "motion", "jitter", "teleport", "limb_drift", "limb_ratio")
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(bounded, unit), **dict.fromkeys(free, size),
                                               "frames": st.integers(1, 200).map(float), "pixels": st.floats(0, 900),
                                               "crowd": st.integers(1, 60).map(float)})


@settings(max_examples=300, deadline=None)
@given(quantities())
def test_presets_are_ordered(found):
    for estimator in ("blazepose", OnnxConfig(**TOP_DOWN), "mine:Model"):
        every, default, strict = (gates.judge(found, Gates.model_validate(name).fitted(estimator))
                                  for name in ("all", "default", "strict"))
        assert every is None
        assert strict is not None or default is None
        assert {default, strict} <= {None, *gates.REASONS}


def harvest(*overrides):
    return config.load(Harvest, None, ["sources=[x]", "output=o", *overrides])


def test_a_preset_gives_what_is_not_given():
    strict = Gates.model_validate("strict").fitted("blazepose")
    assert harvest("gates=strict").gates == strict == harvest("gates={preset: strict}").gates
    mixed = harvest("gates.preset=strict", "gates.min_score=0.7").gates
    assert mixed.min_score == 0.7 and mixed.min_complete == strict.min_complete
    # Only the thresholds decide what lies in a folder, not the name by which they were asked for.
    spelt = harvest(f"gates={strict.model_dump_json()}")
    assert spelt.settings() == harvest("gates=strict").settings() != harvest().settings()
    assert spelt.fingerprint == harvest("gates=strict").fingerprint


def test_thresholds_on_scores_are_those_of_the_estimator():
    def scores(*overrides):
        found = harvest(*overrides).gates
        return found.min_presence, found.sure_presence, found.min_score

    assert scores() == scores("estimator=blazepose") == scores("estimator={name: blazepose}") == (0.9, 0.99, 0.65)
    assert scores("gates=strict") == (0.95, 0.99, 0.75)
    topdown = f"estimator={json.dumps(TOP_DOWN)}"
    assert scores(topdown) == (None, None, 0.4) and scores(topdown, "gates=strict") == (None, None, 0.55)
    # Of a user's own estimator nothing is known, and what is given holds for any.
    assert scores("estimator=mine:Model") == scores("estimator=mine:Model", "gates=strict") == (None, None, None)
    for estimator in (topdown, "estimator=mine:Model", "estimator=blazepose"):
        assert scores(estimator, "gates=all") == (0, 0, 0)
        assert scores(estimator, "gates={min_score: 0.2, min_presence: null}")[::2] == (None, 0.2)


def test_a_top_down_model_is_believed_where_its_detector_agrees():
    keypoints, scores = walker()
    gates_of = {name: Gates().fitted(name) for name in ("blazepose", "mine:Model")} | {
        "onnx": Gates().fitted(OnnxConfig(**TOP_DOWN))}
    # Scores and presence of a trained SimCC model; those of BlazePose would be near 1.
    found = numbers(keypoints, 0.5 + 0 * scores, presence=0.5, detected=0.6)
    assert {name: gates.judge(found, each) for name, each in gates_of.items()} == {
        "blazepose": "hallucinated", "onnx": None, "mine:Model": None}
    alone = numbers(keypoints, scores, presence=0.999, detected=0.1)
    assert {name: gates.judge(alone, each) for name, each in gates_of.items()} == {
        "blazepose": None, "onnx": "hallucinated", "mine:Model": "hallucinated"}
    dark = numbers(keypoints, 0.35 + 0 * scores, presence=0.35)
    assert gates.judge(dark, gates_of["onnx"]) == "low_score" and gates.judge(dark, gates_of["mine:Model"]) is None


def test_a_folder_remembers_the_thresholds_that_were_meant():
    for estimator in ("blazepose", TOP_DOWN, "mine:Model"):
        asked = Harvest.model_validate({"sources": ["x"], "output": "o", "estimator": estimator, "gates": "strict"})
        again = Harvest.model_validate({"sources": ["x"], "output": "o", **asked.settings()})
        assert again.settings() == asked.settings() and again.fingerprint == asked.fingerprint


@pytest.mark.parametrize(("override", "said"), [
    ("gates=strct", "did you mean 'strict'"), ("gates.preset=zzz", "known: default, strict, all"),
    ("gates.preset=[1]", "unknown preset"), ("gates.presett=strict", "did you mean 'preset'"), ("gates=3", "gates: "),
    ("gates.min_scor=1", "did you mean 'min_score'"), ("gates.max_crowd=0", "gates.max_crowd"),
])
def test_wrong_gates_are_explained(override, said):
    with pytest.raises(InputError) as caught:
        harvest(override)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_threshold_does_not_silently_replace_a_preset():
    with pytest.raises(InputError, match="gates is 'strict' already"):
        harvest("gates=strict", "gates.min_score=0.7")


def test_a_video_is_rejected_for_what_its_longest_track_was():
    assert gates.main_reason([("small", 9), (None, 90), ("jitter", 30), ("gaps", 30)]) == "jitter"
    assert gates.main_reason([]) == gates.main_reason([(None, 3)]) == "no_person"


def test_one_swap_and_the_way_back_are_forgiven_in_a_short_track():
    usual, numbers = GATES, {"seconds": 1.2, "fps": 15.0}
    for frames, swaps, wanted in ((16, 2, None), (16, 4, "flip"), (60, 2, None), (60, 13, "flip")):
        found = gates.judge({**numbers, "frames": float(frames), "flip": round(swaps / (frames - 1), 4)}, usual)
        assert found == wanted, (frames, swaps)
