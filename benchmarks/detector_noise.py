"""Detector noise: what real detectors do, and what the model fitted to it simulates.

(a) BlazePose on clips of the mannequin, whose true keypoints are known. (b) MoveNet on 265 push-up videos from the
web, without truth: how far a joint lies from the middle of its place a frame earlier and later, at each score. Both
are measured here from the videos and poses and printed beside what `skelcore.views.detector` simulates with the
constants it holds; with --fit the constants are fitted anew and printed as code.
Run: python benchmarks/detector_noise.py [folder of the data] [--fit]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # before this folder, whose names would hide packages

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, least_squares
from scipy.signal import savgol_filter
from scipy.stats import norm, rankdata, spearmanr

from harvest.estimators import build
from harvest.extract import extract
from skelcore import layouts, mannequin
from skelcore.annotations import read
from skelcore.views import body_scale
from skelcore.views.detector import BLAZEPOSE, KNOTS, LARGEST, MOVENET, Detector, Memory, Part, corrupt, limbs
from skelcore.views.parts import kind

COCO = layouts.get("coco17")
CLIPS, FPS, SECONDS, ROUNDS = 39, 15.0, 3.0, 10
REPEATS = 3  # simulations of every clip
DATA = Path(os.environ.get("SKELSHOT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
WEB = "poses/pushfit_movenet.pkl"

Array = NDArray[np.float64]


@dataclass
class Clip:
    """A detector's answer for one person: ``points`` (T, V, 2) in body scales, ``scores`` (T, V).

    ``truth`` (T, V, 2) where it is known; ``seen`` (T,) false where the person was not found.
    """

    points: Array
    scores: Array
    truth: Array | None
    seen: NDArray[np.bool_]


def harvested() -> list[Clip]:
    """BlazePose tracks of the mannequin over all actions and many persons and views, each third behind something."""
    estimator, clips = build("blazepose"), []
    for number in range(CLIPS):
        action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
        show = mannequin.perform(action, 100 + number // 2, 500 + number, seconds=SECONDS, fps=FPS,
                                 occluder=number % 3 == 2)
        with tempfile.TemporaryDirectory() as folder:
            mannequin.write_video(show, Path(folder) / "clip.mp4")
            tracks = extract(Path(folder) / "clip.mp4", estimator, fps=FPS)
        for track in sorted(tracks, key=lambda track: -track.frames)[:1]:
            first = round(track.meta["start"] * FPS)
            truth = show.keypoints[0, first : first + track.frames]
            size = scale(truth, np.ones(truth.shape[:2]))
            clips.append(Clip(track.keypoints[0, : len(truth)] / size, track.scores[0, : len(truth)], truth / size,
                              track.scores[0, : len(truth)].max(1) > 0))
    return clips


def web(data: Path) -> list[Clip]:
    """MoveNet's answers for the push-up videos."""
    clips = []
    store = read(data / WEB)
    for sequence in (store[i] for i in range(len(store))):
        points, scores = sequence.keypoints[0], sequence.scores[0]
        clips.append(Clip(points / scale(points, scores), scores, None, scores.max(1) > 0))
    return clips


def scale(points: Array, scores: Array) -> float:
    return float(body_scale(torch.from_numpy(points)[None, None], torch.from_numpy(scores)[None, None])[0])


# Measuring. Every function takes real and simulated clips alike.

