"""Pose estimators side by side on one video: how fast they are, how sure, and how far they agree.

Each is run as in a harvest, decoding and tracking included. Agreement is the share of limb joints that two
estimators both see and put within 0.2 torsos of each other (PCK@0.2, the torso being that of the column's estimate),
over the persons that both found. On `mannequin`, rendered people whose joints are known, the column `truth` is the
share of their visible limb joints that the estimator puts within 0.2 torsos; what it does not find is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np

from harvest import decode
from harvest.agreement import ALPHA, IN_VIEW, accuracy, agreement, first_tick, present
from harvest.estimators import Estimator, build
from harvest.estimators.config import Choice
from harvest.extract import scan
from skelcore import config as configs
from skelcore import draw, mannequin
from skelcore.command import Parser
from skelcore.errors import InputError
from skelcore.files import atomic
from skelcore.sequence import PoseSequence

MANNEQUIN = "mannequin"
_SHORT_SIDE, _EVERY, _PERSONS = 720, 5, 8
_PANEL = 360  # short side of a picture in the video


class Chosen(configs.Config):
    """A file that holds one estimator, written as in the harvest's configuration."""

    estimator: Choice


@dataclass(frozen=True)
class Footage:
    """Videos that are looked at as one, one after the other, and the tracks of the people in them where known."""

    name: str
    paths: list[Path]
    truth: list[PoseSequence] | None = None


@dataclass(frozen=True)
class Result:
    """What one estimator made of the footage: its tracks, and the frames a second."""

    name: str
    sequences: list[PoseSequence]
    frames: int
    speed: float

    @property
    def persons(self) -> float:
        """Persons in a frame, on average."""
        return sum(len(present(each)) for each in self.sequences) / self.frames

    @property
    def score(self) -> float:
        """Mean score of the joints of those persons; nan without any."""
        scores = [each.scores[0, present(each)].mean(1) for each in self.sequences]
        return float(np.concatenate(scores).mean()) if scores else float("nan")


def run(footage: Footage, name: str, estimator: Estimator, fps: float, seconds: float) -> Result:
    """The first ``seconds`` of each video through an estimator."""
    estimator.detect(np.zeros((1, 64, 64, 3), np.uint8))  # what a model does only once is not part of its speed
    start = time.perf_counter()
    found = [scan(path, estimator, fps, _EVERY, _SHORT_SIDE, float("inf"), _PERSONS, clip=(0, seconds))
             for path in footage.paths]
    took = time.perf_counter() - start
    frames = sum(each.frames for each in found)
    sequences = joined([each.sequences for each in found], [each.seconds for each in found])
    return Result(name, sequences, frames, frames / took)


def joined(videos: Sequence[Sequence[PoseSequence]], seconds: Sequence[float]) -> list[PoseSequence]:
    """The tracks of videos of that length in the time of all of them, one after the other."""
    begins = np.cumsum([0.0, *seconds])
    return [replace(each, meta={**each.meta, "start": float(each.meta.get("start", 0)) + begin})
            for video, begin in zip(videos, begins, strict=False) for each in video]


def mannequins(folder: Path, fps: float, seconds: float = 2.0) -> Footage:
    """Videos of every action, by one to three persons each, with their true joints; written to ``folder``."""
    return rendered(folder, (mannequin.perform(action, number, number, seconds=seconds, fps=fps, size=(360, 480),
                                               persons=1 + number % 3)
                             for number, action in enumerate(mannequin.ACTIONS)))


def rendered(folder: Path, performances: Iterable[mannequin.Performance]) -> Footage:
    """Videos of performances of one frame rate and an action each, written to ``folder``, with their true joints."""
    paths, truth = [], []
    for performance in performances:
        paths.append(folder / f"{performance.action}.mp4")
        mannequin.write_video(performance, paths[-1])
        whole = performance.sequence()
        height, width = performance.size
        inside = ((performance.keypoints >= 0) & (performance.keypoints <= [width - 1, height - 1])).all(-1)
        # Hidden joints score too little to be asked for, but tell how large the person is.
        scores = np.where(performance.visible, 1, IN_VIEW * inside).astype(np.float32)
        truth.append([replace(whole, keypoints=points[None], scores=seen[None])
                      for points, seen in zip(performance.keypoints, scores, strict=True)])
    return Footage(MANNEQUIN, paths, joined(truth, [each[0].frames / (each[0].fps or 1.0) for each in truth]))


