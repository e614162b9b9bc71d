"""A handful of videos of each class -> the classes of other videos.

  predict.py --support DIR --query VIDEO_OR_DIR --checkpoint CKPT [config.yaml] [key=value ...]
  predict.py --model FILE --query VIDEO_OR_DIR [config.yaml] [key=value ...]

DIR/<class>/*.mp4 are the support: from each video the main person is learnt, the one who is largest for longest. Long
queries are looked at in windows as long as a support clip (median), half of one apart, each person apart; neighbouring
windows with the same answer make a segment. Writes to OUTPUT:

  model.pt          the encoder with what was learnt: predicts the same without the support
  predictions.json  {"model", "classes", "calibration": {"temperature", "threshold", "left_out"}, "unknown", "window",
                    "videos": [{"video", "sha256", "in_support", "note", "answer", "confidence", "ranked", "novelty",
                    "tracks": [{"track", "main", "start", "stop", "answer", "confidence", "ranked", "novelty",
                    "segments": [{"start", "stop", "answer", "confidence", "ranked", "novelty"}]}]}]}
  predictions.csv   a line for each segment: video, track, main, start, stop, answer, confidence, novelty, note, and the
                    probability of every class; a video with nobody in it has a line without an answer
  <video>.mp4       the query with skeletons, class and confidence of each person

`answer` of a video is that of its main person; null, with the reason as `note`, where nobody is in view or the video
cannot be read. `ranked` lists every class with its probability, and `confidence` is that of the first. `answer` is
"unknown" where `novelty` (1 = as far from the support as clips of known classes get) is above `unknown`; `ranked` then
says what it would be otherwise. Times are seconds of the video. `in_support` tells of a query that was learnt from.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import Field, model_validator

from adapt import annotate, checks, classifier, library, windows
from adapt.annotate import Person
from adapt.classifier import Classifier
from adapt.library import Library, Poses
from adapt.predictions import Found, as_csv, as_json
from adapt.windows import UNKNOWN, Answer
from harvest.extract import BlazePoseConfig, identity
from skelcore import command
from skelcore.config import Config
from skelcore.errors import InputError, RunError
from skelcore.files import cache_folder, write_text
from skelcore.progress import Progress
from skelcore.sequence import PoseSequence


class PredictConfig(Config):
    """What to learn from, what to ask, and how to read the videos."""

    support: str | None = Field(None, description="folder with a folder of videos for each class")
    query: str = Field(description="video, or folder of videos, to classify")
    checkpoint: str | None = Field(None, description="pretraining checkpoint, for support")
    model: str | None = Field(None, description="model.pt of an earlier run, instead of support and checkpoint")
    output: str = Field("predictions", description="folder for what is written")
    cache: str | None = Field(None, description="folder of poses, kept by the content of the videos; null is poses in "
                                                "the user's cache ($SKELSHOT_CACHE)")
    unknown: float | None = Field(1.0, ge=0, description="novelty above which the answer is unknown: below 1 more "
                                                         "often, above 1 more rarely; null never")
    window: float | None = Field(None, gt=0, description="seconds of a window; null is a support clip's median length")
    min_seconds: float = Field(0.5, ge=0, description="people in view for a shorter time are left aside")
    annotate: bool = Field(True, description="write annotated videos")
    poses: Poses = Field(Poses(), description="how poses are read; a model brings its own, and only an estimator with "
                                             "code or files of its own is named again")
    device: str = Field("auto", description="auto (GPU when there is one), cpu, cuda, cuda:0, ...")

    @model_validator(mode="after")
    def _one_way(self) -> PredictConfig:
        own = Poses(estimator=self.poses.estimator)
        if self.model is not None and (self.support or self.checkpoint or self.poses != own):
            raise ValueError("model brings its own support, checkpoint and poses; leave those out")
        if self.model is None and not (self.support and self.checkpoint):
            raise ValueError("give support (a folder of videos for each class) and checkpoint, or model")
        return self


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    # No option takes a configuration file as its value, so one may also stand behind an option's.
    ordered = sorted(words, key=lambda word: not word.endswith((".yaml", ".yml")))
    return command.run(ordered, PredictConfig, (__doc__ or "").strip(), plan, execute)


def plan(config: PredictConfig) -> str:
    """What the command would do, after the checks that it begins with."""
    queries = _prepare(config)
    if config.model is not None:
        known = f"{config.model} knows {', '.join(_loaded(config, torch.device('cpu')).classes)}"
    else:
        found = _classes(config)
        known = "learns " + ", ".join(f"{name} ({len(files)} videos)" for name, files in found.items())
        known += f"\n{note}" if (note := classifier.check(str(config.checkpoint), config.poses)) else ""
    return f"{known}\nclassifies {len(queries)} videos; writes {config.output}/predictions.json and what goes with it"


def execute(config: PredictConfig) -> None:
    """Learn or load, answer, and write the folder."""
    queries, output, device = _prepare(config), Path(config.output), checks.device(config.device)
    if config.model is not None:
        model, path = _loaded(config, device), Path(config.model)
    else:
        model, path = _learnt(config, device), output / "model.pt"
        model.save(path)
    videos, found = _library(config, model.poses), []
    with Progress(len(queries), "queries") as progress:
        for query in queries:
            found.append(_asked(config, model, videos, query))
            if config.annotate and found[-1].readable:
                annotate.write(output / f"{query.stem}.mp4", videos.frames(query), found[-1].people, found[-1].note)
            progress.update()
    _write(config, model, path, found)
    if not any(each.readable for each in found):
        raise RunError(f"query={config.query}: no video in it can be read, such as {found[0].video}: {found[0].note}")


def _prepare(config: PredictConfig) -> list[Path]:
    """The queries, after the checks that look into no video; raises InputError for what is wrong."""
    checks.writable("output", Path(config.output))
    checks.writable("cache", _cache(config))
    path = Path(config.query)
    if not path.exists():
        raise InputError(f"query={config.query}: no such file or folder")
    queries = library.videos(path)
    if not queries:
        raise InputError(f"query={config.query}: the folder holds no video ({', '.join(sorted(library.VIDEOS))})")
    stems = [query.stem for query in queries]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if config.annotate and twice:
        raise InputError(f"query={config.query}: several videos are called {twice[0]!r}; rename one, or annotate=false")
    if config.annotate and queries[0].parent.resolve() == Path(config.output).resolve():
        raise InputError(f"output={config.output}: annotated videos would replace the queries; name another folder")
    return queries


def _classes(config: PredictConfig) -> dict[str, list[Path]]:
    found = library.classes(Path(str(config.support)))
    if UNKNOWN in found:
        raise InputError(f"support={config.support}: a class cannot be called {UNKNOWN!r}, which is an answer of its "
                         "own; rename the folder")
    return found


def _loaded(config: PredictConfig, device: torch.device) -> Classifier:
    """The model of a file, with the estimator that is named again.

    A file chooses neither code to be run nor other files to be read or fetched: raises InputError for one that was made
    with more than BlazePose, unless the same is named.
    """
    model, asked = Classifier.load(str(config.model), device), config.poses.pinned()
    made = model.poses.estimator
    if identity(made) == identity(asked.estimator):
        return replace(model, poses=model.poses.model_copy(update={"estimator": asked.estimator}))
    if config.poses == Poses() and (made == "blazepose" or isinstance(made, BlazePoseConfig)):
        return model
    if isinstance(made, str):
        trust = f", which is code outside this package; poses.estimator={made} says that you trust it"
        raise InputError(f"model={config.model}: was made with the estimator {made}" + (trust if ":" in made else ""))
    told = json.dumps({"name": made.name, **made.model_dump(mode="json", exclude_defaults=True)})
    raise InputError(f"model={config.model}: was made with another estimator; name the same under poses.estimator, "
                     f"with the places where those files lie here: {told}")


def _learnt(config: PredictConfig, device: torch.device) -> Classifier:
    """Learn from the main person of each support video; raises InputError for videos that cannot be learnt from."""
    found = _classes(config)
    if note := classifier.check(str(config.checkpoint), config.poses):  # before minutes go into poses
        print(note)
    videos = _library(config, config.poses)
    files = [(label, name, file) for label, (name, group) in enumerate(found.items()) for file in group]
    clips: list[PoseSequence | None] = []
    with Progress(len(files), "support videos") as progress:
        for _, _, file in files:
            clips.append(_main_person(config, videos, file))
            progress.update()
    _check_seen(config, [(name, file, clip is not None) for (_, name, file), clip in zip(files, clips, strict=True)])
    support = [{"class": name, "file": file.name, "sha256": library.digest(file)}
               for (_, name, file), clip in zip(files, clips, strict=True) if clip is not None]
    return Classifier.learn(str(config.checkpoint), [clip for clip in clips if clip is not None],
                            [label for (label, _, _), clip in zip(files, clips, strict=True) if clip is not None],
                            list(found), videos.settings, support, device)


def _main_person(config: PredictConfig, videos: Library, file: Path) -> PoseSequence | None:
    """Of a support video, if there is one."""
    try:
        people = _people(config, videos.tracks(file))
    except library.VideoError as error:
        raise InputError(f"{file}: cannot be read: {error}; replace or remove it") from None
    return people[library.main_person(people)] if people else None


def _check_seen(config: PredictConfig, seen: Sequence[tuple[str, Path, bool]]) -> None:
    """Raise InputError for classes in whose videos nobody is seen, and tell of single videos of that kind."""
    learnt = {name for name, _, somebody in seen if somebody}
    empty: dict[str, list[str]] = {}
    for name, file, somebody in seen:
        if name not in learnt:
            empty.setdefault(name, []).append(file.name)
        elif not somebody:
            print(f"warning: {file}: nobody is seen for {config.min_seconds:g} s; left out of the support",
                  file=sys.stderr)
    if empty:
        raise InputError(f"support={config.support}: nobody is seen for {config.min_seconds:g} s in any video of class "
                         + "; of class ".join(f"{name!r} ({', '.join(files)})" for name, files in empty.items())
                         + "; add videos in which a person is in view")


def _asked(config: PredictConfig, model: Classifier, videos: Library, query: Path) -> Found:
    digest = library.digest(query)
    try:
        tracks = _people(config, videos.tracks(query))
    except library.VideoError as error:
        return Found(query, digest, note=f"cannot be read: {error}", readable=False)
    if not tracks:
        return Found(query, digest, note="nobody in view")
    answers = [_answers(config, model, track) for track in tracks]
    people = tuple(Person(track, windows.merged(each)) for track, each in zip(tracks, answers, strict=True))
    return Found(query, digest, people, tuple(map(windows.mean, answers)), library.main_person(tracks))


def _answers(config: PredictConfig, model: Classifier, track: PoseSequence) -> list[Answer]:
    """One answer a window."""
    spans = windows.cut(track, config.window or model.window)
    probabilities, novelties = model([windows.part(track, span) for span in spans])
    rate, start = track.fps or 1.0, track.meta["start"]
    return [Answer(start + begin / rate, start + end / rate, row.numpy(), float(novelty), model.classes, config.unknown)
            for (begin, end), row, novelty in zip(spans, probabilities, novelties, strict=True)]


def _write(config: PredictConfig, model: Classifier, path: Path, found: Sequence[Found]) -> None:
    output, learnt_from = Path(config.output), {clip["sha256"] for clip in model.support}
    said = [as_json(each, learnt_from) for each in found]
    facts = {"model": str(path), "classes": model.classes, "calibration": asdict(model.calibration),
             "unknown": config.unknown, "window": config.window or model.window, "videos": said}
    write_text(output / "predictions.csv", as_csv(found, model.classes))
    write_text(output / "predictions.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    for each in said:
        print(f"{each['video']}: " + (each["note"] or f"{each['answer']}, {100 * each['confidence']:.0f} %")
              + (" (it is in the support)" if each["in_support"] else ""))
    print(f"\nwrote {output / 'predictions.json'}, predictions.csv" + (", annotated videos" if config.annotate else "")
          + ("" if config.model else ", model.pt"))


def _people(config: PredictConfig, tracks: Sequence[PoseSequence]) -> list[PoseSequence]:
    return [track for track in tracks if classifier.seconds(track) >= config.min_seconds]


def _library(config: PredictConfig, poses: Poses) -> Library:
    return Library(poses, _cache(config))


def _cache(config: PredictConfig) -> Path:
    return Path(config.cache) if config.cache else cache_folder() / "poses"


if __name__ == "__main__":
    sys.exit(main())
