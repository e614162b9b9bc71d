"""The command as a user meets it: exit statuses, one-line errors, what it leaves behind."""

import errno
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from tensorboard.summary.writer.record_writer import RecordWriter

from pretrain import run
from pretrain.trainer import Trainer
from skelcore import checkpoint
from skelcore.store import Store
from tests.paths import ROOT
from tests.pretrain.runs import assert_equal, config, interrupt_at, state, write_shard

TINY = ["frames=8", "epochs=2", "batch_size=8", "encoder.width=8", "objective.expander=16", "device=cpu"]
CONFIG = str(ROOT / "configs/pretrain/vicreg.yaml")


def test_a_run_leaves_checkpoint_configuration_and_summary(tmp_path: Path, poses: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [CONFIG, f"data={poses}", f"output={tmp_path}", "split=train", f"monitor.data={poses}",
                 "monitor.split=test", "monitor.projector=true", *TINY]
    assert run.main(arguments) == 0
    assert "(loss " in capsys.readouterr().out
    encoder, meta = checkpoint.load_encoder(tmp_path / "checkpoint.pt", layout="coco17")
    assert (encoder.dim, meta["frames"], meta["stream"], meta["step"], meta["fill"]) == (32, 8, "joint", 6, 0.3)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["clips"] == 30 and summary["steps"] == 6 and 0 <= summary["metrics"]["knn/accuracy"] <= 1
    assert summary["clips_seen"] == 48 and summary["provenance"] == meta["provenance"]
    assert {"summary.md", "config.yaml", "projector.png"} <= {path.name for path in tmp_path.iterdir()}
    # A run that is over has nothing left to do, and does not touch its checkpoint; its configuration repeats it.
    before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
    assert run.main([str(tmp_path / "config.yaml")]) == 0
    assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize(("arguments", "message"), [
    (["data=absent.pkl", "output=x"], "absent.pkl"),
    (["output=x"], "data: field required"),
    (["data={poses}", "output=x", "epoch=3"], "unknown key 'epoch'; did you mean 'epochs'"),
    (["data={poses}", "output=x", "views.rotaton=3"], "did you mean 'rotation'"),
    (["data={poses}", "output=x", "objective.name=vicregg"], "did you mean 'vicreg'"),
    (["data={poses}", "output=x", "objective.expandr=3"], "did you mean 'expander'"),
    (["data={poses}", "output=x", "split=nope"], "no split 'nope'"),
    (["data={poses}", "output=x", "layout=coco18"], "did you mean coco17"),
    (["data={poses}", "output=x", "encoder.name=stgcnx"], "did you mean stgcn"),
    (["data={poses}", "output=x", "batch_size=4000"], "batch_size=4000 exceeds"),
    (["data={poses}", "output=x", "device=tpu"], "device"),
    (["data={poses}", "output=x", "layout=hand21"], "give none of its joints"),
    (["data={poses}", "output=x", "batch_size=1"], "batch_size"),
    (["data={poses}", "output=x", "view_parts=3"], "view_parts=3 must divide batch_size=8"),
    (["data={poses}", "output=x", "seed=-1"], "seed"),
    (["data={poses}", "output={poses}/x"], "cannot be written"),
    (["data={poses}", "output=nosuch://x"], "output=nosuch://x: cannot be reached"),
    (["data={empty}", "output=x"], "no pose shard"),
    (["data.uri={poses}", "data.min_frames=999", "output=x"], "the thresholds drop all 40 clips"),
])
def test_bad_input_is_one_line_and_status_two(arguments: list[str], message: str, poses: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    words = [argument.format(poses=poses, empty=tmp_path) for argument in arguments]
    assert run.main([CONFIG, "batch_size=8", "encoder.width=8", "objective.expander=16", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_processes_that_do_not_share_the_batch_evenly_are_refused(poses: Path, monkeypatch: pytest.MonkeyPatch,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    assert run.main([CONFIG, f"data={poses}", "output=x"]) == 2
    assert "WORLD_SIZE is set" in capsys.readouterr().err
    assert run.main([CONFIG, f"data={poses}", "output=x", "distributed=ray"]) == 2
    assert "without torchrun" in capsys.readouterr().err


def test_dry_run_plans_and_writes_nothing(tmp_path: Path, poses: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([CONFIG, f"data=[{poses}, 'procedural:10']", f"output={tmp_path / 'out'}", *TINY, "accumulate=2",
                     "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"50 clips (40 of {poses} + 10 of procedural:10) in layout coco17" in shown and "width: 8" in shown
    assert "vicreg: 6 steps of 16 clips on cpu" in shown
    assert not (tmp_path / "out").exists()


def test_help_lists_nested_settings_and_every_objectives(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    text = capsys.readouterr().out
    for line in ("optimizer.lr", "objective.name=moco", "objective.queue", "data.weight", "monitor.projector"):
        assert line in text


@pytest.mark.parametrize("path", sorted((ROOT / "configs/pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_plans(path: Path, poses: Path, tmp_path: Path) -> None:
    monitor = [f"monitor.data={poses}"] if path.stem == "demo" else []
    scale = ["encoder.width=32" if path.stem == "masked_motion" else "encoder.width=8"]
    assert run.main([str(path), f"data={poses}", f"output={tmp_path}", "batch_size=8", *scale, *monitor,
                     "--dry-run"]) == 0


def test_shards_train_as_pickles_do(tmp_path: Path, store: Store) -> None:
    write_shard(tmp_path / "shards/000000.tar", store, range(12))
    assert run.main([CONFIG, f"data={tmp_path / 'shards'}", f"output={tmp_path / 'out'}", *TINY]) == 0
    assert checkpoint.load(tmp_path / "out/checkpoint.pt")["step"] == 2


def test_a_url_gets_all_that_a_folder_gets_and_resumes(tmp_path: Path, poses: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    for output in (str(tmp_path / "local"), f"file://{tmp_path}/file", url):
        settings = config(poses, output, keep=2)
        interrupt_at(settings, 7)
        run.execute(settings)
    files = fsspec.filesystem("memory")
    (tmp_path / "fetched").mkdir()
    for path in files.ls(url.removeprefix("memory:/"), detail=False):
        files.get_file(path, str(tmp_path / "fetched" / path.rpartition("/")[2]))
    kinds = [{path.name.partition("tfevents")[0] for path in (tmp_path / name).iterdir()}
             for name in ("local", "file", "fetched")]
    assert kinds[0] == kinds[1] == kinds[2] == {"checkpoint.pt", "checkpoint-000000007.pt", "config.yaml",
                                                "summary.md", "summary.json", "events.out."}
    assert_equal(state(tmp_path / "local"), state(tmp_path / "fetched"))
    assert_equal(state(tmp_path / "local"), state(tmp_path / "file"))


def test_a_disk_that_is_full_for_events_is_one_line(tmp_path: Path, poses: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """TensorBoard writes in a thread of its own."""
    arguments = [CONFIG, f"data={poses}", f"output={tmp_path}", *TINY, "save_every_epochs=1", "log_every_steps=1"]
    save, write = Trainer.save, RecordWriter.write

    def full(self: RecordWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def then_full(self: Trainer) -> None:
        save(self)
        monkeypatch.setattr(RecordWriter, "write", full)

    monkeypatch.setattr(Trainer, "save", then_full)
    assert run.main(arguments) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(f"failed: output={tmp_path}: cannot be written to (No space left on device)")
    assert not any("Traceback" in line or "Exception" in line for line in error)
    assert state(tmp_path)[".step"] == 5
    monkeypatch.setattr(RecordWriter, "write", write)
    assert run.main(arguments) == 0 and state(tmp_path)[".step"] == 10


FULL = """import resource, sys
from pretrain import run
from pretrain.trainer import Trainer
save = Trainer.save
def then_full(self):
    save(self)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
Trainer.save = then_full
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_disk_that_is_full_for_checkpoints_is_one_line(tmp_path: Path, poses: Path) -> None:
    """A real limit, on the size of files, from the first checkpoint on."""
    words = [CONFIG, f"data={poses}", f"output={tmp_path}", *TINY, "save_every_epochs=1"]
    done = subprocess.run([sys.executable, "-c", FULL, *words], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 1
    error = done.stderr.splitlines()
    assert error[-1].startswith("failed: ") and "File too large" in error[-1] and str(tmp_path) in error[-1]
    assert not any("Traceback" in line or "Exception" in line for line in error), done.stderr
    assert state(tmp_path)[".step"] == 5
    assert run.main(words) == 0 and state(tmp_path)[".step"] == 10
    assert not list(tmp_path.glob(".*"))


def test_trouble_in_mid_run_is_one_line_and_status_one(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "shards/0.tar", store, range(8))
    save = Trainer.save

    def vanish(self: Trainer) -> None:
        save(self)
        for path in (tmp_path / "shards").iterdir():
            path.unlink()

    monkeypatch.setattr(Trainer, "save", vanish)
    assert run.main([CONFIG, f"data={tmp_path / 'shards'}", f"output={tmp_path / 'out'}", *TINY, "epochs=3",
                     "save_every_epochs=1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("failed: ") and "0.tar" in error and "vanished" in error
    assert state(tmp_path / "out")[".step"] == 1


@pytest.mark.slow
def test_the_script_runs_from_anywhere(tmp_path: Path, poses: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "pretrain/run.py"), CONFIG, f"data={poses}", "output=out", *TINY],
                          cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/checkpoint.pt").exists()