def table(results: Sequence[Result], truth: Sequence[PoseSequence] | None = None) -> str:
    """Speed and sureness of each, and accuracy where the ``truth`` is known; then the agreement of each with each."""
    width = max(len("estimator"), *(len(each.name) for each in results))
    lines = [f"{'estimator':{width}}  frames/s  persons/frame  tracks  mean score" + ("  truth" if truth else "")]
    for each in results:
        right = f" {accuracy(each.sequences, truth):6.3f}" if truth else ""
        lines.append(f"{each.name:{width}} {each.speed:9.1f} {each.persons:14.2f} {len(each.sequences):7} "
                     f"{each.score:11.3f}{right}")
    if len(results) > 1:
        lines += ["", f"{f'PCK@{ALPHA}':{width}}" + "".join(f"  {each.name:>9}" for each in results)]
        lines += [f"{one.name:{width}}" + "".join(
            f"  {agreement(one.sequences, other.sequences):{max(9, len(other.name))}.3f}" for other in results)
            for one in results]
    return "\n".join(lines)


def write_video(footage: Footage, output: Path, results: Sequence[Result], fps: float, seconds: float) -> None:
    """The results next to each other, as an mp4 that appears when it is complete."""
    try:
        with atomic(output) as file, av.open(file, "w", format="mp4") as container:
            stream = None
            for tick, (frame, rate) in enumerate(_frames(footage, fps, seconds)):
                image = np.concatenate([_panel(frame, each, tick) for each in results], 1)
                image = image[:image.shape[0] // 2 * 2, :image.shape[1] // 2 * 2]  # as the codec wants it
                if stream is None:
                    stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001),
                                                  options={"crf": "20", "preset": "veryfast"})
                    stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], "yuv420p"
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                container.mux(stream.encode(picture))
            if stream is not None:
                container.mux(stream.encode())
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror})") from None


def _frames(footage: Footage, fps: float, seconds: float) -> Iterator[tuple[np.ndarray, float]]:
    """The frames, small, and their rate."""
    for path in footage.paths:
        for chunk in decode.chunks(path, fps, _PANEL, clip=(0, seconds)):
            for frame in chunk.frames:
                yield frame, chunk.rate


def _panel(frame: np.ndarray, result: Result, tick: int) -> np.ndarray:
    image = frame
    for sequence in result.sequences:
        t = tick - first_tick(sequence)
        if 0 <= t < sequence.frames:
            image = draw.draw_frame(image, sequence, t)
    image = np.ascontiguousarray(image).copy()
    for thickness, grey in ((3, 0), (1, 255)):
        cv2.putText(image, result.name, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (grey,) * 3, thickness, cv2.LINE_AA)
    return image


def _choice(word: str, layout: str) -> tuple[str, Estimator]:
    """The estimator of a word on the command line: a name, or a file that holds one."""
    if not word.endswith((".yaml", ".yml")):
        return word, build(word, layout)
    return Path(word).stem, build(configs.load(Chosen, word).estimator, layout)


def _parser() -> Parser:
    about, details = (__doc__ or "").split("\n", 1)
    parser = Parser("skelshot estimators", description=about, epilog=details)
    parser.add_argument("video", metavar="VIDEO", help=f"a video file with people, or `{MANNEQUIN}`")
    parser.add_argument("--with", nargs="+", default=["blazepose"], dest="estimators", metavar="ESTIMATOR",
                        help="blazepose, module:Class, or a .yaml file that holds `estimator:` (blazepose)")
    parser.add_argument("--output", type=Path, metavar="FILE.mp4", help="draw the poses into a video")
    parser.add_argument("--seconds", type=_positive, default=10.0, help="how much of the video (10)")
    parser.add_argument("--fps", type=_positive, default=15.0, help="frames a second (15)")
    parser.add_argument("--layout", default="coco17", help="joint layout of all of them (coco17)")
    return parser


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")
    return value


def _execute(arguments: argparse.Namespace) -> None:
    video, output = Path(arguments.video), cast("Path | None", arguments.output)
    if output is not None and output.suffix != ".mp4":
        raise InputError(f"--output {output}: must end in .mp4")
    if arguments.video != MANNEQUIN and not video.is_file():
        raise InputError(f"{video}: no such video file")
    # All of them first: what cannot be built is then known before minutes of measuring.
    built = [_choice(word, arguments.layout) for word in arguments.estimators]
    with tempfile.TemporaryDirectory(prefix="skelshot-") as folder:
        footage = (mannequins(Path(folder), arguments.fps) if arguments.video == MANNEQUIN
                   else Footage(video.name, [video]))
        results = []
        for name, estimator in built:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results.append(run(footage, name, estimator, arguments.fps, arguments.seconds))
        print(f"{footage.name}, {results[0].frames} frames\n{table(results, footage.truth)}")
        if output is not None:
            write_video(footage, output, results, arguments.fps, arguments.seconds)
            print(f"drawn in {output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; exit status 2 for bad arguments, 1 for a video that cannot be read."""
    return _parser().run(argv, _execute)


if __name__ == "__main__":
    sys.exit(main())