PARTS = list(dict.fromkeys(kind(joint) for joint in COCO.joints))
JOINTS = {part: [i for i, joint in enumerate(COCO.joints) if kind(joint) == part] for part in PARTS}
GROUPS = {"arms": ("elbow", "wrist"), "legs": ("knee", "ankle"),
          "body": ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")}
LAGS = (1, 2, 3, 5, 8, 15, 30)
LOST, APART = 0.3, 0.3  # score of a lost limb; limbs so far apart can swap
ERROR_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def deviations(clips: list[Clip]) -> list[Array]:
    """What a detector gets wrong (T, V, 2), nan where nothing is known or left and right are exchanged.

    With truth, the error less the joint's mean over all clips (two people may mean different points by a hip, which is
    no noise); without, the distance from the middle between the place a frame before and a frame after.
    """
    if clips[0].truth is None:
        inner = [clip.points[1:-1] - (clip.points[:-2] + clip.points[2:]) / 2 for clip in clips]
        return [np.pad(each, ((1, 1), (0, 0), (0, 0)), constant_values=np.nan) for each in inner]
    found = []
    for clip in clips:
        assert clip.truth is not None
        wrong = ~clip.seen | np.any([crossed(clip.points, clip.truth, group)[0] for group in GROUPS], axis=0)
        found.append(np.where(wrong[:, None, None], np.nan, clip.points - clip.truth))
    usual = np.nanmean(np.concatenate(found), 0)
    return [each - usual for each in found]


def crossed(points: Array, other: Array, group: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(T,) whether the group's left and right joints lie much nearer each other's places in ``other`` than their own.

    And whether these are so far apart that it can be told.
    """
    left, right = (COCO.index(*(f"{side}_{part}" for part in GROUPS[group])) for side in ("left", "right"))

    def distance(one: Array, joints: list[int], others: list[int]) -> Array:
        return np.linalg.norm(one[:, joints] - other[:, others], axis=-1).mean(1)

    apart = distance(other, left, right) > APART
    both = left + right
    return apart & (distance(points, both, right + left) < 0.5 * distance(points, both, both)), apart


def swapping(clips: list[Clip], group: str) -> tuple[float, float]:
    """Share of frames that begin an exchange, and its mean length in frames.

    Without truth, sudden exchanges between two frames are counted, when one begins and when it ends; two of them, at
    most 15 frames apart, make one.
    """
    runs: list[int] = []
    frames = begun = 0.0
    for clip in clips:
        if clip.truth is not None:
            swapped, apart = crossed(clip.points, clip.truth, group)
            found = lengths(clip.seen & swapped)
            frames, begun, runs = frames + (clip.seen & apart).sum(), begun + len(found), runs + found
        else:
            swapped, apart = crossed(clip.points[1:], clip.points[:-1], group)
            events = np.flatnonzero(swapped)
            frames, begun = frames + apart.sum(), begun + len(events) / 2
            runs += [gap for gap in np.diff(events) if gap <= 15]
    return float(begun / frames), float(np.mean(runs)) if runs else float("nan")


def lengths(inside: NDArray[np.bool_]) -> list[int]:
    edges = np.flatnonzero(np.diff(np.r_[0, inside.astype(int), 0]))
    return (edges[1::2] - edges[::2]).tolist()


def lost(clips: list[Clip]) -> tuple[float, float]:
    """Share of arms and legs whose two outer joints both score below 0.3, and for how many frames they do."""
    outer = [COCO.index(f"{side}_{one}", f"{side}_{other}") for one, other in (GROUPS["arms"], GROUPS["legs"])
             for side in ("left", "right")]
    low = [clip.scores[clip.seen][:, limb].max(axis=1) < LOST for clip in clips for limb in outer]
    return float(np.concatenate(low).mean()), float(np.mean([length for each in low for length in lengths(each)]))


def hardness(clips: list[Clip]) -> list[Array]:
    """Scores (T, V) as normal numbers, by rank among their part's, the lowest score the highest; nan where unseen."""
    scores, seen = np.concatenate([c.scores for c in clips]), np.concatenate([c.seen for c in clips])
    hard = np.full(scores.shape, np.nan)
    for joints in JOINTS.values():
        values = -scores[seen][:, joints]
        normal = norm.ppf((rankdata(values) - 0.5) / values.size).reshape(values.shape)
        hard[np.flatnonzero(seen)[:, None], joints] = normal
    return np.split(hard, np.cumsum([len(c.scores) for c in clips])[:-1])


def autocorrelation(series: list[Array]) -> Array:
    """Correlation at LAGS of what may hold nan, about zero."""
    found = []
    for lag in LAGS:
        pairs = [(each[lag:].ravel(), each[:-lag].ravel()) for each in series if len(each) > lag]
        one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
        both = ~np.isnan(one * other)
        found.append((one * other)[both].sum() / ((one[both] ** 2).sum() * (other[both] ** 2).sum()) ** 0.5)
    return np.array(found)


def tamed(wrong: list[Array]) -> list[Array]:
    """Errors in which a few bursts do not outweigh everything else: divided by their part's median, bounded by 3."""
    out = [each.copy() for each in wrong]
    for joints in JOINTS.values():
        usual = np.nanmedian(np.linalg.norm(np.concatenate(wrong)[:, joints], axis=-1))
        for each in out:
            length = np.linalg.norm(each[:, joints], axis=-1, keepdims=True) / usual
            each[:, joints] /= usual * np.maximum(length / 3, 1)
    return out


def shared(hard: list[Array]) -> tuple[float, float]:
    """Correlation of hardness between limbs, and what correlation within a limb exceeds that by."""
    every = np.concatenate(hard)
    matrix = np.asarray(np.corrcoef(every[~np.isnan(every).any(1)].T))
    limb = np.array(limbs(COCO))
    same = limb[:, None] == limb
    between = matrix[~same].mean()
    return float(between), float(matrix[same & ~np.eye(len(limb), dtype=bool)].mean() - between)


def of_part(values: list[Array], part: str) -> Array:
    return np.concatenate(values)[:, JOINTS[part]].ravel()


def rank_correlation(sizes: Array, scores: Array) -> float:
    known = ~np.isnan(sizes)
    return float(spearmanr(sizes[known], scores[known])[0])


# Fitting: what a model is fitted to is one vector. For each part, log quantiles of its errors and their rank
# correlation with the score; autocorrelations; what limbs share; log share and length of lost limbs.

WIDTHS = {**{f"size {part}": len(ERROR_QUANTILES) for part in PARTS}, **{f"rank {part}": 1 for part in PARTS},
          "error": len(LAGS), "hardness": len(LAGS), "shared": 2, "losses": 2}
AIM = {name: slice(int(end) - width, int(end))
       for (name, width), end in zip(WIDTHS.items(), np.cumsum([*WIDTHS.values()]), strict=True)}


def aims(clips: list[Clip]) -> Array:
    """That vector of some clips; AIM says where in it each aim is."""
    wrong, hard, scores = deviations(clips), hardness(clips), [clip.scores for clip in clips]
    sizes = [of_part([np.linalg.norm(each, axis=-1) for each in wrong], part) for part in PARTS]
    return np.concatenate([
        *(np.log(np.nanquantile(size, ERROR_QUANTILES)) for size in sizes),
        [rank_correlation(size, of_part(scores, part)) for size, part in zip(sizes, PARTS, strict=True)],
        autocorrelation(tamed(wrong)), autocorrelation(hard), shared(hard), np.log(lost(clips))])


def memory(correlations: Array) -> Memory:
    """Steady, exponential and fresh shares from the autocorrelation at LAGS."""
    def wrong(x: Array) -> Array:
        return x[0] + (1 - x[0]) * x[1] * np.exp(-np.array(LAGS) / x[2]) - correlations

    steady, slow, frames = least_squares(wrong, [0.4, 0.8, 3.0], bounds=([0, 0, 0.5], [0.95, 1, 30])).x
    return Memory(round(float(steady), 3), round(float((1 - steady) * (1 - slow)), 3), round(float(frames), 2))


def size_of(quantiles: Array, rank: float) -> tuple[float, float, float, float]:
    """Calm error, onset, growth and link from log quantiles of the errors and their rank correlation with scores."""
    grid = (np.arange(300) + 0.5) / 300
    latent, ray = norm.ppf(grid)[:, None], np.sqrt(-2 * np.log(1 - grid))

    def deviation(latent: Array, x: Array) -> Array:
        return np.minimum(np.exp(x[0] + np.exp(x[2]) * np.maximum(latent - x[1], 0)), LARGEST)

    def wrong(x: Array) -> Array:
        return np.log(np.quantile(deviation(latent, x) * ray, ERROR_QUANTILES)) - quantiles

    start = [quantiles[2] - 0.16, 0.5, 0.0]
    x = least_squares(wrong, start, bounds=([-9, -1.5, -3], [0, 2.5, 1.6]), diff_step=1e-3).x
    rng = np.random.default_rng(0)
    hard, free, rays = rng.normal(size=20000), rng.normal(size=20000), np.sqrt(-2 * np.log(rng.random(20000)))

    def excess(link: float) -> float:
        size = deviation(link * hard + np.sqrt(1 - link**2) * free, x) * rays
        return float(spearmanr(size, -hard)[0]) - rank

    # The correlation falls as the link grows; one beyond reach gets the nearest link.
    link = 0.0 if excess(0) < 0 else 0.98 if excess(0.98) > 0 else float(brentq(excess, 0, 0.98, xtol=1e-3))
    return round(float(np.exp(x[0])), 4), round(float(x[1]), 3), round(float(np.exp(x[2])), 3), round(link, 3)


def fit(clips: list[Clip], error: Memory | None = None) -> Detector:
    """The statistics of a detector by matching what its simulation shows to what was measured.

    ``error`` is the errors' memory where truth is lacking.
    """
    measured = aim = aims(clips)
    rates = {group: swapping(clips, group) for group in GROUPS}
    # A whole body that swaps swaps its arms and legs too.
    swaps = {group: (round(max(rate - (rates["body"][0] if group != "body" else 0), 0), 5), round(max(length, 1), 2))
             for group, (rate, length) in rates.items()}
    scores = [clip.scores[clip.seen] for clip in clips]
    tables = {part: tuple(np.quantile(of_part(scores, part), KNOTS).round(3).tolist()) for part in PARTS}
    best, least = None, np.inf
    nearest: dict[str, tuple[float, Part]] = {}
    for _ in range(ROUNDS):
        parts = {part: Part(*size_of(aim[AIM[f"size {part}"]], float(aim[AIM[f"rank {part}"]][0])), tables[part])
                 for part in PARTS}
        body, limb = (round(float(part), 3) for part in aim[AIM["shared"]])
        share, length = np.exp(aim[AIM["losses"]])
        # Some limbs score low without being lost, for shorter.
        losses = round(float(share / length / 4), 5), round(float(length * 1.5), 2)
        found = Detector(parts, error or memory(aim[AIM["error"]]), memory(aim[AIM["hardness"]]), body, limb, swaps,
                         losses)
        short = measured - aims(simulated(clips, found))
        # Several sets of a part's numbers do nearly the same; rounds differ in which part they meet best.
        for part in PARTS:
            off = float(np.abs(short[AIM[f"size {part}"]]).mean() + 2 * np.abs(short[AIM[f"rank {part}"]][0]))
            nearest[part] = min(nearest.get(part, (np.inf, parts[part])), (off, parts[part]), key=lambda pair: pair[0])
        distance = float(np.mean([np.abs(short[each]).mean() for each in AIM.values()]))
        if distance < least:
            best, least = found, distance
        aim = aim + short / 2  # by half of what the simulation fell short of the measurement
    assert best is not None
    return replace(best, parts={part: nearest[part][1] for part in PARTS})


def simulated(clips: list[Clip], detector: Detector) -> list[Clip]:
    """The same clips with the detector's errors: put on the truth, or else on the smoothed tracks."""
    generator, answers = torch.Generator().manual_seed(0), []
    for clip in clips * (REPEATS if clips[0].truth is not None else 1):
        truth = clip.truth
        base = truth if truth is not None else savgol_filter(clip.points, 15, 2, axis=0)
        points = torch.from_numpy(np.ascontiguousarray(base)).permute(2, 0, 1)[None, :, None]
        ones = torch.ones(points.shape[:1] + points.shape[2:], dtype=points.dtype)
        one = torch.ones(1, dtype=points.dtype)
        moved, scores = corrupt(points, ones, COCO, detector, one, one > 0, 0, generator)
        answers.append(Clip(moved[0, :, 0].permute(1, 2, 0).numpy(), scores[0, 0].numpy(), truth,
                            np.ones(len(base), bool)))
    return answers


def table(title: str, measured: list[Clip], model: list[Clip]) -> None:
    print(f"\n{title}: measured | simulated")
    found = [aims(measured), aims(model)]
    print(f"{'part':<9}{'error median':>19}{'90 %':>17}{'99 %':>17}{'score 5 %':>15}{'median':>15}{'rank corr.':>17}")
    for part in PARTS:
        cells = []
        for clips, aim in zip((measured, model), found, strict=True):
            scores = of_part([clip.scores[clip.seen] for clip in clips], part)
            sizes = np.exp(aim[AIM[f"size {part}"]])[[2, 4, 6]]
            cells.append([*sizes, *np.quantile(scores, (0.05, 0.5)), *aim[AIM[f"rank {part}"]]])
        print(f"{part:<9}" + "".join(f"{a:9.3f} |{b:6.3f}" for a, b in zip(*cells, strict=True)))

    def row(name: str, *both: Array) -> None:
        print(f"{name:<44} " + " | ".join(" ".join(f"{value:7.4g}" for value in np.round(each, 4)) for each in both))

    if measured[0].truth is not None:
        row("error autocorrelation, 1 2 3 5 8 15 30 frames", *(aim[AIM["error"]] for aim in found))
    row("hardness autocorrelation", *(aim[AIM["hardness"]] for aim in found))
    row("hardness shared by body, further by limb", *(aim[AIM["shared"]] for aim in found))
    row("lost limbs (score < 0.3): share, frames", *(np.exp(aim[AIM["losses"]]) for aim in found))
    for group in GROUPS:
        row(f"swapped {group}: begun a frame, frames", *(np.array(swapping(c, group)) for c in (measured, model)))


def main() -> int:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--fit", action="store_true", help="fit the constants anew and print them")
    options = parser.parse_args()
    clips = harvested()
    print(f"(a) BlazePose: {len(clips)} of {CLIPS} clips with a person, {sum(len(c.scores) for c in clips)} frames")
    if options.fit:
        print(fit(clips))
    table("BlazePose against the mannequin's truth", clips, simulated(clips, BLAZEPOSE))
    if not (options.data / WEB).is_file():
        print(f"(b) MoveNet: skipped, {options.data / WEB} is absent")
        return 0
    clips = web(options.data)
    print(f"\n(b) MoveNet: {len(clips)} clips, {sum(len(c.scores) for c in clips)} frames")
    if options.fit:
        print(fit(clips, BLAZEPOSE.error))
    table("MoveNet, residual of neighbouring frames", clips, simulated(clips, MOVENET))
    return 0


if __name__ == "__main__":
    sys.exit(main())
