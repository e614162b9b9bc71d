"""The study: every objective on every encoder, on one unlabelled corpus, measured alike, with its controls.

Each run is a pretraining and a few-shot evaluation a data set, in a folder of its own; what is there is not run again.
The table is made of what has been run, and says how many seeds stand behind each number.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pydantic import Field, PositiveInt

from skelcore import command, study_report
from skelcore.config import Config
from skelcore.errors import InputError, RunError
from skelcore.files import write_text
from skelcore.progress import Progress
from skelcore.study_corpus import Condition, Corpus, prepare

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Evaluation(Config):
    """A labelled set on which every encoder is measured."""

    name: str = Field(description="its name in the table")
    data: str = Field(description="PYSKL pickle")
    support: str = Field(description="split of the labelled clips")
    query: str = Field(description="split that is classified")
    project: bool = Field(False, description="look at 3D poses from the camera, in 2D")
    most: PositiveInt = Field(1000, description="largest k that its smallest class allows")


class Group(Config):
    """Runs that the study makes: all combinations of its lists."""

    objectives: list[str] = Field(min_length=1, description="names of configs/pretrain/NAME.yaml")
    encoders: list[str] = Field(min_length=1, description="names of configs/pretrain/encoder/NAME.yaml")
    conditions: list[Condition] = Field(["clean"], min_length=1, description="the corpus as it is, or corrupted by the "
                                                                             "model of a detector's errors")
    seeds: list[int] = Field([0], min_length=1, description="training seeds")
    settings: list[str] = Field([], description="key=value of the pretraining runs, beside the study's own")


class StudyConfig(Config):
    """The corpus, the runs, the evaluations, and where the table goes."""

    output: str = Field("study", description="folder of all runs; they are kept, and the study goes on from them")
    corpus: Corpus
    size: str = Field("tiny", description="name of configs/pretrain/size/NAME.yaml")
    settings: list[str] = Field([], description="key=value of every pretraining run: the budget")
    runs: list[Group] = Field(min_length=1, description="in this order")
    evaluations: list[Evaluation] = Field(min_length=1, description="labelled sets")
    k_shot: list[PositiveInt] = Field([1, 2, 5, 10, 20], description="labelled clips a class")
    draws: int = Field(10, ge=2, description="draws of the support")
    finetune: list[str] = Field([], description="encoders that are also trained from scratch on the k shots")
    processes: PositiveInt = Field(multiprocessing.cpu_count(), description="runs at a time, of one thread each")
    table: str = Field("docs/results.md", description="Markdown file that the results are written to")


@dataclass(frozen=True)
class Run:
    """One pretraining and its evaluations, or the controls of an encoder (without an objective)."""

    objective: str | None
    encoder: str
    condition: Condition = "clean"
    seed: int = 0
    settings: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        if self.objective is None:
            return f"controls/{self.encoder}"
        return f"{self.condition}/{self.objective}-{self.encoder}-{self.seed}"


def runs(config: StudyConfig) -> list[Run]:
    """All runs in their order, each once; combinations that an objective refuses are left out."""
    fits = import_module("pretrain.recipes").fits
    found = [Run(objective, encoder, condition, seed, tuple(group.settings))
             for group in config.runs
             for seed, condition, objective, encoder in itertools.product(
                 group.seeds, group.conditions, group.objectives, group.encoders) if fits(objective, encoder)]
    controls = [Run(None, encoder) for encoder in dict.fromkeys(run.encoder for run in found)]
    # The first encoder's controls are what everything is compared with.
    chosen: dict[str, Run] = {}
    for run in [*controls[:1], *found, *controls[1:]]:
        if chosen.setdefault(run.folder, run) != run:
            raise InputError(f"runs: {run.folder} stands there twice, with other settings")
    return list(chosen.values())


def execute(config: StudyConfig) -> None:
    """Make all runs that are not there yet, and write the table; a run that fails is told of, and the others go on."""
    output = Path(config.output)
    prepare(config.corpus, output / "corpus")
    todo = [run for run in runs(config) if not _done(config, run)]
    failed = []
    # Spawned, one thread each: two threads of one run gain less than two runs.
    with (ProcessPoolExecutor(config.processes, multiprocessing.get_context("spawn"), _single_thread) as pool,
          Progress(len(todo), "runs") as progress):
        for future in as_completed([pool.submit(_Job(config), run) for run in todo]):
            try:
                run, trouble = future.result()
            except BrokenProcessPool:
                raise RunError("a process of the study was killed, perhaps for want of memory; start it again with "
                               "fewer processes=, it goes on from what is done") from None
            progress.update()
            if trouble:
                failed.append(f"{run.folder}: {trouble}")
                print(f"failed: {failed[-1]}", file=sys.stderr, flush=True)
            study_report.write(config.table, output, [each.name for each in config.evaluations], config.k_shot)
    if failed:
        raise RunError(f"{len(failed)} of {len(todo)} runs failed, such as {failed[0]}")
    study_report.write(config.table, output, [each.name for each in config.evaluations], config.k_shot)
    print(f"wrote {config.table}")


@dataclass(frozen=True)
class _Job:
    """Makes a run in a process of the pool; picklable."""

    config: StudyConfig

    def __call__(self, run: Run) -> tuple[Run, str]:
        folder = Path(self.config.output) / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                _make(self.config, run, folder)
                write_text(folder / "made.json", json.dumps(_made(self.config, run), indent=1))
            except (InputError, RunError) as error:
                return run, str(error)
            except Exception as error:
                traceback.print_exc()
                return run, repr(error)
        return run, ""


def _make(config: StudyConfig, run: Run, folder: Path) -> None:
    corpus = Path(config.output) / "corpus" / run.condition
    pretraining = [str(CONFIGS / f"pretrain/{run.objective or 'vicreg'}.yaml"),
                   str(CONFIGS / f"pretrain/encoder/{run.encoder}.yaml"),
                   str(CONFIGS / f"pretrain/size/{config.size}.yaml"),
                   f"data={json.dumps(json.loads((corpus / 'sources.json').read_text()))}",
                   f"layout={config.corpus.layout}", f"seed={run.seed}", f"output={folder / 'pretrain'}",
                   *config.settings, *run.settings]
    if run.objective is None:  # the controls need an encoder of the same kind, whose weights they do not use
        pretraining += ["epochs=1", "optimizer.warmup_epochs=0"]
    _call("pretrain.run", pretraining)
    kinds = "[pretrained, fused]" if run.objective else "[scratch, uncalibrated, statistics, raw, filled]"
    for each in config.evaluations:
        methods = ["prototype", "rbf", *(["finetune"] if not run.objective and run.encoder in config.finetune else [])]
        shots = [k for k in config.k_shot if k <= each.most]
        _call("adapt.run", [
            str(CONFIGS / "adapt/base.yaml"), f"data={each.data}", f"support={each.support}", f"query={each.query}",
            f"project={str(each.project).lower()}", "map_layout=true", "pool=parts", f"draws={config.draws}",
            f"k_shot={json.dumps(shots)}", f"representations={kinds}", f"methods=[{', '.join(methods)}]",
            f"checkpoint={folder / 'pretrain/checkpoint.pt'}", f"output={folder / each.name}"])


def _call(module: str, words: Sequence[str]) -> None:
    """One of the platform's commands, in this process: starting one anew for each would take as long as a short run."""
    if import_module(module).main(words):
        raise RunError(f"{module} {' '.join(words)} failed; its words are in log.txt")


