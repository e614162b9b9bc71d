"""The whole chain on rendered people, offline: render, serve, harvest, pretrain, evaluate k-shot, report."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import multiprocessing
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from skelcore import command, demo_report, mannequin
from skelcore.config import Config
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, write_text
from skelcore.progress import Progress

# Nobody else's server: it may be asked for as much as the harvest can use.
_OWN_SERVER = "{hosts: {127.0.0.1: {concurrency: 8, gap_seconds: 0}}}"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class DemoConfig(Config):
    """The demonstration: how many people perform every action, and where the results go."""

    output: str = Field("demo", description="folder for videos, shards, checkpoint, tables and report.html")
    sources: list[str] = Field([], description="files, folders or URLs of your own, harvested beside the rendered ones")
    train_people: PositiveInt = Field(6, description="people in the unlabelled and support clips")
    train_takes: PositiveInt = Field(2, description="takes of each action by each; every take has its own view")
    test_people: PositiveInt = Field(4, description="other people, in the query clips")
    test_takes: PositiveInt = Field(2, description="takes of each action by each of those")
    seconds: float = Field(2.4, gt=0.5, description="length of a clip")
    fps: PositiveInt = Field(15, description="frames per second of a clip")
    workers: PositiveInt = Field(multiprocessing.cpu_count(), description="rendering processes")
    k_shot: list[PositiveInt] = Field([1, 2, 5, 10], description="labelled clips per action")


@dataclass(frozen=True)
class Clip:
    """One clip to render: what is done, by whom, in which take, for which split."""

    action: str
    person: int
    take: int
    split: str

    @property
    def name(self) -> str:
        return f"{self.action}-p{self.person:02}-t{self.take:03}"


def clips(config: DemoConfig) -> list[Clip]:
    """All clips: people differ between the two splits, and every clip has a take, hence a view, of its own."""
    cast = [("train", person) for person in range(config.train_people) for _ in range(config.train_takes)]
    cast += [("test", config.train_people + person) for person in range(config.test_people)
             for _ in range(config.test_takes)]
    parts = [(action, *part) for action in mannequin.ACTIONS for part in cast]
    return [Clip(action, person, take, split) for take, (action, split, person) in enumerate(parts)]


def perform(clip: Clip, config: DemoConfig) -> mannequin.Performance:
    """The performance of a clip; a pure function of both, so ground truth need not be stored."""
    return mannequin.perform(clip.action, clip.person, clip.take, seconds=config.seconds, fps=config.fps)


def render(config: DemoConfig, folder: Path) -> None:
    """Render all clips to ``folder``, and three broken ones that a harvest must survive and count."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [clip for clip in clips(config) if not (folder / f"{clip.name}.mp4").exists()]
    work = functools.partial(_render_one, config=config, folder=folder)
    # Spawned, not forked: the caller may hold threads (torch, the web server).
    with multiprocessing.get_context("spawn").Pool(config.workers) as pool, Progress(len(todo), "clips") as progress:
        for _ in pool.imap_unordered(work, todo, chunksize=4):
            progress.update()
    mannequin.write_video(perform(clips(config)[0], config), folder / "empty-room.mp4", people=False)
    whole = (folder / f"{clips(config)[0].name}.mp4").read_bytes()
    with atomic(folder / "damaged.mp4") as file:
        file.write(whole[: len(whole) // 3])


def _render_one(clip: Clip, config: DemoConfig, folder: Path) -> None:
    mannequin.write_video(perform(clip, config), folder / f"{clip.name}.mp4")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """An HTTP server for ``folder`` on loopback; yields its address."""
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            # A client probes a file's type and hangs up before it downloads.
            with contextlib.suppress(ConnectionError):
                super().copyfile(source, outputfile)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def list_sources(config: DemoConfig, address: str) -> str:
    """The harvest's source list as CSV; ids of our own, so that no result depends on the server's port."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["id", "url", "label", "split", "licence"])
    table.writerows([clip.name, f"{address}/{clip.name}.mp4", clip.action, clip.split, "CC0"] for clip in clips(config))
    table.writerows([name, f"{address}/{name}.mp4", "", "broken", "CC0"]
                    for name in ("empty-room", "damaged", "not-there"))
    return text.getvalue()


def _run(module: str, *arguments: str) -> float:
    """Run one of the platform's commands as a user would; returns its seconds."""
    started = time.monotonic()
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    # One thread: the small encoder gains little from more, and loses several-fold when it has to share the cores.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    status = subprocess.run([sys.executable, "-m", module, *arguments], env=environment, check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise RunError(f"{module} ended with status {status}; its message stands above")
    return time.monotonic() - started


def _cleared(output: Path) -> dict[str, Path]:
    """The stages' folders, empty; only a folder that an earlier demonstration marked as its own is cleared."""
    stages = {name: output / name for name in ("harvest", "pretrain", "adapt")}
    marker = output / ".demonstration"
    taken = [folder for folder in stages.values() if folder.exists()]
    if taken and not marker.exists():
        raise InputError(f"output={output}: {taken[0]} is not the demonstration's own; choose another folder")
    for folder in taken:
        shutil.rmtree(folder)
    write_text(marker, "Folders beside this file are deleted by the next demonstration.\n")
    return stages


def execute(config: DemoConfig) -> None:
    """Run the chain; rendered videos are kept between runs, everything else starts afresh."""
    output = Path(config.output)
    stages = _cleared(output)
    videos = output / f"videos-{config.seconds:g}s-{config.fps}fps"
    seconds = {}
    started = time.monotonic()
    print(f"rendering {len(clips(config))} clips of {len(mannequin.ACTIONS)} actions", flush=True)
    render(config, videos)
    seconds["render"] = time.monotonic() - started
    with serve(videos) as address:
        write_text(output / "sources.csv", list_sources(config, address))
        sources = json.dumps([str(output / "sources.csv"), *config.sources])
        seconds["harvest"] = _run("harvest.run", str(CONFIGS / "harvest.yaml"), f"sources={sources}",
                                  f"output={stages['harvest']}", f"fps={config.fps}", f"politeness={_OWN_SERVER}")
    poses = stages["harvest"] / "shards"
    seconds["pretrain"] = _run("pretrain.run", str(CONFIGS / "pretrain/demo.yaml"), f"data={poses}",
                               f"monitor.data={poses}", f"output={stages['pretrain']}")
    seconds["adapt"] = _run("adapt.run", str(CONFIGS / "adapt/demo.yaml"),
                            "--k-shot", *map(str, config.k_shot), f"data={poses}",
                            f"checkpoint={stages['pretrain'] / 'checkpoint.pt'}", f"output={stages['adapt']}")
    truth = {clip.name: perform(clip, config).sequence() for clip in clips(config)}
    demo_report.write(output / "report.html", stages, truth, seconds)
    print(f"\nopen {output / 'report.html'}")


def plan(config: DemoConfig) -> str:
    """What the demonstration would do."""
    return f"{len(clips(config))} clips of {', '.join(mannequin.ACTIONS)} -> {config.output}/report.html"


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    # `make demo SOURCES="..."` hands them over in the environment, where no shell reads them.
    own = shlex.split(os.environ.get("SOURCES", ""))
    return command.run([*words, *(["--sources", *own] if own else [])], DemoConfig, __doc__ or "", plan, execute)


if __name__ == "__main__":
    sys.exit(main())
