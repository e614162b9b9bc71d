"""The README's examples, run as they stand but for sizes."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skelcore import checkpoint, encoders, mannequin, shards
from skelcore.annotations import write_pyskl
from skelcore.layouts import get
from tests.paths import ROOT

TEXT = (ROOT / "README.md").read_text()
# Only what makes them quick; every other word of a command is the README's.
QUICK = {
    "harvest/run.py": ["shard_size=2", "workers=1"],
    "browse": [],
    "regate": [],
    "dedup": [],
    "forget": [],
    "pretrain/run.py": ["epochs=2", "batch_size=2", "frames=16", "encoder.width=8", "objective.expander=32"],
    "pretrain": ["epochs=2", "batch_size=2", "frames=16", "encoder.width=32"],
    "adapt/run.py": ["draws=2", "scratch_inits=1"],
    "adapt": ["way=2", "episodes=20", "episode_queries=3", "scratch_inits=1"],
    "metatrain": ["way=3", "steps=3"],
    "compare": [],
    "robustness": ["draws=2", "probabilities=[0, 1]"],
    "embed": [],
    "adapt/predict.py": [],
    "predict": [],
    "encoders": ["--no-timing"],
    "import-weights": [],
    "export-weights": [],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("python ", "skelshot "))]


def test_both_set_up_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("setup", "demo", "test", "lint", "bench", "clean"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert "make demo" in TEXT and "make test" in TEXT


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())]
    assert links and [link for page, link in links if not (page.parent / link).exists()] == []


def test_python_examples_run() -> None:
    assert blocks("python")
    for block in blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("torch.Size([2, 256]) torch.Size([2, 1, 256, 16, 17]) nose")


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """What the README's reader would have at hand: the checkout's scripts, some videos, a URL list, Penn-like poses."""
    for name in ("configs", "harvest", "pretrain", "adapt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "videos").mkdir()
    for take, action in enumerate(mannequin.ACTIONS[:2]):
        performance = mannequin.perform(action, 0, take, seconds=2, fps=15)
        mannequin.write_video(performance, tmp_path / "videos" / f"{action}.mp4")
    shutil.copy(tmp_path / "videos" / "wave.mp4", tmp_path / "videos" / "private.mp4")
    for action in mannequin.ACTIONS[:2]:
        (tmp_path / "examples" / action).mkdir(parents=True)
        shutil.copy(tmp_path / "videos" / f"{action}.mp4", tmp_path / "examples" / action)
    (tmp_path / "urls.csv").write_text("path,label\nvideos/wave.mp4,wave\n")
    sequences, splits = [], {"train": [], "test": []}
    for label, action in enumerate(mannequin.ACTIONS[:6]):
        for person in range(14):
            clip = mannequin.perform(action, person, person, seconds=2, fps=10).sequence().to_layout(get("penn13"))
            object.__setattr__(clip, "label", label)
            sequences.append(clip)
            splits["train" if person < 11 else "test"].append(clip.id)
    write_pyskl(tmp_path / "penn.pkl", sequences, splits)
    torch.save({"state_dict": checkpoint.to_pyskl(encoders.build("stgcn++", "coco17"))}, tmp_path / "joint.pth")
    return tmp_path


@pytest.mark.slow
def test_shell_examples_run_in_order(user_folder: Path) -> None:
    assert list(dict.fromkeys(command[1] for command in commands())) == list(QUICK)
    for command in commands():
        program = [sys.executable] if command[0] == "python" else [sys.executable, "-m", "skelcore.cli"]
        words = [*program, *command[1:], *QUICK[command[1]]]
        done = subprocess.run(words, cwd=user_folder, capture_output=True, text=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert (user_folder / "browse.html").exists()
    assert not [key for key in shards.read(user_folder / "harvested").groups if key.startswith("private")]
    table = (user_folder / "runs/penn/results.md").read_text()
    assert "10-shot" in table and all(f"| {kind} |" in table for kind in ("pretrained", "scratch", "raw", "statistics"))
    assert "meta-episodes" in (user_folder / "runs/compared/compare.md").read_text()
    answers = json.loads((user_folder / "runs/mine/predictions.json").read_text())
    again = json.loads((user_folder / "runs/again/predictions.json").read_text())
    assert answers["videos"] == again["videos"] and answers["videos"][0]["answer"]
