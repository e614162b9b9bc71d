"""The page of many tracks: seconds and megabytes to write it, and how fast it opens and sifts in Chromium.

    python benchmarks/browse.py [tracks]

Tracks are 60 frames of 17 joints with 17 numbers, two a video, each video with an address of its own; every tenth is
rejected. Times in the browser are from the change of a filter to the next frame that was painted, medians of seven.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the browser of the tests

from skelcore import browse, layouts, shards
from skelcore.sequence import PoseSequence
from tests import browser

NAMES = ("score", "height", "seconds", "presence", "jitter", "complete", "outside", "motion", "teleport", "flip",
         "limb_drift", "limb_ratio", "full_frame", "crowd", "observed", "pixels", "detected")
A_SHARD, A_VIDEO, FRAMES = 10_000, 2, 60
# What a reader may do, as JavaScript.
CHANGES = {
    "a number's range": "set('[name=\"jitter.most\"]', value, 'input')",
    "text of a source": "set('[name=text]', 'clip ' + i, 'input')",
    "order by a number": "set('[name=sort]', names[i], 'change')",
    "a verdict": "document.querySelector('[name=verdict]').click()",
    "turn a page": "document.querySelector('[name=on]').click()",
}
TIMED = """(async () => {
  const set = (what, to, event) => {
    const field = document.querySelector(what);
    field.value = to;
    field.dispatchEvent(new Event(event));
  };
  const names = ['score', 'height', 'presence', 'complete', 'outside', 'motion', 'flip'], took = [];
  for (let i = 0; i < 7; i++) {
    const value = 1 + i / 10, begin = performance.now();
    CHANGE;
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    took.push(performance.now() - begin);
  }
  document.querySelector('[name=clear]').click();
  return took;
})()"""


def write_shards(folder: Path, tracks: int) -> None:
    """Shards of a harvest's output: smooth random motion, and numbers of any size."""
    generator = np.random.default_rng(0)
    layout = layouts.get("coco17")
    drift = np.cumsum(generator.normal(size=(64, 1, FRAMES, 1, 2)), axis=2) * 3
    poses = generator.uniform(300, 700, (64, 1, 1, 17, 2)) + drift
    some = [PoseSequence(each, np.ones((1, FRAMES, 17)), layout, (1080, 1920), 15.0, meta={"start": 1.0})
            for each in poses]
    for shard, begin in enumerate(range(0, tracks, A_SHARD)):
        blocks: dict[str, list[shards.Block]] = {"shards": [], "rejected": []}
        for first in range(begin, min(begin + A_SHARD, tracks), A_VIDEO):
            numbers = np.round(generator.gamma(2, size=(A_VIDEO, len(NAMES))), 4).tolist()
            rejected = first // A_VIDEO % 10 == 0
            quality = [{"track": i, **dict(zip(NAMES, row, strict=True)), **({"reason": "jitter"} if rejected else {})}
                       for i, row in enumerate(numbers)]
            source = {"url": f"https://videos.example/watch/clip-{first:08d}.mp4", "licence": "CC-BY-4.0",
                      "label": f"action {first % 60}", "extractor": "direct"}
            blocks["rejected" if rejected else "shards"].append(
                shards.Block(f"v{first:08d}", [some[(first + i) % 64] for i in range(A_VIDEO)], quality, source, {}))
        for part, found in blocks.items():
            shards.write(folder / part / f"{shard:06d}.tar", found)


def main() -> int:
    tracks = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder, page = Path(name) / "out", Path(name) / "page.html"
        write_shards(folder, tracks)
        begin, cpu = time.perf_counter(), time.process_time()
        found = browse.write(str(folder), page)
        print(f"{len(found.verdict):,} tracks, {len(found.posed):,} with poses: {time.perf_counter() - begin:.1f} s "
              f"({time.process_time() - cpu:.1f} s of processor), {page.stat().st_size / 1e6:.1f} MB, peak of the "
              f"process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
        begin = time.perf_counter()
        with browser.opened(page, Path(name) / "profile") as opened:
            opened.wait("document.querySelectorAll('.card').length")
            print(f"opens in {time.perf_counter() - begin:.1f} s, the start of Chromium included")
            for what, change in CHANGES.items():
                took = opened.see(TIMED.replace("CHANGE", change))
                print(f"{what:20}{statistics.median(took):7.0f} ms, worst {max(took):.0f}")
            heap = opened.see("performance.memory.usedJSHeapSize") / 1e6
            print(f"JavaScript's heap {heap:.0f} MB; complaints: {len(opened.complaints)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
