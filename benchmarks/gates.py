"""Quality gates: how well each finds the fault that it is for, what honest tracks it costs, and how long it takes.

Faults are planted into clean tracks of the mannequin, whose exact joints get a detector's small noise; how bad each is
is drawn evenly from a range that begins with what nobody would mind; its thirds are told as mild, medium and severe.
Recall: share of the tracks with a gate's fault that are rejected for its reason. Precision: share of those rejected
for its reason, over the clean tracks and those with any fault, that have its fault.
Honest tracks are the mannequin's as BlazePose sees it, human annotations of web video (Penn Action), and MoveNet on
push-ups from the web, which counts against the gates although some of it is wrong. The time is that of all numbers of
one track of 100 frames on one core, beside that of six of them in a loop over frames and joints.
Run: python benchmarks/gates.py [folder of the data]
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import numpy as np

from harvest.config import Gates
from harvest.estimators import build
from harvest.extract import extract
from harvest.gates import REASONS, judge
from harvest.quality import measure
from skelcore import annotations, mannequin
from skelcore.sequence import PoseSequence

DATA = Path(os.environ.get("SKELSHOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CLIPS, SECONDS, SEED, ROUNDS = 390, 6.0, 0, 201
SIZE, NOISE, SEEN = (480, 640), 0.004, 0.3
NEW = ("crowd", "hallucinated", "flip", "teleport", "jitter", "limb_drift")
PRESETS = {name: Gates.model_validate(name).fitted("blazepose") for name in ("default", "strict")}
TORSO = ("shoulder", "hip")
LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))

# What a fault makes of a clean track: another one, and what measure() is told about it.
Faulty = tuple[PoseSequence, dict[str, float]]
Fault = Callable[[PoseSequence, np.random.Generator, float], Faulty]
LEVELS = ("mild", "medium", "severe")


def clean(number: int, seconds: float = SECONDS) -> PoseSequence:
    """A track of the mannequin's true joints with a detector's small noise; every other one has 30 frames/s."""
    action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
    truth = mannequin.perform(action, number, number, seconds=seconds, fps=15 * (1 + number % 2), size=SIZE).sequence()
    rng = np.random.default_rng(number)
    noise = rng.normal(0, NOISE * height(truth), truth.keypoints.shape)
    scores = np.where(truth.scores > 0, rng.uniform(0.85, 1, truth.scores.shape), 0)
    return replace(truth, keypoints=truth.keypoints + noise, scores=scores)


def height(sequence: PoseSequence) -> float:
    """Median longer side of the person's box in pixels."""
    points = np.where(sequence.scores[0, ..., None] > 0, sequence.keypoints[0], np.nan)
    return float(np.nanmedian((np.nanmax(points, 1) - np.nanmin(points, 1)).max(-1)))


def between(mild: float, severe: float, bad: float) -> float:
    return mild + bad * (severe - mild)


