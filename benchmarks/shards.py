"""Pose shards beside webdataset with one npz + json a track: reading speed, memory, size, quantisation error.

    python benchmarks/shards.py [tracks]

Every track is 100 frames of 17 joints. The contenders read the same tracks in turns within one run; each figure is
the median of the rounds. "wall" is what this machine gave under whatever else it was doing, "CPU" is tracks for each
second of processor time, which is what a free core gives.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset

from skelcore import layouts, shards
from skelcore.batches import ClipDataset, ClipSampler, loader
from skelcore.sequence import PoseSequence

FRAMES, JOINTS, A_BLOCK, ROUNDS, BATCH = 100, 17, 20, 7, 64
SIZE = (1080, 1920)


def tracks(count: int, seed: int = 0) -> list[PoseSequence]:
    """Smooth random motion with a little jitter; one joint in twenty is missing."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        drift = np.cumsum(generator.normal(size=(1, FRAMES, 1, 2)), axis=1)
        jitter = generator.normal(size=(1, FRAMES, JOINTS, 2))
        keypoints = generator.uniform(300, 700, (1, 1, JOINTS, 2)) + drift + jitter
        scores = generator.uniform(0.3, 1, (1, FRAMES, JOINTS))
        scores[generator.random(scores.shape) < 0.05] = 0
        found.append(PoseSequence(keypoints, scores, layouts.get("coco17"), SIZE, 15.0))
    return found


def write_shards(folder: Path, sequences: list[PoseSequence], copies: int = 1) -> None:
    """``copies`` shards, each with all the sequences under keys of its own."""
    for copy in range(copies):
        blocks = (
            shards.Block(f"{copy:03d}-{begin:06d}", sequences[begin:begin + A_BLOCK],
                         [{"mean_score": 0.6} for _ in sequences[begin:begin + A_BLOCK]],
                         {"url": f"https://example.org/{begin}"}, {"model": "0" * 64})
            for begin in range(0, len(sequences), A_BLOCK))
        shards.write(folder / f"{copy:03d}.tar", blocks)


def write_peer(path: Path, sequences: list[PoseSequence]) -> None:
    """The usual way: one npz of float16 (T, V, 3) and one json a track."""
    with tarfile.open(path, "w") as tar:
        for number, sequence in enumerate(sequences):
            data = io.BytesIO()
            joints = np.concatenate([sequence.keypoints[0], sequence.scores[0, ..., None]], axis=-1)
            np.savez(data, keypoint=joints.astype(np.float16))
            text = json.dumps({"fps": 15.0, "size": SIZE, "url": "https://example.org"}).encode()
            for extension, content in (("json", text), ("npz", data.getvalue())):
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def contenders(folder: Path, peer: Path) -> dict[str, Callable[[], int]]:
    """What is read by each, and a function that reads it and answers how many tracks it was."""
    store = shards.read(folder)
    generator = np.random.default_rng(0)
    dataset = ClipDataset(store, FRAMES)
    resampled = ClipDataset(store, 64)

    def webdataset_npz() -> int:
        return sum(1 for _ in webdataset.WebDataset(str(peer), shardshuffle=False).decode().to_tuple("npz", "json"))

    def raw() -> int:
        order = generator.permutation(len(store)).tolist()
        for index in order:
            store.records(index)
        return len(order)

    def arrays() -> int:
        order = generator.permutation(len(store))
        for begin in range(0, len(order), BATCH):
            store.clips(order[begin:begin + BATCH], FRAMES)
        return len(order)

    def batches(source: ClipDataset) -> int:
        sampler = ClipSampler(len(source), BATCH, seed=0, drop_last=False)
        return sum(len(batch) for batch in loader(source, sampler, workers=0))

    return {
        "webdataset, npz + json a track, in file order": webdataset_npz,
        "shards, quantised arrays (no copy), random order": raw,
        "shards, float32 pixels + scores, random order": arrays,
        "shards, loader, batches of 64 x 100 frames, shuffled": lambda: batches(dataset),
        "shards, loader, 100 -> 64 frames interpolated": lambda: batches(resampled),
    }


def speed(folder: Path, peer: Path) -> None:
    candidates = contenders(folder, peer)
    wall: dict[str, list[float]] = {name: [] for name in candidates}
    processor: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, read in candidates.items():
            begin, begin_processor = time.perf_counter(), time.process_time()
            count = read()
            wall[name].append(count / (time.perf_counter() - begin))
            processor[name].append(count / (time.process_time() - begin_processor))
    base = next(iter(candidates))
    print(f"{'one process':54} {'wall /s':>10} {'CPU /s':>10} {'ratio':>7} {'CPU':>7}")
    for name in candidates:
        here, there = np.median(wall[name]), np.median(processor[name])
        print(f"{name:54} {here:10,.0f} {there:10,.0f} {here / np.median(wall[base]):6.1f}x "
              f"{there / np.median(processor[base]):6.1f}x")


def epoch(folder: str) -> None:
    """Read one shuffled epoch and print peak and anonymous memory (MB) before and after."""

    def memory() -> list[float]:
        status = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in status)
        return [int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "RssAnon")]

    before = memory()
    dataset = ClipDataset(shards.read(folder), 64)
    for _ in loader(dataset, ClipSampler(len(dataset), BATCH, seed=0), workers=0):
        pass
    print(json.dumps([before, memory()]))


def growth(small: Path, large: Path, counts: tuple[int, int]) -> None:
    for folder, count in zip((small, large), counts, strict=True):
        answer = subprocess.run([sys.executable, __file__, "--epoch", str(folder)], check=True, capture_output=True,
                                text=True)
        (peak, own), (peak_after, own_after) = json.loads(answer.stdout)
        size = sum(path.stat().st_size for path in folder.glob("*.tar")) / 2**20
        print(f"memory, a shuffled epoch of {count:6,} tracks ({size:5.0f} MB): peak {peak_after:4.0f} MB "
              f"(+{peak_after - peak:.0f}), of it anonymous {own_after:4.0f} MB (+{own_after - own:.0f})")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sequences = tracks(count)
        write_shards(folder / "set", sequences)
        write_peer(folder / "peer.tar", sequences)
        speed(folder / "set", folder / "peer.tar")
        total = sum(path.stat().st_size for path in (folder / "set").iterdir())
        hour = 15 * 3600 / (count * FRAMES) / 1e6
        peer = (folder / "peer.tar").stat().st_size
        print(f"size of a person-hour at 15 fps: shards {total * hour:.2f} MB with sidecars, peer {peer * hour:.2f} MB")
        store = shards.read(folder / "set")
        error = 0.0
        for index in range(min(count, 500)):
            seen = sequences[index].scores > 0
            error = max(error, float(np.abs(store[index].keypoints - sequences[index].keypoints)[seen].max()))
        print(f"quantisation: largest error at a 1920 x 1080 frame {error:.4f} px")
        part = sequences[:2000]
        write_shards(folder / "small", part)
        write_shards(folder / "large", part, copies=10)
        growth(folder / "small", folder / "large", (len(part), 10 * len(part)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--epoch"]:
        epoch(sys.argv[2])
    else:
        main()
