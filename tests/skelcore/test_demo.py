"""The whole chain, small: render, serve, harvest with the real model and Ray, pretrain, evaluate, report."""

import json
import re
from pathlib import Path

import pytest
import yaml

from harvest.estimators import weights
from skelcore import demo
from skelcore.errors import RunError
from tests.paths import ROOT

SMALL = ["train_people=2", "train_takes=1", "test_people=1", "test_takes=1", "seconds=1.2", "k_shot=[1, 2]"]


def test_people_and_views_of_the_splits_are_disjoint() -> None:
    clips = demo.clips(demo.DemoConfig())
    assert len(clips) >= 120 and len({clip.name for clip in clips}) == len(clips)
    for field in ("person", "take"):
        train, test = ({getattr(clip, field) for clip in clips if clip.split == split} for split in ("train", "test"))
        assert not train & test
    assert len({clip.take for clip in clips}) == len(clips)


@pytest.mark.parametrize(("argument", "message"), [("secnds=2", "did you mean 'seconds'"), ("k_shot=[0]", "k_shot.0")])
def test_bad_settings_are_one_line_and_status_two(argument: str, message: str,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([argument]) == 2
    assert message in capsys.readouterr().err


def test_dry_run_plans_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([f"output={tmp_path / 'demo'}", "--dry-run"]) == 0
    assert "260 clips" in capsys.readouterr().out and not (tmp_path / "demo").exists()


def test_folders_of_others_are_never_cleared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "harvest").mkdir()
    (tmp_path / "harvest/mine.py").touch()
    assert demo.main([f"output={tmp_path}"]) == 2
    assert "not the demonstration's own" in capsys.readouterr().err and (tmp_path / "harvest/mine.py").exists()


def test_sources_of_the_environment_reach_the_harvest_unharmed(monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SOURCES", "clip.mp4 'my clips/' https://example.org/watch?v=a&t=1")
    assert demo.main(["--dry-run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out.partition("\n\n")[0])
    assert shown["sources"] == ["clip.mp4", "my clips/", "https://example.org/watch?v=a&t=1"]


@pytest.mark.slow
def test_the_chain_accounts_for_every_clip_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        weights.load(weights.DETECTOR)
    except RunError as error:
        pytest.skip(str(error))
    for stage, settings in (("pretrain", "epochs: 2\nbatch_size: 13\n"), ("adapt", "draws: 2\nscratch_inits: 1\n")):
        (tmp_path / stage).mkdir()
        (tmp_path / stage / "demo.yaml").write_text(f"base: {ROOT / 'configs' / stage / 'demo.yaml'}\n{settings}")
    (tmp_path / "harvest.yaml").symlink_to(ROOT / "configs/harvest.yaml")
    monkeypatch.setattr(demo, "CONFIGS", tmp_path)
    assert demo.main([f"output={tmp_path / 'demo'}", *SMALL]) == 0
    summary = json.loads((tmp_path / "demo/harvest/summary.json").read_text())
    assert summary["sources"] == 39 + 3
    assert summary["failed_by_reason"] == {"corrupt": 1, "gone": 1}
    assert summary["rejected_by_reason"] == {"no_person": 1} and summary["ok"] == 39
    page = (tmp_path / "demo/report.html").read_text()
    share = re.search(r"<b>(0\.\d+|1\.\d+)</b> \(39 tracks", page)
    assert share and float(share[1]) > 0.9  # PCK@0.2 against the exact poses
    assert page.count("<img ") == 3 and "pretrained / prototype" in page and "<canvas" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