def too_short(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    frames = max(2, round(between(0.9, 0.15, bad) * (track.fps or 15)))
    return replace(track, keypoints=track.keypoints[:, :frames], scores=track.scores[:, :frames]), {}


def crowd(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    return track, {"crowd": round(between(6, 40, bad))}


def hallucinated(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """A model in doubt, a person whom the detector hardly ever finds, or a pose pulled over the frame."""
    kind = rng.integers(3)
    if kind == 0:
        return track, {"presence": between(0.95, 0.5, bad)}
    if kind == 1:
        return track, {"presence": 0.95, "detected": between(0.6, 0, bad)}
    points = np.where(track.scores[..., None] > 0, track.keypoints, np.nan)
    low, high = np.nanmin(points, 2, keepdims=True), np.nanmax(points, 2, keepdims=True)
    frame, span = np.array(SIZE[::-1]), between(0.8, 1, bad)
    return replace(track, keypoints=frame * ((1 - span) / 2 + span * (track.keypoints - low) / (high - low))), {}


def small(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    factor = between(0.25, 0.03, bad) * SIZE[0] / height(track)
    return replace(track, keypoints=np.array(SIZE[::-1]) / 2 * (1 - factor) + track.keypoints * factor), {}


def few_joints(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """The legs are out of sight most of the time, the rest is surely seen."""
    scores = np.where(track.scores > 0, 1.0, 0.0)
    legs = track.layout.index("left_knee", "right_knee", "left_ankle", "right_ankle")
    hidden = rng.random(track.frames) < between(0.4, 1, bad)
    scores[:, :, legs] *= ~hidden[:, None]
    return replace(track, scores=scores), {}


def low_score(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    return replace(track, scores=track.scores * between(0.85, 0.4, bad)), {}


def truncated(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """Moved until a tenth to three quarters of the joints have left the frame; the model goes on guessing them."""
    edge = np.quantile(track.keypoints[..., 0][track.scores > 0], between(0.1, 0.75, bad))
    return replace(track, keypoints=track.keypoints - [edge, 0], scores=np.full_like(track.scores, 0.9)), {}


def gaps(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    gone = rng.random(track.frames) < between(0.15, 0.75, bad)
    return replace(track, scores=track.scores * ~gone[:, None]), {}


def frozen(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """A still, at which the model trembles a little."""
    still = np.repeat(track.keypoints[:, :1], track.frames, 1)
    noise = rng.normal(0, between(0.004, 0, bad) * height(track), still.shape)
    return replace(track, keypoints=still + noise, scores=np.repeat(track.scores[:, :1], track.frames, 1)), {}


def flip(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """Left and right change places in a share of the frames."""
    swapped = np.flatnonzero(rng.random(track.frames) < between(0, 0.3, bad))
    keypoints, scores = track.keypoints.copy(), track.scores.copy()
    keypoints[:, swapped] = keypoints[:, swapped][:, :, track.layout.mirror]
    scores[:, swapped] = scores[:, swapped][:, :, track.layout.mirror]
    return replace(track, keypoints=keypoints, scores=scores), {}


def teleport(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """From one to three times the track goes on elsewhere, as when it slips over to another person."""
    moved, step = track.keypoints.copy(), between(0.2, 1.5, bad) * height(track)
    for start in rng.choice(np.arange(2, track.frames - 2), rng.integers(1, 4), replace=False):
        moved[:, start:] += step * np.array([rng.choice([-1, 1]), rng.uniform(-0.2, 0.2)])
    return _framed(track, moved), {}


def jitter(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    noise = rng.normal(0, between(0.01, 0.1, bad) * height(track), track.keypoints.shape)
    return replace(track, keypoints=track.keypoints + noise), {}


def limb_drift(track: PoseSequence, rng: np.random.Generator, bad: float) -> Faulty:
    """The limbs of one side are stretched, or all grow and shrink in time."""
    stretched, one_side = track.keypoints.copy(), rng.random() < 0.5
    clock = np.linspace(0, 2 * math.pi * rng.uniform(0.5, 1.5), track.frames) + rng.uniform(0, 6)
    largest = math.log(between(1.2, 4, bad))
    factor = np.exp(np.full_like(clock, largest) if one_side else largest * np.sin(clock))
    for side in ("left_",) if one_side else ("left_", "right_"):
        for inner, outer in LIMBS:
            i, o = track.layout.index(side + inner, side + outer)
            limb = track.keypoints[:, :, o] - track.keypoints[:, :, i]
            stretched[:, :, o] = stretched[:, :, i] + limb * factor[:, None]
    return _framed(track, stretched), {}


def _framed(track: PoseSequence, keypoints: np.ndarray) -> PoseSequence:
    """Other joints in a frame that is large enough for them: to leave it would be another fault."""
    moved = keypoints - keypoints.min((0, 1, 2)) + 10
    wide, tall = np.ceil(moved.max((0, 1, 2)) + 10).astype(int).tolist()
    return replace(track, keypoints=moved, size=(tall, wide))


FAULTS: dict[str, Fault] = {fault.__name__: fault for fault in (
    too_short, crowd, hallucinated, small, few_joints, low_score, truncated, gaps, frozen, flip, teleport, jitter,
    limb_drift)}


def verdicts(clips: int, seed: int, gates: Gates) -> dict[str, list[Counter[str | None]]]:
    """By fault ("clean" for none): how many of ``clips`` tracks got which verdict, for a mild, medium, severe one."""
    found: dict[str, list[Counter[str | None]]] = {name: [Counter() for _ in LEVELS] for name in ("clean", *FAULTS)}
    for number in range(clips):
        track = clean(seed + number)
        found["clean"][0][judge(measure(track), gates)] += 1
        for index, (name, fault) in enumerate(FAULTS.items()):
            rng = np.random.default_rng([seed, number, index])
            bad = rng.random()
            faulty, told = fault(track, rng, bad)
            found[name][int(bad * len(LEVELS))][judge(measure(faulty, **told), gates)] += 1  # type: ignore[arg-type]
    return found


def recalls(found: dict[str, list[Counter[str | None]]], gate: str) -> list[float]:
    """Share of the tracks with a gate's fault that are rejected for it, by how bad it is."""
    return [counts[gate] / max(sum(counts.values()), 1) for counts in found[gate]]


def precision(found: dict[str, list[Counter[str | None]]], gate: str) -> float:
    """Share of the tracks rejected for a gate's reason that have its fault."""
    named = sum(counts[gate] for levels in found.values() for counts in levels)
    return sum(counts[gate] for counts in found[gate]) / max(named, 1)


def plain(sequence: PoseSequence) -> dict[str, float]:
    """Six of the numbers of a one-person track, straight from their definitions."""
    points, scores, layout = sequence.keypoints[0].tolist(), sequence.scores[0].tolist(), sequence.layout
    rows = [t for t in range(len(points)) if max(scores[t]) > 0]
    joints = range(len(layout))
    boxes = []
    for t in rows:
        seen = [points[t][v] for v in joints if scores[t][v] > SEEN]
        if len(seen) >= 2:
            boxes.append([min(x for x, _ in seen), min(y for _, y in seen),
                          max(x for x, _ in seen), max(y for _, y in seen)])
    unit = max(statistics.median([max(b[2] - b[0], b[3] - b[1]) for b in boxes]) if boxes else 0, 1e-6)
    numbers: dict[str, float] = {}
    if sequence.size and boxes:
        tall, wide = sequence.size
        spans = [min((min(max(b[2], 0), wide) - min(max(b[0], 0), wide)) / wide,
                     (min(max(b[3], 0), tall) - min(max(b[1], 0), tall)) / tall) for b in boxes]
        numbers["full_frame"] = statistics.median(spans)
    jumps, swaps = [], []
    torso = [layout.index(f"left_{part}", f"right_{part}") for part in TORSO] if _has(layout.joints, TORSO) else []
    for a, b in pairwise(rows):
        both = [v for v in joints if scores[a][v] > SEEN and scores[b][v] > SEEN]
        if len(both) >= 3:
            jumps.append(statistics.median_low([math.dist(points[a][v], points[b][v]) for v in both]) / (b - a) / unit)
        if torso and b == a + 1 and all(v in both for pair in torso for v in pair):
            straight = sum(math.dist(points[a][v], points[b][v]) for pair in torso for v in pair)
            crossed = sum(math.dist(points[a][le], points[b][r]) + math.dist(points[a][r], points[b][le])
                          for le, r in torso)
            width = min(statistics.mean(math.dist(points[t][le], points[t][r]) for le, r in torso) for t in (a, b))
            swaps.append(width > 0.05 * unit and crossed < 0.5 * straight)
    if jumps:
        numbers["teleport"] = max(jumps)
    if swaps:
        numbers["flip"] = statistics.mean(swaps)
    if not _has(layout.joints, [part for limb in LIMBS for part in limb]):
        return numbers
    drifts, ratios = [], []
    for inner, outer in LIMBS:
        long = []
        for side in ("left_", "right_"):
            i, o = layout.index(side + inner, side + outer)
            known = [t for t in rows if scores[t][i] > SEEN and scores[t][o] > SEEN]
            lengths = {t: math.dist(points[t][i], points[t][o]) for t in known}
            if len(known) >= 5:
                long.append(sorted(lengths.values())[-1 - (len(known) - 1) // 10])
            relative = []
            for t in known:
                if all(scores[t][v] > SEEN for pair in torso for v in pair):
                    ends = [[statistics.mean(points[t][v][axis] for v in pair) for axis in (0, 1)] for pair in torso]
                    relative.append(lengths[t] / max(math.dist(*ends), 0.05 * unit))
            if len(relative) >= 5:
                drifts.append(statistics.pstdev(relative) / max(statistics.mean(relative), 1e-6))
        if len(long) == 2:
            ratios.append(max(long) / max(min(long), 0.01 * unit))
    if drifts:
        numbers["limb_drift"] = statistics.median(drifts)
    if ratios:
        numbers["limb_ratio"] = statistics.median(ratios)
    return numbers


def _has(joints: tuple[str, ...], parts: tuple[str, ...] | list[str]) -> bool:
    return all(f"{side}_{part}" in joints for side in ("left", "right") for part in parts)


def honest(data: Path) -> Iterator[tuple[str, list[PoseSequence]]]:
    """Sets of tracks of real persons, or of a real model."""
    yield "mannequin, exact", [clean(number) for number in range(1000, 1000 + CLIPS)]
    estimator = build("blazepose")
    with tempfile.TemporaryDirectory() as folder:
        tracks = []
        for number in range(2 * len(mannequin.ACTIONS)):
            path = Path(folder) / f"{number}.mp4"
            action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
            mannequin.write_video(mannequin.perform(action, number, number, seconds=SECONDS, fps=15), path)
            tracks += extract(path, estimator)
    yield "mannequin, BlazePose", tracks
    penn = annotations.read(data / "poses" / "penn.pkl")
    yield "Penn Action, 30/s", [replace(penn[i], fps=30) for i in range(len(penn))]
    yield "Penn Action, 15/s", [replace(penn[i], fps=15, keypoints=penn[i].keypoints[:, ::2],
                                        scores=penn[i].scores[:, ::2]) for i in range(len(penn))]
    push = annotations.read(data / "poses" / "pushfit_movenet.pkl")
    yield "push-ups, MoveNet", [replace(push[i], fps=30, size=(1080, 1920)) for i in range(len(push))]


def losses(tracks: list[PoseSequence], gates: Gates) -> tuple[int, Counter[str]]:
    """How many tracks are long enough to be judged, and how many of those each newer gate rejects by itself."""
    found: Counter[str] = Counter()
    loose = Gates.model_validate("all")
    fields = {"crowd": ["max_crowd"], "hallucinated": ["max_full_frame"], "teleport": ["max_teleport"],
              "flip": ["max_flip"], "limb_drift": ["max_limb_drift", "max_limb_ratio"], "jitter": ["max_jitter"]}
    judged = [numbers for track in tracks if (numbers := measure(track))["frames"] >= gates.min_frames]
    for name in NEW:
        alone = loose.model_copy(update={field: getattr(gates, field) for field in fields[name]})
        found[name] = sum(judge(numbers, alone) is not None for numbers in judged)
    return len(judged), found


def speed() -> tuple[float, float]:
    """Median CPU seconds of the loop and of ``measure`` on 100 frames, in turns."""
    track = clean(2, seconds=100 / 15)
    times: dict[Callable[[PoseSequence], object], list[float]] = {plain: [], measure: []}
    for _ in range(ROUNDS):
        for work, taken in times.items():
            started = time.process_time()
            work(track)
            taken.append(time.process_time() - started)
    return statistics.median(times[plain]), statistics.median(times[measure])


def main() -> None:
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    found = {name: verdicts(CLIPS, SEED, gates) for name, gates in PRESETS.items()}
    print(f"{CLIPS} clean tracks and as many with each fault, seed {SEED}:\n")
    columns = (*LEVELS, "precision")
    print("".join(f"| {title} " for title in ("gate", *columns, *(f"strict: {column}" for column in columns))) + "|")
    print("|---" + "|---:" * 2 * len(columns) + "|")
    for gate in FAULTS:
        cells = [f"{value:.2f}" for verdict in found.values()
                 for value in (*recalls(verdict, gate), precision(verdict, gate))]
        print(f"| {gate} | {' | '.join(cells)} |")
    for name, verdict in found.items():
        lost = Counter({reason: n for reason, n in verdict["clean"][0].items() if reason})
        print(f"\nClean tracks lost to `{name}`: {sum(lost.values())} of {CLIPS}"
              + "".join(f", {reason} {n}" for reason, n in lost.most_common()) + ".")
    print("\nHonest tracks lost to each newer gate by itself, `default` / `strict`, in per cent:\n")
    print(f"| tracks | judged | {' | '.join(NEW)} |\n|---|---:|{'---:|' * len(NEW)}")
    for title, tracks in honest(data):
        counted = {name: losses(tracks, gates) for name, gates in PRESETS.items()}
        cells = [" / ".join(f"{100 * lost[gate] / max(total, 1):.1f}" for total, lost in counted.values())
                 for gate in NEW]
        print(f"| {title} | {' / '.join(str(total) for total, _ in counted.values())} | {' | '.join(cells)} |")
    loop, vectorised = speed()
    print(f"\nNumbers of a track of 100 frames: {1e3 * vectorised:.2f} ms; six of them in a loop: {1e3 * loop:.1f} ms; "
          f"ratio {loop / vectorised:.1f}.")
    assert set(FAULTS) | {"duplicate"} == set(REASONS)


if __name__ == "__main__":
    main()
