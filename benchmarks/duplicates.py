"""Copies found and different clips merged, with 95 % intervals; and how fast a million descriptors are searched.

(a) Penn Action (people marked the joints, so a copy gets the errors of another pass of the estimator, simulated at the
size that they have between two passes over one video) and MoveNet's push-ups, the hardest negatives: many takes of one
person doing one thing. Only clips that pass the harvest's gates count. (b) Real videos, re-encoded, mirrored, sped up,
cropped and trimmed by PyAV, each version estimated anew by BlazePose. (c) The index against an exact search.
The threshold is the lowest at which no more than 1 % of the Penn clips of one half (by a hash of their ids) are
merged with another clip; Penn's other half is reported at it, all other data at the threshold that ships.
Run: python benchmarks/duplicates.py [folder of the data] [--full]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import av
import cv2
import faiss
import numpy as np
import torch

from harvest import duplicates, gates, pool, quality
from harvest.config import Gates
from harvest.copies import grouped
from harvest.descriptor import describe
from harvest.estimators import build
from harvest.extract import extract
from harvest.nearest import Nearest
from skelcore import shards
from skelcore.annotations import read
from skelcore.resample import Scratch, blend, neighbours
from skelcore.sequence import PoseSequence
from skelcore.shards import Block, ShardStore
from skelcore.views import body_scale
from skelcore.views.detector import BLAZEPOSE, corrupt

DATA = Path(os.environ.get("SKELSHOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
GATES = Gates.model_validate({})
FPS = 30.0  # of the clips in the pickles, which do not tell it
PASS = 0.4  # errors between two passes over one video, in errors of one pass
LOW = 0.75  # score from which pairs are looked at
FALSE = 0.01
COPIED = 150  # clips of each set of poses that are copied
# Takes out of one recording, told by its frames: neither copies nor different clips.
ONE_RECORDING = ({f"correct_correct{n}" for n in range(14, 19)}, {"correct_correct12", "correct_correct13"},
                 {f"wrong_wrong{n}" for n in range(11, 14)})
Kinds = Mapping[str, list[PoseSequence]]


def half(name: str) -> int:
    return hashlib.sha256(name.encode()).digest()[0] % 2


def interval(hits: int, count: int) -> str:
    """A share with its 95 % interval (Wilson's)."""
    z, share = 1.96, hits / max(count, 1)
    centre, spread = share + z * z / 2 / count, z * np.sqrt(share * (1 - share) / count + (z / 2 / count) ** 2)
    low, high = ((centre + sign * spread) / (1 + z * z / count) for sign in (-1, 1))
    return f"{hits:4d}/{count:<4d} {share:6.1%} [{max(low, 0.0):.1%}, {high:.1%}]"


def stored(folder: Path, sequences: Iterable[PoseSequence]) -> ShardStore:
    """The tracks as shards, a block for each video (the id up to its slash)."""
    videos: dict[str, list[PoseSequence]] = {}
    for sequence in sequences:
        videos.setdefault(sequence.id.partition("/")[0], []).append(sequence)
    shards.write(folder / "set.tar", [Block(key, tracks, [{}] * len(tracks), {}, {}) for key, tracks in videos.items()])
    return shards.read(folder)


def pairs(sets: Kinds, least: float = LOW) -> list[tuple[str, str, float]]:
    """Proofs between the tracks of named sets, as (set/video/track, set/video/track, score)."""
    with tempfile.TemporaryDirectory() as name:
        searched = pool.join({kind: pool.of_store(stored(Path(name) / str(number), found))
                              for number, (kind, found) in enumerate(sets.items())})
        return [(searched.names[a], searched.names[b], score) for a, b, score in duplicates.proofs(searched, least)]


def another_pass(sequence: PoseSequence, generator: torch.Generator) -> PoseSequence:
    """The sequence as a second pass of an estimator would give it."""
    points, scores = torch.from_numpy(sequence.keypoints), torch.from_numpy(sequence.scores)
    truth = points.permute(3, 0, 1, 2)[None]
    moved, _ = corrupt(truth, scores[None], sequence.layout, BLAZEPOSE, body_scale(points[None], scores[None]),
                       torch.ones(1, dtype=torch.bool), 0.0, generator)
    return replace(sequence, keypoints=(truth + PASS * (moved - truth))[0].permute(1, 2, 3, 0).numpy())


def faster(sequence: PoseSequence, by: float = 1.25) -> PoseSequence:
    frames = max(2, round(sequence.frames / by))
    low, high, weight = (array[0] for array in neighbours(np.array([sequence.frames]), frames))
    keypoints, scores = sequence.keypoints[:, high].copy(), sequence.scores[:, high].copy()
    blend(sequence.keypoints[:, low].copy(), keypoints, sequence.scores[:, low].copy(), scores, weight, Scratch())
    return replace(sequence, keypoints=keypoints, scores=scores)


def cut(sequence: PoseSequence) -> PoseSequence:
    kept = slice(sequence.frames // 10, sequence.frames - sequence.frames // 10)
    return replace(sequence, keypoints=sequence.keypoints[:, kept], scores=sequence.scores[:, kept])


def copies_of_poses(sequences: Sequence[PoseSequence]) -> Kinds:
    """Copies of every kind, with the errors of another pass."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    kinds: dict[str, list[PoseSequence]] = {}
    for one in sequences:
        mirror, (height, width) = one.layout.mirror, one.size or (1, 1)
        seen = replace(one, keypoints=(one.keypoints * [-1, 1] + [width, 0])[:, :, mirror],
                       scores=one.scores[:, :, mirror])
        shift = rng.uniform(-0.1, 0.1, 2) * [width, height]
        moved = replace(one, keypoints=one.keypoints * rng.uniform(0.6, 1.2) + shift)
        for kind, copy in {"re-encoded": one, "mirrored": seen, "tempo 1.25": faster(one), "scaled and moved": moved,
                           "trimmed by 10 % at each end": cut(one)}.items():
            kinds.setdefault(kind, []).append(another_pass(copy, generator))
    return kinds


def clips(path: Path, most: int) -> list[PoseSequence]:
    """Evenly chosen clips that pass the gates, as a harvest would have left them."""
    store, found = read(path), []
    for i in np.unique(np.linspace(0, len(store) - 1, most).astype(int)).tolist():
        one = store[i]
        width, height = (one.keypoints[one.scores > 0].max(0, initial=0) + 20).astype(int).tolist()
        one = replace(one, fps=FPS, size=one.size or (height, width), label=None, id=f"{one.id}/0000")
        if gates.judge(quality.measure(one), GATES) is None:
            found.append(one)
    return found


def merged(found: list[tuple[str, str, float]]) -> dict[str, float]:
    """The best score that each different clip has with another one."""
    best: dict[str, float] = {}
    for a, b, score in found:
        names = _video(a), _video(b)
        if not any(set(names) <= group for group in ONE_RECORDING):
            for name in names:
                best[name] = max(best.get(name, 0.0), score)
    return best


def recalled(originals: list[PoseSequence], copies: list[PoseSequence], threshold: float) -> set[str]:
    """The copied videos that are in one group with their original."""
    found = pairs({"original": originals, "copy": copies}, threshold)
    names = sorted({name for a, b, _ in found for name in (a, b)})
    place = {name: number for number, name in enumerate(names)}
    groups: dict[str, set[str]] = {}
    for copy in grouped(names, [(place[a], place[b], score) for a, b, score in found]):
        groups.setdefault(copy.of, {copy.of}).add(copy.id)
    shown = [{name.rpartition("/")[0] for name in group} for group in groups.values()]
    return {video.partition("/")[2] for group in shown for video in group
            if f"original/{video.partition('/')[2]}" in group and f"copy/{video.partition('/')[2]}" in group}


def _video(name: str) -> str:
    return name.split("/")[1]


def show(label: str, hits: Container[str], names: Sequence[str]) -> None:
    print(f"  {label:40} {interval(sum(name in hits for name in names), len(names))}", flush=True)


def beyond(scores: Mapping[str, float], threshold: float) -> set[str]:
    return {name for name, score in scores.items() if score >= threshold}


def poses(path: Path, most: int, threshold: float | None) -> None:
    """Recall and false merges of the clips of a pickle; chooses a threshold when there is none."""
    start = time.perf_counter()
    originals = clips(path, most)
    names = [one.id.partition("/")[0] for one in originals]
    wrong = merged(pairs({"original": originals}))
    if threshold is None:
        tuning = [name for name in names if half(name) == 0]
        worst = sorted((wrong.get(name, 0.0) for name in tuning), reverse=True)[int(FALSE * len(tuning))]
        threshold = float(np.ceil(worst * 100 + 1e-9) / 100)
        print(f"threshold {threshold:.2f}, chosen on {len(tuning)} clips; {duplicates.THRESHOLD} ships")
        names = [name for name in names if half(name) == 1]
    print(f"{path.name}: {len(names)} clips that pass the gates, at {threshold:.2f}")
    show("different, merged with another", beyond(wrong, threshold), names)
    copied = names[::max(1, len(names) // COPIED)][:COPIED]
    reported = [one for one in originals if one.id.partition("/")[0] in set(copied)]
    for kind, copies in copies_of_poses(reported).items():
        show(f"found: {kind}", recalled(reported, copies, threshold), copied)
    print(f"  ({time.perf_counter() - start:.0f} s)")


def frames_of(path: Path, seconds: float = 12.0) -> tuple[list[np.ndarray], Fraction]:
    with av.open(str(path)) as container:
        rate = container.streams.video[0].average_rate or Fraction(25)
        frames = []
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) >= seconds * rate:
                break
    return frames, rate


def encode(path: Path, frames: Sequence[np.ndarray], rate: Fraction, quality: int) -> None:
    height, width = (side - side % 2 for side in frames[0].shape[:2])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": str(quality), "preset": "veryfast"}
        for frame in frames:
            image = np.ascontiguousarray(frame[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def versions(frames: list[np.ndarray], rate: Fraction) -> dict[str, tuple[list[np.ndarray], Fraction, int]]:
    """The original and its copies: frames, frame rate, and x264's CRF."""
    height, width = frames[0].shape[:2]
    small = [cv2.resize(frame, (width * 3 // 4, height * 3 // 4), interpolation=cv2.INTER_AREA) for frame in frames]
    part = slice(height // 25, height - height // 25), slice(width // 12, width - width // 33)
    tenth = len(frames) // 10
    return {"original": (frames, rate, 18),
            "re-encoded at 3/4 size, CRF 28": (small, rate, 28),
            "re-encoded at 3/4 size, CRF 34": (small, rate, 34),
            "mirrored": ([frame[:, ::-1] for frame in frames], rate, 26),
            "tempo 1.25": (frames, rate * Fraction(5, 4), 26),
            "cropped by 8 and 11 %, scaled": ([cv2.resize(frame[part], (width, height)) for frame in frames], rate, 26),
            "trimmed by 10 % at each end": (frames[tenth:len(frames) - tenth], rate, 26)}


def estimated(paths: Sequence[Path]) -> Kinds:
    """The tracks of the videos and of all their copies that pass the gates, each estimated anew, by kind."""
    estimator = build("blazepose")
    found: dict[str, list[PoseSequence]] = {}
    with tempfile.TemporaryDirectory() as name:
        for path in paths:
            key = "".join(c if c.isalnum() or c in "-_" else "_" for c in path.stem)
            for kind, (frames, rate, quality) in versions(*frames_of(path)).items():
                encode(Path(name) / "video.mp4", frames, rate, quality)
                kept = [track for track in extract(Path(name) / "video.mp4", estimator)
                        if gates.judge(track.meta["quality"], GATES) is None]
                found.setdefault(kind, []).extend(replace(track, id=f"{key}/{n:04d}") for n, track in enumerate(kept))
    return found


def videos(found: Kinds, threshold: float) -> None:
    """Recall and false merges of real videos, by video: found when any of its tracks is."""
    start = time.perf_counter()
    originals = found["original"]
    names = sorted({one.id.partition("/")[0] for one in originals})
    print(f"videos: {len(names)} with a track that passes the gates; at {threshold:.2f}")
    show("different, merged with another", beyond(merged(pairs({"original": originals})), threshold), names)
    for kind, copies in found.items():
        if kind != "original":
            have = sorted({one.id.partition("/")[0] for one in copies} & set(names))
            hits = recalled(originals, copies, threshold)
            show(f"found: {kind}", hits, have)
            if missed := [name for name in have if name not in hits]:
                print(f"    not: {', '.join(missed)}")
    print(f"  ({time.perf_counter() - start:.0f} s)")


def index(path: Path, count: int = 1_000_000, queries: int = 10_000) -> None:
    """Build and search an index of blends of real windows, beside the exact search of the same vectors."""
    rng = np.random.default_rng(0)
    windows = describe(clips(path, 2326)).vectors
    vectors = np.empty((count, windows.shape[1]), np.float32)
    for begin in range(0, count, 50_000):
        a, b = rng.integers(len(windows), size=(2, min(50_000, count - begin)))
        share = rng.random((len(a), 1), np.float32)
        vectors[begin:begin + len(a)] = share * windows[a] + (1 - share) * windows[b]
    faiss.normalize_L2(vectors)
    asked = vectors[rng.choice(count, queries, replace=False)]
    asked += rng.normal(0, 0.01, asked.shape).astype(np.float32)
    faiss.normalize_L2(asked)
    print(f"index: {count} vectors of {vectors.shape[1]} dimensions, blends of {len(windows)} windows; "
          f"{faiss.omp_get_max_threads()} threads")
    answers = []
    for name, exact, some in (("inverted file", 0, asked), ("exact", count, asked[:queries // 10])):
        begin_time = time.perf_counter()
        nearest = Nearest(vectors, exact)
        built = time.perf_counter()
        answers.append(nearest.search(some, 10)[1])
        searched = time.perf_counter() - built
        print(f"  {name:14} build {built - begin_time:6.1f} s, {len(some)} queries {searched:6.1f} s", flush=True)
        del nearest
    both = list(zip(*answers, strict=False))
    print(f"  recall of the nearest {np.mean([b[0] in a for a, b in both]):.4f}, "
          f"of the ten nearest {np.mean([len(np.intersect1d(a, b)) / 10 for a, b in both]):.4f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA)
    parser.add_argument("--full", action="store_true", help="all of Penn and all videos, not 500 clips and 12 videos")
    words = parser.parse_args()
    torch.set_num_threads(1)
    poses(words.data / "poses/penn.pkl", 2326 if words.full else 500, None)
    poses(words.data / "poses/pushfit_movenet.pkl", 265, duplicates.THRESHOLD)
    every = sorted(path for path in (words.data / "videos").rglob("*.*") if path.is_file())
    videos(estimated(every if words.full else every[::len(every) // 12][:12]), duplicates.THRESHOLD)
    index(words.data / "poses/penn.pkl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
