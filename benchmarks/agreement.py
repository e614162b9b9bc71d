"""Two pose backends that were trained apart, on real videos and on people whose joints are known.

real: all videos of the data, harvested with BlazePose and with YOLOX-nano + MoveNet (the second opinion of the tests,
judged by the gates of a top-down model), one sample a person; what became of the sources, and how far the kept tracks
agree. Persons are counted frame by frame; one is shared when the joints of the nearest of the other's lie at most a
torso away on average. PCK is the share of their joints, seen by both, within 0.2 torsos of BlazePose's estimate.
mannequin: PCK@0.2 of both against the true joints of rendered people, before any gate: limb joints in view; of a person
who is not found they are wrong. "Found" are the persons of a frame who are shared with the truth.

Run: python benchmarks/agreement.py [real] [mannequin] [--output FOLDER]   (a folder's finished harvests are not redone)
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the second estimator's; workers import it too

import numpy as np

from harvest import judged, plan, run
from harvest.agreement import ALPHA, IN_VIEW, Encounter, accuracy, encounter
from harvest.compare import Footage, rendered
from harvest.compare import run as estimated
from harvest.estimators import build
from harvest.ledger import Ledger
from skelcore import mannequin
from skelcore.sequence import PoseSequence

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SKELSHOT_DATA", ROOT.parent / "shared" / "data")).resolve()
SETS = ("videos", "videos/pushup", "videos_negative")
ESTIMATORS = {"BlazePose": ("blazepose", "default"),
              "MoveNet": ("tests.harvest.opinion:MoveNet", "{min_score: 0.4}")}  # a top-down model's
FPS, SECONDS, WORST = 15.0, 2.0, 6


@dataclass(frozen=True)
class Video:
    """What a harvest made of one source: how it was settled, why, the kept tracks and their numbers, and how many there
    were of ``all``."""

    status: str
    reason: str
    kept: list[PoseSequence]
    numbers: list[dict[str, float]]
    all: int


def harvested(output: Path, estimator: str, gates: str) -> dict[Path, Video]:
    """All videos of the data through a harvest into ``output``, by their files."""
    folders = ", ".join(str(DATA / name) for name in ("videos", "videos_negative"))
    status = run.main([f"sources=[{folders}]", f"output={output}", f"estimator={estimator}", f"gates={gates}",
                       "interactions=apart"])
    assert status == 0, f"the harvest ended with {status}"
    sources = plan.read(output / "plan.jsonl")
    found = {}
    with Ledger(output / "ledger.jsonl", sources) as ledger:
        for shard in range(sources.shards):
            tracks = judged.read(output, shard)
            for index in sources.members(shard):
                entry, key = ledger.entry(index), sources[index].id
                assert entry is not None, f"{key} is not settled"
                kept = [tracks.tracks[id] for id in sorted(tracks.kept) if id[0] == key]
                found[Path(sources[index].address)] = Video(
                    entry.status, entry.reason, [track for track, _ in kept], [numbers for _, numbers in kept],
                    sum(id[0] == key for id in tracks.tracks))
    return found


def real(folder: Path) -> None:
    """The tables of the real videos."""
    found = {name: harvested(folder / name, *how) for name, how in ESTIMATORS.items()}
    one, other = found.values()
    assert one.keys() == other.keys()
    sets = {name: [path for path in one if path.parent == DATA / name] for name in SETS}
    assert sum(map(len, sets.values())) == len(one)
    columns = ("videos", "estimator", "sources", "ok", "rejected", "failed", "tracks kept, of", "rejected sources")
    print("\n| " + " | ".join(columns) + f" |\n|---|---|{'---:|' * 5}---|")
    for title, paths in sets.items():
        for name, videos in found.items():
            print(f"| {title} | {name} | {accounts([videos[path] for path in paths])} |")
    met = {path: encounter(other[path].kept, one[path].kept) for path in one}
    columns = ("videos", "kept by both, one, none", "persons: BlazePose", "MoveNet", "shared, of BlazePose's",
               "of MoveNet's", "median distance, torsos", f"PCK@{ALPHA}")
    print("\n| " + " | ".join(columns) + f" |\n|---|{'---:|' * 7}")
    for title, paths in [*sets.items(), ("all", list(one))]:
        by = Counter(bool(one[path].kept) + bool(other[path].kept) for path in paths)
        print(f"| {title} | {by[2]}, {by[1]}, {by[0]} | {cells(sum((met[path] for path in paths), EMPTY))} |")
    print(f"\nKept by one of them, and the {WORST} with the lowest PCK:\n")
    lone = [path for path in one if bool(one[path].kept) != bool(other[path].kept)]
    apart = sorted((path for path in one if met[path].shared), key=lambda path: correct(met[path]))
    for path in [*lone, *apart[:WORST]]:
        print(f"| {path.relative_to(DATA)} | {cells(met[path])} | {one[path].reason} | {other[path].reason} |")
    print("\nNumbers of the kept tracks, least, 10 %, 50 %, 90 %:")
    for name, videos in found.items():
        print(f"{name}: {quantiles([numbers for video in videos.values() for numbers in video.numbers])}")


EMPTY = Encounter(0, 0, 0, np.zeros(0))


def accounts(videos: list[Video]) -> str:
    """How sources ended, which must be all of them."""
    states, reasons = Counter(video.status for video in videos), Counter(video.reason for video in videos)
    assert len(videos) == states["ok"] + states["rejected"] + states["failed"]
    assert all((video.status == "ok") == bool(video.kept) for video in videos)
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common() if reason)
    return (f"{len(videos)} | {states['ok']} | {states['rejected']} | {states['failed']} | "
            f"{sum(len(video.kept) for video in videos)} / {sum(video.all for video in videos)} | {told}")


def cells(met: Encounter) -> str:
    middle = float(np.median(met.apart)) if len(met.apart) else float("nan")
    return (f"{met.theirs} | {met.ours} | {met.shared / max(met.theirs, 1):.2f} | "
            f"{met.shared / max(met.ours, 1):.2f} | {middle:.3f} | {correct(met):.3f}")


def correct(met: Encounter) -> float:
    return float((met.apart <= ALPHA).mean()) if len(met.apart) else float("nan")


def quantiles(tracks: list[dict[str, float]]) -> str:
    return "; ".join(f"{key} " + " ".join(f"{value:.2f}" for value in np.quantile(
        [numbers[key] for numbers in tracks], [0, 0.1, 0.5, 0.9])) for key in ("score", "presence", "detected"))


def scene(folder: Path, size: tuple[int, int] = (360, 480), persons: int = 1, occluder: bool = False,
          away: float = 1.0) -> Footage:
    """Every action once, performed so."""
    folder.mkdir()
    return rendered(folder, (mannequin.perform(action, number, number, seconds=SECONDS, fps=FPS, size=size,
                                               persons=persons, occluder=occluder, away=away)
                             for number, action in enumerate(mannequin.ACTIONS)))


def truth(folder: Path) -> None:
    """The table of the rendered people."""
    scenes = {"one person": scene(folder / "one"), "two persons": scene(folder / "two", persons=2),
              "one person behind something": scene(folder / "behind", occluder=True),
              "a person half as large": scene(folder / "half", (720, 960), away=2),
              "a third": scene(folder / "third", (720, 960), away=3),
              "a fifth": scene(folder / "fifth", (720, 960), away=5)}
    built = {name: build(estimator) for name, (estimator, _) in ESTIMATORS.items()}
    columns = "".join(f" {name}: found | PCK@{ALPHA} | of the found |" for name in built)
    print(f"\n| rendered | height of the frame | joints in view |{columns}\n|---|{'---:|' * (2 + 3 * len(built))}")
    for title, footage in scenes.items():
        known = footage.truth or []
        text = f"| {title} | {' to '.join(f'{share:.0%}' for share in np.quantile(heights(known), [0.1, 0.9]))} "
        text += f"| {np.mean(np.concatenate([each.scores[0, :, 5:].ravel() for each in known]) > IN_VIEW):.2f} |"
        for name, estimator in built.items():
            tracks = estimated(footage, name, estimator, FPS, SECONDS).sequences
            met = encounter(tracks, known, IN_VIEW)
            text += f" {met.shared / met.theirs:.2f} | {accuracy(tracks, known):.3f} | {correct(met):.3f} |"
        print(text, flush=True)


def heights(known: list[PoseSequence]) -> np.ndarray:
    """Height of each person in each frame, from the highest to the lowest joint within it, over that of the frame."""
    shares = []
    for each in known:
        y = np.where(each.scores[0] > 0, each.keypoints[0, ..., 1], np.nan)
        shares.append((np.nanmax(y, 1) - np.nanmin(y, 1)) / (each.size or (1, 1))[0])
    return np.concatenate(shares)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="real|mannequin", help="which part (both)")
    parser.add_argument("--output", type=Path, help="folder that keeps the harvests")
    arguments = parser.parse_args()
    if not (DATA / "models").exists():
        print(f"skipped: {DATA} is absent (set SKELSHOT_DATA to the folder that holds videos/ and models/)")
        return 0
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"real": lambda: real((arguments.output or Path(folder)).absolute()),
                 "mannequin": lambda: truth(Path(folder))}
        for part in arguments.what or parts:
            parts[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
