"""The command as a user meets it: exit statuses, one-line errors, what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain import run
from skelcore import checkpoint, shards
from tests.paths import ROOT

TINY = ["frames=16", "epochs=2", "batch_size=8", "encoder.width=8", "objective.expander=32", "device=cpu"]
CONFIG = str(ROOT / "configs/pretrain/vicreg.yaml")


def test_a_run_leaves_checkpoint_configuration_and_summary(tmp_path: Path, poses: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [CONFIG, f"data={poses}", f"output={tmp_path}", "split=train", f"monitor.data={poses}",
                 "monitor.split=test", *TINY]
    assert run.main(arguments) == 0
    encoder, meta = checkpoint.load_encoder(tmp_path / "checkpoint.pt", layout="coco17")
    assert (encoder.dim, meta["frames"], meta["stream"], meta["step"]) == (32, 16, "joint", 6)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["clips"] == 30 and summary["steps"] == 6 and 0 <= summary["knn/accuracy"] <= 1
    # A run that is over has nothing left to do, and does not touch its checkpoint.
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert run.main(arguments) == 0
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert "for 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "message"), [
    (["data=absent.pkl", "output=x"], "absent.pkl"),
    (["output=x"], "data: field required"),
    (["data={poses}", "output=x", "epoch=3"], "unknown key 'epoch'; did you mean 'epochs'"),
    (["data={poses}", "output=x", "views.rotaton=3"], "did you mean 'rotation'"),
    (["data={poses}", "output=x", "split=nope"], "no split 'nope'"),
    (["data={poses}", "output=x", "layout=coco18"], "did you mean coco17"),
    (["data={poses}", "output=x", "encoder.name=stgcnx"], "did you mean stgcn"),
    (["data={poses}", "output=x", "batch_size=4000"], "batch_size=4000 exceeds"),
    (["data={poses}", "output=x", "device=tpu"], "device"),
    (["data={poses}", "output=x", "layout=hand21"], "give none of its joints"),
    (["data={poses}", "output=x", "batch_size=1"], "batch_size"),
    (["data={poses}", "output=x", "seed=-1"], "seed"),
    (["data={poses}", "output={poses}/x"], "cannot be written"),
])
def test_bad_input_is_one_line_and_status_two(arguments: list[str], message: str, poses: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([CONFIG, "batch_size=8", *(argument.format(poses=poses) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_several_processes_are_refused_rather_than_run_apart(poses: Path, monkeypatch: pytest.MonkeyPatch,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run.main([CONFIG, f"data={poses}", "output=x"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_dry_run_plans_and_writes_nothing(tmp_path: Path, poses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([CONFIG, f"data={poses}", f"output={tmp_path / 'out'}", *TINY, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "40 clips of layout coco17" in shown and "width: 8" in shown
    assert not (tmp_path / "out").exists()


def test_help_lists_nested_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    assert "optimizer.lr" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "configs/pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_plans(path: Path, poses: Path, tmp_path: Path) -> None:
    monitor = [f"monitor.data={poses}"] if path.stem == "demo" else []
    assert run.main([str(path), f"data={poses}", f"output={tmp_path}", "batch_size=8", *monitor, "--dry-run"]) == 0


def test_shards_train_as_pickles_do(tmp_path: Path, store) -> None:  # type: ignore[no-untyped-def]
    blocks = [shards.Block(f"clip-{i}", [store[i]], [{}], {}, {}) for i in range(12)]
    (tmp_path / "shards").mkdir()
    shards.write(tmp_path / "shards/000000.tar", blocks)
    assert run.main([CONFIG, f"data={tmp_path / 'shards'}", f"output={tmp_path / 'out'}", *TINY]) == 0
    assert checkpoint.load(tmp_path / "out/checkpoint.pt")["step"] == 2


@pytest.mark.slow
def test_the_script_runs_from_anywhere(tmp_path: Path, poses: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "pretrain/run.py"), CONFIG, f"data={poses}", "output=out", *TINY],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/checkpoint.pt").exists()
