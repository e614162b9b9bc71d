"""Whole runs of the real trainer in several processes: gloo on this machine, and Ray Train, of which a worker dies."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from pretrain import run
from pretrain.config import PretrainConfig
from pretrain.distributed import Group
from pretrain.trainer import Trainer
from skelcore.batches import Batch
from tests.paths import ROOT
from tests.pretrain.runs import OBJECTIVES, config
from tests.processes import together

DATA = [{"uri": "procedural:16?seed=1"}, {"uri": "procedural:16?seed=2", "weight": 0.5}]
# With Adam the sign of a gradient that is zero but for rounding, such as a bias's before a batch norm, would count.
SGD = {"name": "sgd", "lr": 0.01, "warmup_epochs": 1, "ema": 0.5}
HEATMAPS = {"encoder": {"name": "x3d-shallow", "width": 8}}
RUNS: dict[str, dict[str, Any]] = {
    "vicreg": OBJECTIVES["vicreg"], "vicreg of heatmaps": {**OBJECTIVES["vicreg"], **HEATMAPS},
    "moco": OBJECTIVES["moco"], "latent": OBJECTIVES["latent"], "masked_motion": OBJECTIVES["masked_motion"]}


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Batch norms of an untrained graph encoder magnify float32's rounding a thousandfold within three steps."""
    build, to = Trainer._build, Batch.to

    def moved(self: Batch, device: torch.device) -> Batch:
        return replace(to(self, device), keypoints=self.keypoints.double(), scores=self.scores.double())

    with mock.patch.object(Trainer, "_build", lambda self: build(self).double()), mock.patch.object(Batch, "to", moved):
        yield


def train(name: str, group: Group) -> dict[str, Tensor]:
    """Everything that the run has trained after an epoch of three steps."""
    precise = contextlib.nullcontext() if "heatmaps" in name else double_precision()  # which are drawn in float32
    with tempfile.TemporaryDirectory() as folder, precise:
        settings = config(DATA, folder, epochs=1, view_parts=2, optimizer=SGD, fill=0.3, **RUNS[name])
        trainer = Trainer(settings, group)
        metrics = trainer.run()
        assert trainer.step == 3 and (Path(folder) / "checkpoint.pt").exists() == group.first
    average = {f"average.{key}": value for key, value in trainer.encoder.state_dict().items()}
    return {**trainer.objective.state_dict(), **average, "loss": torch.tensor(metrics["loss"])}


def train_all(rank: int, world: int) -> dict[str, Tensor]:
    group = Group(rank, world)
    return {f"{name}: {key}": value for name in RUNS for key, value in train(name, group).items()}


@pytest.fixture(scope="module")
def processes() -> list[dict[str, Tensor]]:
    return together(train_all)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one_does(processes: list[dict[str, Tensor]], name: str) -> None:
    alone = train(name, Group())
    for key, value in alone.items():
        first, second = (found[f"{name}: {key}"] for found in processes)
        assert torch.equal(first, second), key
        torch.testing.assert_close(first, value, rtol=1e-5, atol=1e-6, msg=f"{key}: {first} {value}")


def test_parts_draw_apart_and_their_number_is_part_of_the_run(tmp_path: Path) -> None:
    """So two processes equal one because their draws do, not because nothing is drawn."""
    seen = []
    for parts in (1, 2):
        trainer = Trainer(config(DATA, tmp_path, view_parts=parts, **OBJECTIVES["vicreg"]))
        batch = trainer.dataset.__getitems__(range(8))
        seen.append(trainer.see(batch, 0)[0])
        assert torch.equal(trainer.see(batch, 0)[0], seen[-1])
        assert not torch.equal(trainer.see(batch, 1)[0], seen[-1])
    assert not torch.equal(*seen)


def train_until_a_worker_dies(settings: PretrainConfig, group: Group) -> dict[str, float]:
    """``run.train``, of which the second process is killed in the fifth step, once."""
    mark, train_step = Path(f"{settings.output}.died"), Trainer.train_step

    def step(self: Trainer, batches: Any) -> dict[str, Tensor]:
        shown = train_step(self, batches)
        if self.step == 5 and group.rank == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return shown

    with mock.patch.object(Trainer, "train_step", step):
        return run_train(settings, group)


run_train = run.train
SCRIPT = """import sys
from pretrain import run
from tests.pretrain.test_parallel import train_until_a_worker_dies
if __name__ == "__main__":
    run.train = train_until_a_worker_dies
    sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_killed_worker_of_ray_comes_back_and_the_run_ends_with_the_same_number_of_steps(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy") and "RAY" not in key}
    words = ["data=procedural:24", f"output={tmp_path / 'out'}", "distributed=ray", "num_workers=2", "frames=8",
             "epochs=3", "batch_size=8", "encoder.width=8", "objective.expander=16", "device=cpu",
             "save_every_epochs=1", "monitor.every_epochs=99"]
    done = subprocess.run([sys.executable, tmp_path / "script.py", ROOT / "configs/pretrain/vicreg.yaml", *words],
                          capture_output=True, text=True, timeout=900,
                          env={**clean, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.died").exists() and "pretrained stgcn++ by vicreg" in done.stdout
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["steps"], summary["clips_seen"], summary["processes"]) == (9, 72, 2)


