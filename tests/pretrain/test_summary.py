"""The summary holds the numbers of the run, and the provenance names the code."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import summary
from pretrain.provenance import provenance, revision
from pretrain.summary import Data, Facts
from skelcore import checkpoint
from skelcore.folder import Folder

FACTS = Facts(
    encoder="stgcn++", parameters=1_234_567, features=256, objective="vicreg", layout="coco17", stream="joint",
    frames=64, data=[Data("penn.pkl", 1258, "ab12", 1.0), Data("shards|<b>", 742, "cd34", 0.5)], seed=7, steps=900,
    epochs=60, batch_size=128, processes=1, distributed="auto", device="cpu", precision="fp32", seconds=4000.0,
    clips_seen=115_200, metrics={"loss": 0.123456, "knn/accuracy": 0.87, "linear/accuracy": float("nan")},
    history=[{"step": 450, "features/std": 0.5}, {"step": 900, "features/std": 0.75, "knn/accuracy": 0.87}])


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_both_files_hold_the_numbers(tmp_path: Path) -> None:
    summary.write(Folder(str(tmp_path)), FACTS)
    text, values = (tmp_path / "summary.md").read_text(), json.loads((tmp_path / "summary.json").read_text())
    for said in ("1,234,567 parameters", "2,000 clips", "900 steps of 128 clips, 60 epochs, seed 7", "1 h 6 min",
                 "29 clips/s", "skelshot pretrain config.yaml", "coco17", "ab12", str(provenance()["torch"])):
        assert said in text
    table = rows(text)
    assert ["loss", "0.1235"] in table and ["knn/accuracy", "0.87"] in table
    assert ["step", "features/std", "knn/accuracy"] in table
    assert ["450", "0.5", ""] in table and ["900", "0.75", "0.87"] in table
    assert (values["clips"], values["steps"], values["clips_per_second"]) == (2000, 900, 28.8)
    assert values["metrics"] == {"loss": 0.123456, "knn/accuracy": 0.87, "linear/accuracy": None}
    assert values["history"][1]["step"] == 900 and values["data"][1]["fingerprint"] == "cd34"
    assert values["provenance"] == provenance()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.json", "summary.md"]


def test_names_from_outside_do_not_break_the_tables() -> None:
    text = summary.markdown(FACTS)
    assert "shards\\|&lt;b>" in text and "<b>" not in text


@pytest.mark.parametrize(("processes", "distributed", "said"), [
    (1, "auto", "skelshot pretrain config.yaml"), (4, "ray", "skelshot pretrain config.yaml"),
    (4, "auto", "torchrun --nproc-per-node=4 -m pretrain.run config.yaml")])
def test_the_command_starts_as_many_processes(processes: int, distributed: str, said: str) -> None:
    assert replace(FACTS, processes=processes, distributed=distributed).command.startswith(said)


def test_provenance_is_plain_and_goes_into_checkpoints(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", {"provenance": provenance()})
    assert checkpoint.load(tmp_path / "x.pt")["provenance"] == provenance()
    assert provenance()["torch"] == str(torch.__version__) and provenance()["numpy"] == np.__version__


def test_revision_is_that_of_the_checkout_that_tracks_the_file(tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments], cwd=tmp_path,
                              check=True, capture_output=True, text=True).stdout.strip()

    tracked, other = tmp_path / "code.py", tmp_path / "site.py"
    tracked.write_text("1")
    other.write_text("1")
    assert revision(tracked) is None
    git("init", "-q")
    git("add", "code.py")
    git("commit", "-qm", "one")
    head = git("rev-parse", "HEAD")
    assert len(head) == 40 and revision(tracked) == head
    assert revision(other) is None  # untracked: an installed copy within somebody's checkout
    tracked.write_text("2")
    assert revision(tracked) == head + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert revision(tracked) is None
