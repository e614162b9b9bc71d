"""Tracking: what the tracker, shots and quality numbers cost a frame, and how well persons keep their identities.

Eight persons walk about in a frame of 1280 pixels for 2000 frames; their exact poses, with noise and a fifth of them
missing, take the place of a pose model. The baseline, on the same poses and in turns with it, joins greedily by the
overlap of boxes with the last ones seen, as demonstrations of pose models do. Costs are medians over the rounds, also
as a share of what BlazePose takes for the same number of persons, measured in this run.

Then the whole harvest of rendered clips in which persons walk past one another, by BlazePose and by YOLOX-nano with
MoveNet (from the shared data; asked as `onnx` is, for all frames between two passes of the detector at once), with all
detections and with a fifth of them missing. Every frame counts in which a person is wholly in the picture, hidden or
not; and, in brackets, those in which half of the person can be seen; who is less in view is neither right nor wrong.
The thresholds were chosen on seeds 0 to 3.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import numpy as np

from harvest import oks, quality, shots
from harvest.decode import Chunk
from harvest.estimators import Estimator, build
from harvest.stitch import stitch, without_shadows
from harvest.track import Track
from harvest.tracker import Tracker
from harvest.untangle import untangled
from skelcore.identity import identity
from skelcore.layouts import get
from skelcore.mannequin import perform
from skelcore.sequence import PoseSequence
from tests.harvest import crossings, fakes
from tests.harvest.opinion import MoveNet

PERSONS, FRAMES, RATE, ROUNDS, WIDTH = 8, 2000, 15.0, 5, 1280
LAYOUT = get("coco17")
SEEDS = (10, 11, 12)

Answer = tuple[np.ndarray, np.ndarray]


def walkers(rng: np.random.Generator) -> np.ndarray:
    """True poses (P, T, 17, 2) of persons 200 pixels high who walk to and fro in front of one another."""
    t = np.arange(FRAMES) / RATE
    poses = []
    for person in range(PERSONS):
        gait = perform("walk_in_place", person, person, seconds=FRAMES / RATE, fps=RATE).keypoints[0].astype(float)
        gait -= gait[:, 11:13].mean(1, keepdims=True)
        x = WIDTH / 2 + rng.uniform(200, 550) * np.sin(t * rng.uniform(0.2, 0.5) + rng.uniform(0, 6))
        place = np.stack([x, np.full(FRAMES, 300 + 15 * person)], -1)
        poses.append(gait * 200 / np.ptp(gait[0, :, 1]) + place[:, None])
    return np.stack(poses)


def answers(truth: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> list[Answer]:
    """Keypoints (P, 17, 2) and scores (P, 17) of each frame, in no order."""
    found = []
    for t in range(FRAMES):
        poses = truth[rng.permutation(np.flatnonzero(there[:, t])), t]
        found.append((poses + rng.normal(0, 3, poses.shape), np.full(poses.shape[:2], 0.9)))
    return found


def ours(found: list[Answer]) -> list[Track]:
    tracker = Tracker(LAYOUT, RATE)
    for tick, (keypoints, scores) in enumerate(found):
        tracker.update(tick, keypoints, scores, np.ones(len(keypoints)))
    return stitch(untangled(without_shadows(tracker.finish(), LAYOUT), LAYOUT, RATE), LAYOUT, RATE)


def greedy(found: list[Answer]) -> list[Track]:
    """Each box goes on with the track whose last box it overlaps most, the best first; tracks live for a second."""
    tracks: list[Track] = []
    for tick, (keypoints, scores) in enumerate(found):
        alive = [track for track in tracks if tick - track.last <= RATE]
        last = np.array([oks.boxes(track.keypoints[-1], track.scores[-1]) for track in alive]).reshape(-1, 4)
        likeness = oks.iou(last[:, None], oks.boxes(keypoints, scores))
        for _ in range(len(keypoints)):
            if likeness.size and likeness.max() > 0.3:
                row, column = (int(i) for i in np.unravel_index(likeness.argmax(), likeness.shape))
                alive[row].add(tick, keypoints[column], scores[column], 1.0, None)
                likeness[row], likeness[:, column] = -1, -1
                keypoints, scores = keypoints.copy(), scores.copy()
                scores[column] = -1
        for column in np.flatnonzero(scores[:, 0] >= 0).tolist():
            tracks.append(Track())
            tracks[-1].add(tick, keypoints[column], scores[column], 1.0, None)
    return [track for track in tracks if len(track) >= 3]


def score(truth: np.ndarray, there: np.ndarray, tracks: list[Track]) -> str:
    """Against the persons where they were detected: a gap is no error of a tracker."""
    boxes = np.concatenate([truth.min(2), truth.max(2)], -1)
    boxes[~there] = np.nan
    found = np.full((len(tracks), FRAMES, 4), np.nan)
    for row, track in zip(found, tracks, strict=True):
        poses = np.stack(track.keypoints)
        row[track.ticks] = np.concatenate([poses.min(1), poses.max(1)], -1)
    result = identity(boxes, found)
    return f"IDF1 {result.idf1:.3f}, {result.switches:4d} switches, {len(tracks):4d} tracks of {PERSONS} persons"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(tracks: list[Track]) -> None:
    for track in tracks:
        keypoints, scores = np.stack(track.keypoints)[None], np.stack(track.scores)[None]
        quality.measure(PoseSequence(keypoints, scores, LAYOUT, (720, WIDTH), RATE))


class BoxedMoveNet(MoveNet):
    """The two small models, asked as the backend `onnx` is."""

    sequential = False


@dataclass(frozen=True)
class Scene:
    """A rendered crossing, and boxes of persons: ``whole``, ``partly`` in the picture, half ``seen`` or ``hardly``."""

    path: Path
    whole: np.ndarray
    partly: np.ndarray
    seen: np.ndarray
    hardly: np.ndarray


def rendered(estimators: dict[str, Estimator]) -> None:
    """Print the identity of the persons in rendered crossings, each kind and share of missing detections a line."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in crossings.KINDS:
            scenes = []
            for seed in SEEDS:
                frames, truth, visible, partly = crossings.scene(kind, seed)
                hidden = visible[..., None] < 0.5
                scenes.append(Scene(fakes.write(Path(folder) / f"{kind}{seed}.mp4", frames), truth, partly,
                                    np.where(hidden, np.nan, truth),
                                    np.where(hidden & ~np.isnan(truth), truth, partly)))
            for name, estimator in estimators.items():
                for drop in (0.0, 0.2):
                    forgetful = [crossings.Forgetful(estimator, drop, seed) for seed in SEEDS]
                    boxes = [crossings.found(one.path, each) for one, each in zip(scenes, forgetful, strict=True)]
                    results = [identity(one.whole, found, aside=one.partly)
                               for one, found in zip(scenes, boxes, strict=True)]
                    halves = [identity(one.seen, found, aside=one.hardly)
                              for one, found in zip(scenes, boxes, strict=True)]
                    print(f"  {name:9} {kind:5} {drop:.0%} missing: IDF1 " + ", ".join(
                        f"{whole.idf1:.3f} ({half.idf1:.3f})" for whole, half in zip(results, halves, strict=True))
                        + f"; switches {sum(r.switches for r in results)}, tracks {sum(map(len, boxes))} of "
                        f"{sum(len(one.whole) for one in scenes)}", flush=True)