def _done(config: StudyConfig, run: Run) -> bool:
    """Whether a run's results are there; raises InputError for those of a run with another budget."""
    folder = Path(config.output) / run.folder
    made = [folder / "made.json", *(folder / each.name / "results.json" for each in config.evaluations)]
    if not all(path.exists() for path in made):
        return False
    if json.loads((folder / "made.json").read_text()) != _made(config, run):
        raise InputError(f"{folder} was made with other settings; name another output, or remove it")
    return True


def _made(config: StudyConfig, run: Run) -> dict[str, object]:
    """What a run's results depend on, beside its folder's name."""
    return {"size": config.size, "settings": [*config.settings, *run.settings], "layout": config.corpus.layout,
            "draws": config.draws}


def _single_thread() -> None:
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def plan(config: StudyConfig) -> str:
    """What the study would run."""
    found = runs(config)
    lines: Iterator[str] = (f"  {'done' if _done(config, run) else 'to do'}  {run.folder}" for run in found)
    return "\n".join([f"{len(found)} runs, then {config.table}", *lines])


def main(argv: Sequence[str] | None = None) -> int:
    return command.run(sys.argv[1:] if argv is None else argv, StudyConfig, __doc__ or "", plan, execute)


if __name__ == "__main__":
    sys.exit(main())
