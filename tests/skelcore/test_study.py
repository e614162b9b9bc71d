"""The study: which runs it makes, its corrupted corpus, its table, and a whole one on a small set."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from skelcore import config as configs
from skelcore import study, study_report
from skelcore.annotations import write_pyskl
from skelcore.errors import InputError
from skelcore.mannequin import perform
from skelcore.store import open_store
from skelcore.study_corpus import corrupted, prepare
from tests.paths import ROOT


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of 3 actions; 4 a class in train, 4 in test."""
    from dataclasses import replace

    path = tmp_path_factory.mktemp("clips") / "clips.pkl"
    found, splits = [], {"train": [], "test": []}
    for label, action in enumerate(("wave", "squat", "kick")):
        for person in range(8):
            clip = replace(perform(action, person, 10 * label + person, seconds=1, fps=10).sequence(), label=label)
            found.append(clip)
            splits["train" if person < 4 else "test"].append(clip.id)
    write_pyskl(path, found, splits, classes=["wave", "squat", "kick"])
    return path


def written(folder: Path, clips: Path, **changes: object) -> Path:
    values = {"output": str(folder / "study"), "table": str(folder / "results.md"), "k_shot": [1, 2], "draws": 2,
              "processes": 1, "settings": ["frames=8", "batch_size=4", "epochs=1", "encoder.width=8",
                                           "optimizer.warmup_epochs=0", "objective.expander=16"],
              "corpus": {"layout": "coco17", "sources": [{"uri": str(clips), "split": "train"}]},
              "runs": [{"objectives": ["vicreg"], "encoders": ["stgcn++"]}],
              "evaluations": [{"name": "Mannequin", "data": str(clips), "support": "train", "query": "test"}],
              **changes}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_runs_are_all_fitting_combinations_once_and_a_control_an_encoder() -> None:
    config = configs.load(study.StudyConfig, ROOT / "configs/study/tiny.yaml")
    folders = [run.folder for run in study.runs(config)]
    assert len(set(folders)) == len(folders)
    assert "clean/masked_motion-transformer-0" in folders and "noisy/vicreg-posec3d-2" in folders
    assert not any("masked_motion-stgcn++" in folder for folder in folders)
    assert {folder for folder in folders if folder.startswith("controls/")} == {
        f"controls/{name}" for name in ("stgcn++", "transformer", "ctrgcn", "x3d-shallow", "posec3d")}


def test_one_folder_is_one_run(tmp_path: Path, clips: Path) -> None:
    group = {"objectives": ["vicreg"], "encoders": ["stgcn++"]}
    other = {**group, "settings": ["epochs=2"]}
    config = configs.load(study.StudyConfig, written(tmp_path, clips, runs=[group, other]))
    with pytest.raises(InputError, match=r"clean/vicreg-stgcn\+\+-0 stands there twice"):
        study.runs(config)
    assert len(study.runs(configs.load(study.StudyConfig, written(tmp_path, clips, runs=[group, group])))) == 2


def test_corrupted_clips_are_off_by_a_detectors_errors_and_the_same_every_time(clips: Path) -> None:
    store = open_store(str(clips))
    first, again, other = (list(corrupted(store, seed)) for seed in (0, 0, 1))
    for one, two, three, truth in zip(first, again, other, (store[i] for i in range(len(store))), strict=True):
        assert np.array_equal(one.keypoints, two.keypoints) and not np.array_equal(one.keypoints, three.keypoints)
        seen = (one.scores > 0) & (truth.scores > 0)
        off = np.linalg.norm(one.keypoints - truth.keypoints, axis=-1)[seen]
        height = np.ptp(truth.keypoints[truth.scores > 0][:, 1])
        assert 0.002 < np.median(off) / height < 0.05
        assert (one.id, one.label) == (truth.id, truth.label)


def test_a_corpus_is_prepared_once(tmp_path: Path, clips: Path) -> None:
    corpus = configs.load(study.StudyConfig, written(tmp_path, clips)).corpus
    prepare(corpus, tmp_path / "corpus")
    noisy = json.loads((tmp_path / "corpus/noisy/sources.json").read_text())
    assert len(open_store(noisy[0]["uri"])) == 12
    before = (tmp_path / "corpus/noisy/0.pkl").stat().st_mtime_ns
    prepare(corpus, tmp_path / "corpus")
    assert (tmp_path / "corpus/noisy/0.pkl").stat().st_mtime_ns == before


def results(folder: Path, name: str, accuracy: float) -> None:
    rows = [{"representation": kind, "method": "rbf", "k": 1, "mean": accuracy} for kind in ("pretrained", "raw")]
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(json.dumps({"rows": rows, "all_labels": {"pretrained": {"knn": 0.5,
                                                                                                    "linear": 0.6}}}))


def test_the_table_has_means_and_intervals_over_seeds_and_keeps_the_words_around(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        results(tmp_path / f"study/clean/vicreg-stgcn++-{seed}", "Penn", accuracy)
    results(tmp_path / "study/controls/stgcn++", "Penn", 0.4)
    table = tmp_path / "results.md"
    table.write_text(f"before\n{study_report.BEGIN}\nold\n{study_report.END}\nafter\n")
    study_report.write(table, tmp_path / "study", ["Penn"], [1])
    text = table.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| vicreg | stgcn++ | 3 | 50.0 ± 0.0 | 60.0 ± 0.0 | 60.0 ± 24.8 |" in text  # 4.303 * 10 / sqrt(3)
    assert "| raw | - | 1 |  |  | 40.0 |" in text
    table.write_text("no marks")
    with pytest.raises(InputError, match="has no <!-- study: begin -->"):
        study_report.write(table, tmp_path / "study", ["Penn"], [1])


@pytest.mark.slow
def test_a_study_runs_goes_on_and_tells_of_failures(tmp_path: Path, clips: Path,
                                                   capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, clips)
    assert study.main([str(path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert "| vicreg | stgcn++ | 1 |" in text and "| statistics | - | 1 |" in text and "| random, calibrated |" in text
    found = tmp_path / "study/clean/vicreg-stgcn++-0/Mannequin/results.json"
    before = found.stat().st_mtime_ns
    other = {"objectives": ["vicreg"], "encoders": ["stgcn++"], "settings": ["batch_size=5000"]}
    assert study.main([str(written(tmp_path, clips, runs=[other]))]) == 2
    assert "clean/vicreg-stgcn++-0 was made with other settings; name another output" in capfd.readouterr().err
    runs = [{"objectives": ["vicreg"], "encoders": ["stgcn++"]}, {**other, "seeds": [1]}]
    assert study.main([str(written(tmp_path, clips, runs=runs))]) == 1
    assert found.stat().st_mtime_ns == before
    assert "1 of 1 runs failed, such as clean/vicreg-stgcn++-1" in capfd.readouterr().err