def main() -> None:
    rng = np.random.default_rng(0)
    truth = walkers(rng)
    there = rng.random(truth.shape[:2]) >= 0.2
    found = answers(truth, there, rng)
    tracks = ours(found)
    picture = np.stack(list(perform("wave", 0, 0, seconds=2.0, fps=RATE, size=(720, WIDTH)).render()))
    estimator = build("blazepose")
    people = estimator.detect(picture[:1])[0]
    rounds = [(seconds(lambda: ours(found)) / FRAMES, seconds(lambda: greedy(found)) / FRAMES,
               seconds(lambda: measured(tracks)) / FRAMES,
               seconds(lambda: list(shots.marked(iter([Chunk(picture, 0, RATE, (720, WIDTH), (1.0, 1.0))]))))
               / len(picture),
               seconds(lambda: [estimator.estimate(picture[i:i + 1], [people]) for i in range(10)]) / 10 / len(people))
              for _ in range(ROUNDS)]
    tracker, baseline, quality, cuts, model = (1000 * median(column) for column in zip(*rounds, strict=True))
    whole = model * PERSONS
    print(f"{PERSONS} persons, {FRAMES} frames, 20 % of the poses missing")
    print(f"  tracker   {score(truth, there, tracks)}")
    print(f"  baseline  {score(truth, there, greedy(found))}")
    print(f"milliseconds a frame, and of BlazePose's {whole:.1f} for {PERSONS} persons")
    for name, cost in (("tracker", tracker), ("quality", quality), ("shots", cuts),
                       ("together", tracker + quality + cuts), ("baseline", baseline)):
        print(f"  {name:9} {cost:6.3f}  {100 * cost / whole:5.2f} %")
    print(f"rendered persons, seeds {SEEDS}")
    rendered({"blazepose": estimator, "onnx": BoxedMoveNet()})


if __name__ == "__main__":
    main()
